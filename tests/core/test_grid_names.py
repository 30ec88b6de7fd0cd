"""Names that a grid gives: checked before they reach a path, in every script; counts are whole numbers."""

from pathlib import Path

import pytest

from orch_core.errors import GridError
from orch_core.grid.check import read_grid
from orch_core.grid.section import name_fault

GRID = """\
study: STUDY
sources:
  SOURCE: {path: ct.npz, modality: MODALITY, images: 9000}
tasks:
  TASK: {path: task.npz, kind: multi-class, classes: 4, train: 100, val: 10, test: 50}
mixes:
  MIX: [SOURCE]
axes:
  model: [{name: MODEL, width: 64, depth: 2}]
  algorithm: [mae@1]
  images: [100]
  mix: MIX
  resolution: [32]
  patch: [8]
  samples_seen: 6400
training: {batch: 64}
"""
GOOD = {"STUDY": "s", "SOURCE": "ct", "MODALITY": "ct", "TASK": "t", "MIX": "all", "MODEL": "m"}


def read(folder: Path, text: str = GRID, **names: str):
    for key, name in (GOOD | names).items():
        text = text.replace(key, name)
    (folder / "grid.yaml").write_text(text, encoding="utf-8")
    return read_grid(folder / "grid.yaml")


@pytest.mark.parametrize("where", sorted(GOOD))
@pytest.mark.parametrize(
    "name", ['"../up"', '".."', '".hidden"', '"a/b"', '"a\\nb"', '"a\\\\b"', '""', '"-rf"', "x" * 101]
)
def test_a_name_that_would_leave_its_folder_is_refused_everywhere(tmp_path: Path, where: str, name: str):
    with pytest.raises(GridError) as caught:
        read(tmp_path, **{where: name})
    assert caught.value.problems


@pytest.mark.parametrize("name", ["röntgen", "胸部", "ct.2024_v-1", "é" * 50])
def test_names_of_every_script_are_allowed(tmp_path: Path, name: str):
    checked = read(tmp_path, **dict.fromkeys(GOOD, name) | {"TASK": f"{name[:40]}t"})
    assert checked.grid.study == name


def test_a_null_character_is_a_fault():
    assert name_fault("a\0b")
    assert not name_fault("computed tomography")


@pytest.mark.parametrize(("samples", "fine"), [("1.5", False), ("0.5", False), ("64.0", True), ("1e4", True)])
def test_samples_are_whole(tmp_path: Path, samples: str, fine: bool):
    text = GRID.replace("samples_seen: 6400", f"samples_seen: {samples}")
    if fine:
        read(tmp_path, text)
        return
    with pytest.raises(GridError, match="whole numbers"):
        read(tmp_path, text)
