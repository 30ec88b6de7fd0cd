"""The report: it recovers known laws, repeats byte for byte, holds nothing from outside, and survives poor studies."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from orch_analysis.fitting.options import FitOptions
from orch_analysis.forecast.groups import fit_groups
from orch_analysis.reports.points_report import report_points
from orch_analysis.reports.study_report import report_study
from orch_analysis.saved import laws_json
from orch_analysis.tables import points_file
from orch_core.cell import Model
from orch_core.errors import OrchError

LOSS = {"mae": (-0.12, -0.05), "moco-v3": (-0.06, -0.09)}  # of the made studies, see conftest.py
NET = {"mae": (-0.04, -0.02), "moco-v3": (-0.10, -0.06)}
POINTS = Path(__file__).parents[2] / "experiments" / "published" / "biovfm.csv"
SMALL = Model(name="w32", width=32, depth=4, heads=4)

# The 24 slopes of log AUC on log params that BioVFM-21M's notebook prints, DINOv2 and MAE (arXiv:2505.09329).
PUBLISHED = {
    "derma": (0.0223, 0.0269), "pneumonia": (0.0031, 0.0134), "breast": (0.0124, 0.0318), "chest": (0.0224, 0.0452),
    "oct": (0.0141, 0.0692), "retina": (0.0025, 0.0094), "blood": (0.0016, 0.0037), "tissue": (0.0224, 0.0240),
    "organa": (0.0020, 0.0044), "organc": (0.0024, 0.0063), "organs": (0.0038, 0.0040), "path": (0.0017, 0.0015),
}  # fmt: skip


class Reader(HTMLParser):
    """Collects what a browser would fetch or jump to, ids, and text."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if found.get("id") else []
        self.links += [found["href"]] if tag == "a" and found.get("href") else []
        self.fetched += [found[key] for key in ("src", "data", "srcset") if found.get(key)]
        self.fetched += [tag] if tag in {"script", "link", "iframe", "object", "embed"} else []
        if tag not in {"meta", "br", "hr", "img", "link", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def words(path: Path) -> str:
    return " ".join(" ".join(read(path).text).split())


@pytest.fixture(scope="module")
def exact(make_study):
    """The report of a study without noise."""
    maker = make_study()
    maker.whole()
    return maker.study, report_study(maker.study.root, bootstrap=20)


def test_known_laws_come_back(exact):
    _, page = exact
    table = pl.read_csv(page.parent / "tables" / "slopes.csv").filter(mix="all")
    for algorithm, (size, data) in LOSS.items():
        rows = table.filter(algorithm=algorithm, value="heldout_loss")
        found = dict(rows.select("axis", "slope").iter_rows())
        assert found["params_encoder"] == pytest.approx(size, abs=1e-9)
        assert found["images"] == pytest.approx(data, abs=1e-9)
    for algorithm, (size, data) in NET.items():
        rows = table.filter(algorithm=algorithm, value="error_ratio")
        assert rows.filter(axis="params_encoder")["slope"].to_list() == pytest.approx([size] * 4)
        assert rows.filter(axis="images")["slope"].to_list() == pytest.approx([data] * 4)
    fits = {
        (fit.group["algorithm"], fit.value, *fit.x): fit
        for fit in laws_json.load_laws(page.parent)
        if fit.group["mix"] == "all"
    }
    assert fits["mae", "heldout_loss", "params_encoder"].estimates["slope"] == pytest.approx(-0.12, abs=1e-9)


def test_first_screen_answers_with_intervals(exact):
    text = words(exact[1])
    assert (
        "Held-out pretraining loss falls with encoder parameters (MAE and MoCo v3) and pretraining images (MAE"
        in text
    )
    assert "falls with encoder parameters on 4 of 4 tasks for MAE and 4 of 4 tasks for MoCo v3" in text
    assert (
        "Along encoder parameters: slope −0.120 [−0.120, −0.120] (n = 16 runs at 4 values); doubling changes the loss by −8.0%"
        in text
    )
    assert "Without pretraining, the error falls with encoder size on 4 of 4 tasks." in text
    assert "MoCo v3: test AUC is above that of an untrained encoder of the same size on 4 of 4 tasks." in text
    assert "Samples seen change only together with pretraining images: one slope describes both." in text


def test_page_is_self_contained_and_its_links_lead_somewhere(exact):
    _, page = exact
    reader = read(page)
    assert reader.fetched == []
    assert page.stat().st_size < 3e6
    assert sorted(set(reader.ids)) == sorted(reader.ids)
    for link in reader.links:
        assert link[1:] in reader.ids if link.startswith("#") else (page.parent / link).is_file()
    text = page.read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "url(http" not in text


def test_same_records_same_bytes(exact, tmp_path):
    study, page = exact
    again = report_study(study.root, tmp_path / "again", bootstrap=20)
    names = sorted(path.relative_to(page.parent) for path in page.parent.rglob("*") if path.is_file())
    assert names == sorted(
        path.relative_to(again.parent) for path in again.parent.rglob("*") if path.is_file()
    )
    assert [
        name for name in names if (page.parent / name).read_bytes() != (again.parent / name).read_bytes()
    ] == []


def test_exported_tables_hold_no_path_of_this_machine(exact):
    study, page = exact
    for path in sorted((page.parent / "tables").glob("*.csv")):
        assert str(study.root) not in path.read_text(), path.name


def test_provenance_names_data_grid_versions_and_code(exact):
    study, page = exact
    text = words(page)
    assert "225 records, blake2b" in text
    assert "made.yaml" in text
    assert "torch 2.14.0" in text
    assert "0123abcd0123abcd" in text
    assert f"orch fit-laws {study.root.name}" in text


def test_failures_are_on_the_first_screen_and_escaped(make_study):
    maker = make_study()
    maker.cell("mae", SMALL, "all", 500)
    maker.fail(SMALL, cause="<script>alert(1)</script>")
    page = report_study(maker.study.root)
    assert read(page).fetched == []
    assert "1 result of the plan is missing: 1 <script>alert(1)</script>." in words(page)
    assert "needed 99 GiB" in words(page)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([("mae", SMALL, "all", 500)], "No axis has the 3 finished values"),
        ([("pixels", None, "", 0)], "No axis has the 3 finished values"),
        (
            [("random", SMALL, "", 0), ("mae", SMALL, "all", 500), ("mae", SMALL, "all", 1000)],
            "untrained encoder of the same size on",
        ),
    ],
)
def test_poor_studies_still_get_a_page(make_study, cells, said):
    maker = make_study()
    for cell in cells:
        maker.cell(*cell)
    assert said in words(report_study(maker.study.root))


