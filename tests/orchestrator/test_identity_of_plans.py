"""Identity by the grid: what says where a cell runs changes no id, what can change numbers changes exactly its cells."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orch_core.grid.cells import enumerate_cells
from orch_core.grid.check import read_grid
from orch_core.grid.columns import cell_of
from orch_core.identity import split_ids
from orch_core.study.draft import draft

GRID = """\
study: identity
sources:
  ct: {path: ct.npz, modality: ct, images: 40000}
  mr: {path: mr.npz, modality: mr, images: 60000}
tasks:
  task: {path: task.npz, kind: multi-class, classes: 4, train: 100, val: 10, test: 50}
mixes:
  all: [ct, mr]
  ct: [ct]
axes:
  model: [{name: a, width: 64, depth: 2}, {name: b, width: 128, depth: 2}]
  algorithm: [mae@1, moco-v3@1, random@1, pixels@1]
  images: [100, 2000]
  mix: [all, ct]
  seed: [0, 1]
  resolution: 32
  patch: 8
  samples_seen: 6400
training:
  batch: 64
probes:
  tasks: [task]
"""


def cells_of(folder: Path, *changes: tuple[str, str]) -> dict[str, dict]:
    text = GRID
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (folder / "grid.yaml").write_text(text)
    frame = enumerate_cells(read_grid(folder / "grid.yaml"))
    return {row["id"]: row for row in frame.iter_rows(named=True)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("training:", "cluster: {partition: gpu, account: lab, gpus_per_node: 8, nodes: 4, time: '1:00:00'}\ntraining:"),
        ("training:", "cluster: {device: H100, usd_per_gpu_hour: 3, parallel: 9, sbatch: {mem: 80G}}\ntraining:"),
        ("training:", "cluster: {classes: [{name: big, when: params > 1e5, partition: p}]}\ntraining:"),
        ("training:", "budget: {gpu_hours: 10}\ntraining:"),
        ("path: ct.npz", "path: elsewhere/ct.npz"),
        ("modality: ct", "modality: computed tomography"),
        ("study: identity", "study: other-name"),
        ("name: a,", "name: tiny,"),
        ("name: a, width: 64, depth: 2}", "name: a, width: 64, depth: 2, heads: 1}"),
        ("tasks: [task]", "tasks: [task]\n  train_limit: 50"),
        ("batch: 64", "batch: 64\n  precision: fp32\n  channels: 3\n  subset_seed: 0"),
        ("  all: [ct, mr]", "  all: [mr, ct]"),
        ("  all: [ct, mr]", "  all: {ct: 4, mr: 6}"),
        ("seed: [0, 1]", "seed: [1, 0]"),
        ("samples_seen: 6400", "samples_seen: 6410"),
    ],
)  # fmt: skip
def test_where_and_how_it_runs_changes_no_id(tmp_path: Path, old: str, new: str):
    assert set(cells_of(tmp_path, (old, new))) == set(cells_of(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "affected"),
    [
        ("width: 64", "width: 96", lambda row: row["model"] == "a"),
        ("batch: 64", "batch: 128", lambda row: row["images"] > 0),
        ("samples_seen: 6400", "samples_seen: 12800", lambda row: row["images"] > 0),
        ("batch: 64", "batch: 64\n  precision: bf16", lambda row: True),
        ("batch: 64", "batch: 64\n  channels: 1", lambda row: True),
        ("batch: 64", "batch: 64\n  subset_seed: 1", lambda row: row["images"] > 0),
        ("resolution: 32", "resolution: 64", lambda row: True),
        ("patch: 8", "patch: 4", lambda row: True),
        ("seed: [0, 1]", "seed: [0, 2]", lambda row: row["seed"] == 1),
        ("images: [100, 2000]", "images: [100, 3000]", lambda row: row["images"] == 2000),
        ("images: 40000}", "images: 40001}", lambda row: row["images"] > 0),
        ("  all: [ct, mr]", "  all: {ct: 1, mr: 1}", lambda row: row["mix"] == "all"),
        ("training:", "overrides: {mae@1: {mask_ratio: 0.6}}\ntraining:", lambda row: row["algorithm"] == "mae"),
    ],
)  # fmt: skip
def test_what_can_change_numbers_changes_exactly_the_affected_cells(
    tmp_path: Path, old: str, new: str, affected
):
    before, after = cells_of(tmp_path), cells_of(tmp_path, (old, new))
    for cell, row in before.items():
        assert (cell not in after) == bool(affected(row)), row


def test_cells_shared_by_two_grids_have_one_id(tmp_path: Path):
    first = cells_of(tmp_path)
    second = cells_of(
        tmp_path, ("study: identity", "study: two"), ("images: [100, 2000]", "images: [2000, 9000]")
    )
    shared = set(first) & set(second)
    assert {row["images"] for cell, row in first.items() if cell in shared} == {0, 2000}
    assert all(cell_of(first[cell]).identity() == cell_of(second[cell]).identity() for cell in shared)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    widths=st.lists(st.sampled_from([32, 64, 96, 128, 192]), min_size=1, max_size=3, unique=True),
    images=st.lists(st.integers(1, 100_000), min_size=1, max_size=4, unique=True),
    seeds=st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=3, unique=True),
    patch=st.sampled_from([4, 8, 16]),
    length=st.sampled_from(["samples_seen: 6400", "epochs: [1, 3.5]", "flops: [1e12, 3e13]"]),
    ratios=st.sampled_from(["0.75", "[0.5, 0.9]"]),
)
def test_the_column_and_the_cell_agree_on_every_id_of_random_grids(
    tmp_path: Path, widths, images, seeds, patch, length, ratios
):
    models = ", ".join(f"{{name: w{width}, width: {width}, depth: 2}}" for width in widths)
    rows = cells_of(
        tmp_path,
        ("model: [{name: a, width: 64, depth: 2}, {name: b, width: 128, depth: 2}]", f"model: [{models}]"),
        ("images: [100, 2000]", f"images: {images}"),
        ("mix: [all, ct]", "mix: all"),
        ("seed: [0, 1]", f"seed: {seeds}"),
        ("patch: 8", f"patch: {patch}"),
        ("samples_seen: 6400", length),
        ("training:", f"overrides: {{mae@1: {{mask_ratio: {ratios}}}}}\ntraining:"),
    )
    for cell, row in rows.items():
        assert cell_of(row).id == cell
        assert cell_of(row).steps == row["steps"]
        assert row["images"] == 0 or row["samples_seen"] > 0


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=1))
def test_halves_are_the_inverse_of_hexadecimal_digits(pairs):
    ids = pl.Series([f"{high:016x}{low:016x}" for high, low in pairs])
    high, low = split_ids(ids).T
    assert list(zip(high.tolist(), low.tolist(), strict=True)) == pairs


def test_a_plans_hash_is_of_its_set_of_cells_and_probes(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def hash_of(*changes: tuple[str, str]) -> str:
        cells_of(tmp_path, *changes)
        return draft(tmp_path / "grid.yaml")[0].hash

    plain = hash_of()
    assert hash_of(("seed: [0, 1]", "seed: [1, 0]")) == plain
    assert hash_of(("training:", "cluster: {device: A100}\ntraining:")) == plain
    assert hash_of(("seed: [0, 1]", "seed: [0, 2]")) != plain
    assert hash_of(("tasks: [task]", "tasks: [task]\n  train_limit: 50")) != plain
