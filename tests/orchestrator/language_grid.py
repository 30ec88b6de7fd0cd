"""A small grid for tests of the grid language, with changes to its text."""

from pathlib import Path

import polars as pl
import pytest

from orch_core.errors import GridError
from orch_core.grid.cells import enumerate_cells
from orch_core.grid.check import read_grid

BASE = """\
study: language
sources:
  ct: {path: ct.npz, modality: ct, images: 40000}
  mr: {path: mr.npz, modality: mr, images: 60000}
  us: {path: us.npz, modality: us, images: 10000}
tasks:
  task: {path: task.npz, kind: multi-class, classes: 4, train: 100, val: 10, test: 50}
mixes:
  all: [ct, mr, us]
  two: {ct: 1, us: 1}
axes:
  model: [{name: a, width: 64, depth: 2}, {name: b, width: 128, depth: 2}]
  algorithm: mae@1
  images: [1000, 8000]
  mix: all
  resolution: 32
  patch: 8
  samples_seen: 64000
training:
  batch: 64
probes:
  tasks: [task]
"""


def frame_of(tmp_path: Path, *changes: tuple[str, str]) -> pl.DataFrame:
    text = BASE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "grid.yaml").write_text(text)
    return enumerate_cells(read_grid(tmp_path / "grid.yaml"))


def problem_of(tmp_path: Path, *changes: tuple[str, str]) -> tuple[int, int, str]:
    with pytest.raises(GridError) as caught:
        frame_of(tmp_path, *changes)
    (problem,) = caught.value.problems
    return problem.line, problem.column, problem.message
