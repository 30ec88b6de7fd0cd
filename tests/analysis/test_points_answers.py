"""The report of a table of points: factors of the user's, joint laws, and sentences that are true for few points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from orch_analysis.fitting.options import FitOptions
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.forecast.groups import fit_groups
from orch_analysis.reports import points_figures
from orch_analysis.reports.blocks.factor_sentences import factor_answer, strength
from orch_analysis.reports.blocks.fit_tables import estimate
from orch_analysis.reports.blocks.page_figures import draw_all
from orch_analysis.reports.points_findings import points_findings
from orch_analysis.reports.points_page import points_page
from orch_analysis.tables.points_file import load_points
from orch_core.errors import OrchError

FILES = dict.fromkeys(("fits", "slopes", "correlations"), ())
POWER = FitOptions(value="error", x={"params": "params"})


def scores(key: str = "task", tasks: int = 6, seed: int = 0) -> pl.DataFrame:
    """Errors of six tasks at five sizes; `contrast` decides the slope, `noise` does not, `depth` varies within a task."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(tasks):
        contrast, noise = 1.0 + index, float(rng.normal())
        for step, params in enumerate((1e6, 3e6, 1e7, 3e7, 1e8)):
            error = 0.5 * params ** (-0.02 * contrast) * np.exp(0.005 * rng.standard_normal())
            rows.append({key: f"t{index}", "params": params, "error": error, "contrast": contrast,
                         "noise": noise, "depth": step, "same": 3.0, "site": "x"})  # fmt: skip
    return pl.DataFrame(rows)


def findings(frame: pl.DataFrame, wanted: tuple[str, ...] = (), **options):
    points = load_points(frame)
    groups = tuple(name for name in ("dataset", "task") if name in frame.columns)
    fits = fit_groups("power", points, replace(POWER, **options), by=groups)
    return points_findings(points, fits, wanted, 0)


def page(found):
    return points_page(found, draw_all((), found, None), FILES, "orch fit-laws")


def all_text(found) -> str:
    built = page(found)
    answers = [f"{one.claim} {one.numbers}" for one in built.answers]
    blocks = [block for section in built.sections for block in section.blocks]
    words = [" ".join((*getattr(block, "paragraphs", ()), *getattr(block, "items", ()))) for block in blocks]
    return " ".join([built.lead, *answers, *words])


@pytest.mark.parametrize("key", ["task", "dataset"])
def test_numeric_columns_with_one_value_per_task_are_factors(key):
    found = findings(scores(key))
    assert list(found.names) == ["contrast", "noise"]
    r = dict(found.correlations.select("factor", "pearson").iter_rows())
    assert r["contrast"] < -0.99
    text = all_text(found)
    assert "The factors of this report are contrast and noise." in text
    assert "The family is 2 tests: 2 factors in 1 group of slopes." in text


def test_a_factor_is_selected_by_name():
    found = findings(scores(), ("noise",))
    assert list(found.names) == ["noise"]
    assert "The family is 1 test: 1 factor in 1 group of slopes." in all_text(found)


@pytest.mark.parametrize("name", ["depth", "site", "same", "missing"])
def test_what_is_not_a_factor_is_an_error_that_lists_the_factors(name):
    with pytest.raises(OrchError, match="is not a factor here") as error:
        findings(scores(), (name,))
    assert "contrast and noise" in error.value.hint


def test_columns_that_the_fit_reads_are_no_factors():
    frame = scores().with_columns(se=0.01 * pl.col("contrast"))
    assert "se" in findings(frame).names
    assert "se" not in findings(frame, stderr="se", bootstrap=50).names


def test_dataset_and_task_together_name_a_task():
    first = scores().with_columns(dataset=pl.lit("a"))
    second = scores(seed=1).with_columns(dataset=pl.lit("b"), contrast=10 - pl.col("contrast"))
    found = findings(pl.concat([first, second]))
    assert found.slopes.height == 12
    assert set(found.slopes["task"]) == {f"{dataset} · t{index}" for dataset in "ab" for index in range(6)}
    assert "contrast" in found.names


def test_every_law_with_estimates_counts_as_fitted():
    frame = pl.DataFrame({"params": [1e6, 3e6, 1e7, 3e7, 1e8, 3e8], "loss": [3.0, 2.6, 2.3, 2.1, 2.0, 1.94]})
    points = load_points(frame)
    fits = fit_groups("power_offset", points, FitOptions(bootstrap=20))
    assert fits[0].estimates
    facts = {name: value for value, name in page(points_findings(points, fits, (), 0)).facts}
    assert facts["laws fitted"] == "1 of 1"
    assert ("laws with a warning" in facts) is (fits[0].outcome is not Outcome.OK)


