"""Diffs of plans against sets of ids in plain Python, and reasons against the fields of the cells themselves."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orch.planning.diff import LABELS, diff
from orch.planning.planner import PlanOptions, make_plan, plan_grid
from orch_core.errors import OrchError
from orch_core.grid.cells import enumerate_cells
from orch_core.grid.check import read_grid
from orch_core.grid.columns import cell_of
from orch_core.study.plan import open_plan, read_plan

GRID = """\
study: changes
sources:
  ct: {{path: ct.npz, modality: ct, images: 40000}}
  mr: {{path: mr.npz, modality: mr, images: 60000}}
tasks:
  task: {{path: task.npz, kind: multi-class, classes: 4, train: 100, val: 10, test: 50}}
mixes:
  all: [ct, mr]
  ct: [ct]
axes:
  model: [{{name: a, width: {width}, depth: 2}}, {{name: b, width: 128, depth: 2}}]
  algorithm: [mae@1, random@1]
  images: {images}
  mix: [all, ct]
  seed: {seeds}
  resolution: 32
  patch: 8
  samples_seen: {samples}
training:
  batch: {batch}
  precision: {precision}
overrides:
  mae@1: {{mask_ratio: {ratio}}}
probes:
  tasks: [task]
"""
DEFAULT = {
    "width": 64,
    "images": [100, 2000],
    "seeds": [0, 1],
    "samples": 6400,
    "batch": 64,
    "precision": "fp32",
    "ratio": 0.75,
}
choices = st.fixed_dictionaries(
    {
        "width": st.sampled_from([64, 96]),
        "images": st.lists(st.sampled_from([100, 2000, 30000]), min_size=1, unique=True),
        "seeds": st.lists(st.integers(0, 3), min_size=1, unique=True),
        "samples": st.lists(st.sampled_from([6400, 12800]), min_size=1, unique=True),
        "batch": st.sampled_from([32, 64]),
        "precision": st.sampled_from(["fp32", "bf16"]),
        "ratio": st.sampled_from([0.5, 0.75, [0.5, 0.75]]),
    }
)


def frame_of(folder: Path, **given: object) -> pl.DataFrame:
    (folder / "grid.yaml").write_text(GRID.format(**{**DEFAULT, **given}))
    return enumerate_cells(read_grid(folder / "grid.yaml"))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(choices, choices)
def test_every_cell_is_in_the_group_given_by_sets_of_ids(tmp_path: Path, before: dict, after: dict):
    old, new = frame_of(tmp_path, **before), frame_of(tmp_path, **after)
    changes = diff(old, new)
    olds, news = set(old["id"]), set(new["id"])
    assert set(changes.keep["id"]) == olds & news
    assert set(changes.create["id"]) | set(changes.changed["id"]) == news - olds
    assert set(changes.drop["id"]) | set(changes.changed["old_id"]) == olds - news
    assert sum(changes.counts().values()) == len(olds | news) - changes.changed.height
    assert changes.keep.height == len(olds & news)
    cells = {row["id"]: cell_of(row) for frame in (old, new) for row in frame.iter_rows(named=True)}
    rows = {row["id"]: row for frame in (old, new) for row in frame.iter_rows(named=True)}
    for row in changes.changed.iter_rows(named=True):
        mine, other = cells[row["id"]].identity(), cells[row["old_id"]].identity()
        assert all(rows[row["id"]][label] == rows[row["old_id"]][label] for label in LABELS)
        differ = {field for field in mine if mine[field] != other[field]}
        named = {part.split(" ")[0] for part in row["reason"].split("; ")}
        assert {"model" if name in {"width", "heads"} else name for name in named} == differ
    # no created cell has a dropped one of its labels left: it would be a change
    left = [tuple(row[label] for label in LABELS) for row in changes.create.iter_rows(named=True)]
    gone = [tuple(row[label] for label in LABELS) for row in changes.drop.iter_rows(named=True)]
    assert not set(left) & set(gone)


def test_the_same_plan_changes_nothing(tmp_path: Path):
    frame = frame_of(tmp_path)
    assert diff(frame, frame.reverse()).counts() == {
        "create": 0,
        "keep": frame.height,
        "drop": 0,
        "changed": 0,
    }
    assert diff(frame.clear(), frame).counts()["create"] == frame.height
    assert diff(frame, frame.clear()).counts()["drop"] == frame.height


def test_orch_plan_diff_compares_with_the_studys_plan_and_writes_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame_of(tmp_path)
    plan, study = make_plan(tmp_path / "grid.yaml")
    kept = (study.root / "plan.parquet").read_bytes()
    frame_of(tmp_path, batch=32, seeds=[0, 7])
    made = plan_grid(tmp_path / "grid.yaml", None, PlanOptions(against=""))
    document, text = made.to_json(), made.text
    # 8 mae cells of seed 0 change; of seed 1 they go, of seed 7 they come; controls do not depend on the batch
    assert document["diff"]["counts"] == {"create": 8 + 2, "keep": 2, "drop": 8 + 2, "changed": 8}
    assert {row["reason"] for row in document["diff"]["changed"]} == {"batch 64 -> 32"}
    assert "batch 64 -> 32" in text
    assert (study.root / "plan.parquet").read_bytes() == kept
    (archived,) = (study.root / "plans").iterdir()
    made = plan_grid(tmp_path / "grid.yaml", None, PlanOptions(against=str(archived)))
    again, _ = made.to_json(), made.text
    assert again["diff"] == document["diff"]
    assert plan.hash[:12] == archived.stem


def test_a_plans_file_is_the_plan_and_refuses_to_be_changed(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame_of(tmp_path)
    plan, study = make_plan(tmp_path / "grid.yaml")
    (path,) = (study.root / "plans").iterdir()
    opened, where = open_plan(path)
    assert where.root == study.root
    assert opened.hash == plan.hash
    assert [job.to_json() for job in opened.jobs()] == [job.to_json() for job in plan.jobs()]
    metadata = pl.read_parquet_metadata(path)
    frame = pl.read_parquet(path)
    frame.head(frame.height - 1).write_parquet(path, metadata={"orch": metadata["orch"]})
    with pytest.raises(OrchError, match="was changed after it was written"):
        open_plan(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(OrchError, match="not a readable plan"):
        open_plan(path)


def test_orch_plan_diff_counts_the_probes_of_the_cells_that_stay(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame_of(tmp_path)
    plan, _ = make_plan(tmp_path / "grid.yaml")
    text = (tmp_path / "grid.yaml").read_text()
    task = "{path: other.npz, kind: multi-class, classes: 3, train: 90, val: 9, test: 30}"
    (name,) = [probe.task for probe in plan.probes]
    changed = text.replace(f"tasks:\n  {name}:", f"tasks:\n  other: {task}\n  {name}:", 1)
    changed = changed.replace(f"tasks: [{name}]", f"tasks: [{name}, other]\n  train_limit: 7", 1)
    assert changed.count("other") == 3
    (tmp_path / "grid.yaml").write_text(changed)
    made = plan_grid(tmp_path / "grid.yaml", None, PlanOptions(against=""))
    cells = plan.frame.height
    assert made.to_json()["diff"]["counts"] == {"create": 0, "keep": cells, "drop": 0, "changed": 0}
    assert made.to_json()["diff"]["probes"] == [
        {"task": name, "change": "changed", "reason": "train_limit 0 -> 7", "cells": cells},
        {"task": "other", "change": "added", "reason": "", "cells": cells},
    ]
    assert f"probes of the {cells} kept cells: {cells} added, {cells} changed, 0 dropped" in made.text


def test_a_plan_of_another_study_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame_of(tmp_path)
    _, study = make_plan(tmp_path / "grid.yaml")
    text = (tmp_path / "grid.yaml").read_text()
    (tmp_path / "grid.yaml").write_text(text.replace(f"study: {study.name}", "study: stranger", 1))
    _, stranger = make_plan(tmp_path / "grid.yaml")
    study.plan_table.write_bytes(stranger.plan_table.read_bytes())
    with pytest.raises(OrchError, match="of another study: 'stranger'"):
        read_plan(study)
