"""Coverage maps: counts against the plan's rows, marks by state, hours that add up."""

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from orch.cli import main
from orch.planning.map import costs, coverage, render, study_map
from orch.planning.planner import make_plan
from orch_core.files import dumps
from orch_core.study.folder import Study
from orch_core.study.plan import Plan, read_plan
from orch_core.study.record import Reason, Record
from orch_core.study.stored import publish

GRID = """\
study: map
sources:
  ct: {path: ct.npz, modality: ct, images: 40000000}
tasks:
  task: {path: task.npz, kind: multi-class, classes: 4, train: 100, val: 10, test: 50}
mixes:
  all: [ct]
axes:
  model: [ViT-S, ViT-Ti]
  algorithm: [mae@1, pixels@1]
  images: [1000000, 20000]
  mix: all
  seed: [0, 1]
  resolution: 224
  patch: 16
  samples_seen: 1000000
training:
  batch: 256
exclude:
  - model == "ViT-S" and images < 100000
probes:
  tasks: [task]
"""


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, Study]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(GRID)
    plan, study = make_plan(tmp_path / "grid.yaml")
    rows = plan.frame.filter(pl.col("recipe") == "mae@1")

    def ids(model: str, images: int) -> list[str]:
        return rows.filter((pl.col("model") == model) & (pl.col("images") == images))["id"].to_list()

    for cell in ids("ViT-Ti", 20000):  # both seeds done and probed
        for folder, task in (
            (study.cell_folder(cell), ""),
            (study.probe_folder(cell, plan.probes[0]), "task"),
        ):
            folder.mkdir(parents=True)
            publish(folder, Record(cell=cell, name="", status="done", task=task))
    cell = ids("ViT-Ti", 1000000)[0]  # trained, not probed
    study.cell_folder(cell).mkdir()
    publish(study.cell_folder(cell), Record(cell=cell, name="", status="done"))
    attempt = study.cell_folder(ids("ViT-S", 1000000)[1]) / "attempts" / "1"  # failed
    attempt.mkdir(parents=True)
    reason = Reason(cause="out_of_memory", message="no room")
    record = Record(cell=attempt.parent.parent.name, name="", status="failed", reason=reason)
    (attempt / "record.json").write_text(dumps(record.to_json()))
    return read_plan(study), study


def test_marks_and_counts_are_those_of_the_rows(planned):
    plan, study = planned
    cells = {(c["recipe"], c["model"], c["images"]): c for c in coverage(plan, study_map(study).failed)}
    assert {key: cell["mark"] for key, cell in cells.items()} == {
        ("mae@1", "ViT-S", 1000000): "!",
        ("mae@1", "ViT-Ti", 1000000): "+",
        ("mae@1", "ViT-Ti", 20000): "#",
        ("pixels@1", None, 0): ".",
    }
    total = sum(cell[state] for cell in cells.values() for state in ("done", "partial", "failed", "planned"))
    assert total == plan.frame.height
    assert cells["mae@1", "ViT-S", 1000000]["failed"] == 1
    assert cells["mae@1", "ViT-S", 1000000]["planned"] == 1


def test_hours_of_every_axis_add_up_to_the_plan(planned):
    plan, _ = planned
    for rows in costs(plan).values():
        assert sum(whole for *_, whole in rows) == pytest.approx(plan.frame["hours_mid"].sum())
    by_model = {name: (left, whole) for name, left, whole in costs(plan)["model"]}
    assert by_model["ViT-S"][0] == pytest.approx(by_model["ViT-S"][1])  # nothing done
    assert by_model["ViT-Ti"][0] < 0.5 * by_model["ViT-Ti"][1]


def test_the_map_is_plain_text_from_small_to_large(planned):
    plan, study = planned
    lines = render(plan, study_map(study).failed).splitlines()
    at = lines.index("mae@1 all")
    assert lines[at + 1].split() == ["size", "\\", "images", "20", "k", "1", "M"]
    assert lines[at + 2].split() == ["ViT-Ti", "#", "2/2", "+", "0/2"]
    assert lines[at + 3].split() == ["ViT-S", "!", "0/2"]
    assert "\x1b" not in "".join(lines)
    assert json.dumps(coverage(plan))


def test_the_command_prints_one_document_with_json(planned):
    plain = CliRunner().invoke(main, ["map"])
    assert plain.exit_code == 0
    assert "hours by model" in plain.output
    document = json.loads(CliRunner().invoke(main, ["map", "--json"]).stdout)
    assert document["schema_version"] == 1
    assert {cell["mark"] for cell in document["cells"]} == {"#", "+", "!", "."}


def test_the_page_draws_every_square_and_counts_what_the_terminal_does(planned, tmp_path: Path):
    _plan, study = planned
    done = CliRunner().invoke(main, ["map", str(study.root), "--page", "map.html"], catch_exceptions=False)
    assert done.exit_code == 0
    html = (tmp_path / "map.html").read_text()
    plan = read_plan(study)
    for cell in coverage(plan, study_map(study).failed):
        whole = cell["done"] + cell["partial"] + cell["failed"] + cell["planned"]
        assert f">{cell['done']}/{whole}<" in html  # the number in the square
    assert html.count("<svg") == 2
    assert "http://" not in html.replace("http://www.w3.org", "")
    refused = CliRunner().invoke(main, ["map", str(study.root), "--page", "no/such/map.html"])
    assert refused.exit_code == 2
    assert "--page" in refused.output
