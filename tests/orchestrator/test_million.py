"""A plan at scale (100,000 cells here; tests/bench/bench_plan.py goes to ten millions): exact ids, prices, states, diffs."""

import random
from pathlib import Path

import polars as pl
import pytest

from orch.planning.diff import diff
from orch.planning.planner import make_plan
from orch_core.cost import price
from orch_core.grid.cells import enumerate_cells
from orch_core.grid.check import read_grid
from orch_core.grid.columns import cell_of
from orch_core.study.plan import read_plan
from orch_core.study.record import Record
from orch_core.study.stored import publish
from orch_core.study.summary import summary

GRID = """\
study: many
sources:
  a: {path: a.npz, modality: ct, images: 20000000}
  b: {path: b.npz, modality: mr, images: 30000000}
tasks:
  t: {path: t.npz, kind: multi-class, classes: 4, train: 1000, val: 100, test: 100}
mixes:
  all: [a, b]
  a: [a]
axes:
  model: [{family: f, width: [64, 128, 192, 256, 384], depth: [4, 6, 8, 12]}]
  algorithm: [mae@1, moco-v3@1]
  images: {log_space: [1000, 10000000, 25]}
  mix: [all, a]
  seed: {log_space: [1, 100000, 25]}
  resolution: [224]
  patch: [16, 32]
  samples_seen: [1e6]
training: {batch: 1024, precision: bf16}
probes: {tasks: [t]}
cluster: {device: H100}
"""
CELLS = 20 * 2 * 25 * 2 * 25 * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("many")
    (path / "grid.yaml").write_text(GRID)
    return path


@pytest.fixture(scope="module")
def frame(folder: Path) -> pl.DataFrame:
    return enumerate_cells(read_grid(folder / "grid.yaml"))


def test_every_cell_is_there_once(frame: pl.DataFrame):
    assert frame.height == CELLS == 100_000
    assert frame["id"].n_unique() == CELLS
    axes = ("recipe", "model", "images", "mix", "seed", "patch")
    assert frame.select(axes).n_unique() == CELLS


def test_the_frame_is_in_one_piece_so_that_no_later_step_copies_all_of_it(frame: pl.DataFrame):
    assert frame["recipe"].n_unique() == 2  # each made apart
    assert set(frame.n_chunks("all")) == {1}


def test_a_sample_of_rows_is_its_cells(frame: pl.DataFrame):
    for index in random.Random(0).sample(range(frame.height), 300):
        row = frame.row(index, named=True)
        cell = cell_of(row)
        assert cell.id == row["id"]
        cost = price(cell)
        for name in ("params_encoder", "flops_train", "memory_bytes", "checkpoint_bytes"):
            assert row[name] == getattr(cost, name)


def test_a_plan_of_100_000_cells_is_written_read_and_knows_its_state(folder: Path, monkeypatch):
    monkeypatch.chdir(folder)
    plan, study = make_plan(folder / "grid.yaml")
    done, partial, diverged = plan.frame["id"].sample(30, seed=1).to_list()[:30:10]
    for cell, status in ((done, "done"), (partial, "done"), (diverged, "diverged")):
        study.cell_folder(cell).mkdir()
        publish(study.cell_folder(cell), Record(cell=cell, name="", status=status))
    study.probe_folder(done, plan.probes[0]).mkdir(parents=True)
    publish(study.probe_folder(done, plan.probes[0]), Record(cell=done, name="", status="done", task="t"))
    (study.root / "cells" / "stray").mkdir()  # a stray folder is no cell
    again = read_plan(study)
    states = dict(again.frame.filter(pl.col("state") != "new").select("id", "state").iter_rows())
    assert states == {done: "done", partial: "partial", diverged: "done"}
    assert again.hash == plan.hash
    assert summary(again).states == {"new": CELLS - 3, "partial": 1, "done": 2}
    assert again.frame["id"].equals(plan.frame["id"])
    assert (study.root / "plan.parquet").stat().st_size < 100 * CELLS


def test_a_diff_of_100_000_against_100_000(frame: pl.DataFrame, tmp_path: Path):
    (tmp_path / "grid.yaml").write_text(
        GRID.replace("images: {log_space: [1000", "images: {log_space: [1001")
    )
    other = enumerate_cells(read_grid(tmp_path / "grid.yaml"))
    changes = diff(frame, other)
    assert set(changes.keep["id"]) == set(frame["id"]) & set(other["id"])
    assert changes.create.height == changes.drop.height == CELLS - changes.keep.height
    (tmp_path / "grid.yaml").write_text(GRID.replace("batch: 1024", "batch: 512"))
    changed = diff(frame, enumerate_cells(read_grid(tmp_path / "grid.yaml"))).changed
    assert changed.height == CELLS
    assert changed["reason"].unique().to_list() == ["samples_seen 1000448 -> 999936; batch 1024 -> 512"]