def test_pretraining_without_probes(make_study):
    maker = make_study()
    for width in (32, 64, 128):
        maker.cell("mae", Model(name=f"w{width}", width=width, depth=4, heads=4), "all", 500, probes=False)
    page = report_study(maker.study.root)
    assert "MAE: held-out loss falls with encoder parameters." in words(page)
    assert not (page.parent / "figures" / "scores.svg").exists()


def test_task_files_that_are_gone_leave_a_note(make_study):
    maker = make_study()
    maker.cell("mae", SMALL, "all", 500)
    maker.plan()
    (maker.npz / "tissue.npz").unlink()
    assert "factors cannot be computed" in words(report_study(maker.study.root))


def test_nothing_finished_says_what_to_do(make_study):
    maker = make_study()
    maker.fail(SMALL)
    with pytest.raises(OrchError, match=r"no finished cell \(1 out_of_memory\)") as error:
        report_study(maker.study.root)
    assert "orch launch" in error.value.hint


def test_a_folder_that_cannot_be_written(make_study, tmp_path):
    maker = make_study()
    maker.cell("mae", SMALL, "all", 500)
    (tmp_path / "file").touch()
    with pytest.raises(OrchError, match="cannot write the report"):
        report_study(maker.study.root, tmp_path / "file" / "report")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    points = points_file.load_points(POINTS)
    fits = fit_groups(
        "power", points, FitOptions(value="auc", x={"params": "params"}), by=("algorithm", "task")
    )
    return report_points(
        points, fits, tmp_path_factory.mktemp("published"), command="orch fit-laws biovfm.csv"
    )


def test_the_published_slopes(published):
    rows = pl.read_csv(published.parent / "tables" / "slopes.csv").filter(axis="params")
    found = {
        (task, algorithm): slope
        for task, algorithm, slope in rows.select("task", "algorithm", "slope").iter_rows()
    }
    expected = {
        (task, name): slope
        for task, pair in PUBLISHED.items()
        for name, slope in zip(("dinov2", "mae"), pair, strict=True)
    }
    assert found == pytest.approx(
        expected, abs=5.01e-5
    )  # half a unit of the last decimal, and the points' own rounding


def test_how_many_published_slopes_differ_from_zero_depends_on_the_axis(published):
    rows = pl.read_csv(published.parent / "tables" / "slopes.csv")
    assert dict(rows.group_by("axis").agg(pl.col("differs").sum()).iter_rows()) == {
        "params": 2,
        "params_encoder": 10,
    }
    assert (
        "The slope of auc differs from zero along params in 2 of 24 groups and along params_encoder in 10 of 24 groups"
        in words(published)
    )


# Headroom against the published slopes: r = .71 (p .009) and .73 (p .007), Spearman .83 and .81, from the same points
# by an independent script.
def test_headroom_goes_along_with_the_published_slopes(published):
    rows = (
        pl.read_csv(published.parent / "tables" / "correlations.csv").filter(factor="headroom").sort("group")
    )
    assert rows["pearson"].round(2).to_list() == [0.71, 0.73]
    assert rows["p"].round(3).to_list() == [0.009, 0.007]
    assert rows["spearman"].round(2).to_list() == [0.83, 0.81]


def test_report_of_points_is_self_contained_too(published):
    reader = read(published)
    assert reader.fetched == []
    assert all((published.parent / link).is_file() for link in reader.links if not link.startswith("#"))
    assert json.loads((published.parent / "laws.json").read_text())["schema_version"] == 2


def test_points_without_tasks_or_with_another_law(tmp_path):
    frame = pl.DataFrame({"params": [1e6, 3e6, 1e7, 3e7, 1e8, 3e8], "loss": [3.0, 2.6, 2.3, 2.1, 2.0, 1.94]})
    points = points_file.load_points(frame)
    fits = fit_groups("power_offset", points, FitOptions(value="loss", x={"params": "params"}, bootstrap=50))
    text = words(report_points(points, fits, tmp_path, command="orch fit-laws"))
    assert "value = E + A / params^alpha" in text


def test_importing_the_report_draws_nothing():
    code = (
        "import sys, orch_analysis.reports, orch_analysis.reports.points_figures; "
        "print([m for m in ('seaborn', 'matplotlib', 'statsmodels', 'sklearn', 'torch', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