@pytest.fixture(scope="module")
def joint():
    rng = np.random.default_rng(1)
    n, d = (np.repeat(10 ** np.linspace(6, 8, 5), 5), np.tile(10 ** np.linspace(7, 9, 5), 5))
    loss = (30 / n**0.3 + 60 / d**0.25) * np.exp(0.005 * rng.standard_normal(25))
    points = load_points(pl.DataFrame({"params": n, "samples": d, "loss": loss}))
    return points, fit_groups("chinchilla", points, FitOptions(bootstrap=50))


def test_joint_laws_have_a_figure_with_a_curve_per_value(joint, tmp_path):
    points, fits = joint
    found = points_findings(points, fits, (), 0)
    drawn = draw_all(points_figures.FIGURES, found, tmp_path)
    assert [picture.name for picture in drawn.of("laws")] == ["joint"]
    (axes,) = points_figures._joint_laws(found).axes
    curves = [line for line in axes.get_lines() if len(line.get_xdata()) == 40]
    assert len(curves) == 5
    fit = fits[0]
    x, y = curves[0].get_data()
    at = {"params": float(x[3]), "samples": 1e7}
    assert y[3] == pytest.approx(fit.predict(**at)["value"][0])


def test_an_estimate_at_its_bound_says_so(joint):
    """The data have no floor: E ends at zero."""
    fit = joint[1][0]
    assert fit.outcome is Outcome.AT_BOUND
    assert estimate(fit, "E").startswith("0 (at the bound) [0, ")
    assert "bound" not in estimate(fit, "alpha")


def test_three_tasks_can_say_nothing_and_no_r_is_above_one():
    assert "needs 4" in strength(3)
    found = findings(scores(tasks=3))
    (answer,) = factor_answer(found.correlations, "the slopes")
    assert "1.00" not in answer.numbers.replace("r = 1.00", "").replace("r = −1.00", "")
    assert "The interval of a correlation needs 4 tasks; there are 3." in answer.numbers


def test_factors_are_drawn_on_the_scale_that_r_is_computed_on():
    frame = scores().with_columns(n_total=10 ** pl.col("contrast"))
    found = findings(frame)
    figure = next(one for one in points_figures.FIGURES if one.name == "factors").draw(found)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}
    assert panels["#samples (all splits)"].get_xscale() == "linear"


def test_the_command_line_selects_factors(tmp_path):
    from click.testing import CliRunner

    from orch.cli import main

    scores().write_csv(tmp_path / "points.csv")
    command = ["fit-laws", str(tmp_path / "points.csv"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*command, "--factor", "contrast"])
    assert done.exit_code == 0, done.output
    table = pl.read_csv(tmp_path / "out" / "tables" / "correlations.csv")
    assert table["factor"].to_list() == ["contrast"]
    wrong = CliRunner().invoke(main, [*command, "--factor", "depth"])
    assert wrong.exit_code == 2
    assert "contrast and noise" in wrong.output


def test_every_figure_belongs_to_a_section_of_the_page():
    sections = {section.id for section in page(findings(scores())).sections}
    sections |= {"benefits"}  # of scores out of 1
    assert {figure.section for figure in points_figures.FIGURES} <= sections


def test_a_report_of_many_tasks_says_what_its_page_leaves_out_and_where_it_is():
    """70 tasks: the page has 24 panels, and 60 rows of the forest and of each table."""
    found = findings(scores(tasks=70).with_columns(params_encoder=pl.col("params") * 2))
    assert len(points_figures._lines(found)) == 24
    assert "24 of 70 laws are drawn; laws.json has all of them." in points_figures._laws_caption(found)
    left_out = "60 of 70 slopes, those of largest size, are drawn; tables/slopes.csv has all of them."
    assert left_out in points_figures._forest_caption(found)
    tables = [block for section in page(found).sections for block in section.blocks if hasattr(block, "rows")]
    long = {table.name: table for table in tables if table.name != "table-correlations"}
    assert set(long) == {"table-fits", "table-axes"}
    for table in long.values():
        assert len(table.rows) == 60
        assert "The first 60 of 70 rows; the files have all." in table.note
    largest = found.slopes.sort(pl.col("slope").abs(), descending=True)["task"][:60]
    for rows in points_figures._largest(found).values():
        assert {row.task for row in rows} == set(largest)


def test_a_group_without_a_name_is_drawn_and_has_slopes_along_both_axes():
    frame = scores().with_columns(
        params_encoder=pl.col("params") ** 2, task=pl.col("task").replace("t2", None)
    )
    found = findings(frame)
    first, second = found.axes.values()
    assert [row.task for row in second] == [row.task for row in first]
    assert "(missing)" in [row.task for row in first]
    assert [row.slope for row in second] == pytest.approx([row.slope / 2 for row in first])
    titles = [axes.get_title(loc="left") for axes in points_figures._laws(found).axes]
    assert "(missing)" in titles
