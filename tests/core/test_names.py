"""Names of cells: unique, with what varies in them, and as they were where nothing new varies."""

from pathlib import Path

import polars as pl
import pytest

from orch_core.cell import Cell, cell_from_json
from orch_core.grid.cells import enumerate_cells
from orch_core.grid.check import read_grid
from orch_core.grid.columns import cell_of
from orch_core.grid.names import cell_names

GRID = """\
study: named
sources:
  ct: {path: ct.npz, modality: ct, images: 9000}
tasks:
  task: {path: task.npz, kind: multi-class, classes: 4, train: 100, val: 10, test: 50}
axes:
  model: [{name: a, width: 64, depth: 2}, {name: b, width: 128, depth: 2}]
  algorithm: [mae@1, random@1, pixels@1]
  images: [100, 2000]
  seed: [0, 1]
  resolution: [32]
  patch: [8]
  samples_seen: [6400]
training: {batch: 64}
"""
GRIDS = Path(__file__).parents[1] / "data" / "grids"


def names_of(folder: Path, *changes: tuple[str, str]) -> dict[str, Cell]:
    text = GRID
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (folder / "grid.yaml").write_text(text)
    frame = enumerate_cells(read_grid(folder / "grid.yaml"))
    names = cell_names(frame)
    assert names.n_unique() == names.len() == frame.height
    return {name: cell_of(row, name) for row, name in zip(frame.iter_rows(named=True), names, strict=True)}


def test_without_further_axes_a_name_is_algorithm_model_mix_images_and_seed(tmp_path: Path):
    found = names_of(tmp_path)
    assert {"mae-a-all-100-s0", "mae-b-all-2000-s1", "random-a-s0", "pixels-s0"} <= set(found)
    for name, cell in found.items():
        assert cell_from_json({**cell.to_json(), "label": ""}).name == name  # as before names had labels


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("[6400]", "[6400, 12800]", "mae-a-all-100-12800seen-s0"),
        ("resolution: [32]", "resolution: [32, 64]", "mae-a-all-100-64px-s0"),
        ("patch: [8]", "patch: [8, 16]", "mae-a-all-100-p16-s0"),
        ("training:", "overrides: {mae@1: {mask_ratio: [0.5, 0.75]}}\ntraining:", "mae-a-all-100-mask_ratio0.75-s0"),
        ("training: {batch: 64}", "training: {batch: 64, cooldown: 0.2, warmup_samples: 640}", "mae-a-all-100-s0"),
        ("{name: b, width: 128, depth: 2}", "{name: a, width: 128, depth: 2}", "mae-a-all-100-w128-h2-s0"),
    ],
)  # fmt: skip
def test_whatever_varies_enters_the_name(tmp_path: Path, old: str, new: str, name: str):
    before = {cell.id for cell in names_of(tmp_path).values()}
    found = names_of(tmp_path, (old, new))
    assert name in found
    kept = before & {cell.id for cell in found.values()}
    assert kept or "cooldown" in new  # names change, ids do not


def test_cells_that_still_share_a_name_have_their_ids_in_it(tmp_path: Path):
    frame = enumerate_cells(read_grid(GRIDS / "vit-family.yaml")).head(3)
    same = pl.concat(
        [frame, frame.head(1).with_columns(id=pl.lit("f" * 32), data=pl.lit("[]", pl.Categorical))]
    )
    names = cell_names(same)
    assert names.n_unique() == 4
    assert names.to_list()[-1].endswith("-ffffffff")


def test_lengths_that_follow_from_the_budget_are_not_repeated():
    frame = enumerate_cells(read_grid(GRIDS / "chinchilla-isoflop.yaml"))
    assert cell_names(frame).n_unique() == frame.height
