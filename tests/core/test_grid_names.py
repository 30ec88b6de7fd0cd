"""Values that a grid may not give: names that leave their folder, parts of samples, kinds that the labels are not."""

from pathlib import Path

import numpy as np
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


def test_a_tilde_is_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert (
        read(tmp_path, GRID.replace("path: ct.npz", "path: ~/ct.npz")).file("ct")
        == tmp_path / "home" / "ct.npz"
    )


@pytest.mark.parametrize(
    ("declared", "classes", "columns", "fault"),
    [
        ("binary-class", 3, 1, "3 classes"), ("multi-class", 3, 3, "3 label columns"), ("ordinal-regression", 3, 3, "3 label columns"),
        ("multi-label", 3, 1, "one label column"), ("binary-class", 2, 1, ""), ("multi-class", 3, 1, ""), ("multi-label", 3, 3, ""),
    ],
)  # fmt: skip
def test_a_task_is_of_the_kind_that_its_labels_are(
    tmp_path: Path, declared: str, classes: int, columns: int, fault: str
):
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        labels = np.arange(30) % classes
        one_hot = (labels[:, None] == np.arange(classes)).astype(np.int64)
        arrays[f"{split}_images"] = rng.integers(0, 255, (30, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = one_hot if columns > 1 else labels[:, None].astype(np.int64)
    np.savez(tmp_path / "task.npz", **arrays)
    text = GRID.replace(
        "{path: task.npz, kind: multi-class, classes: 4, train: 100, val: 10, test: 50}",
        f"{{path: task.npz, kind: {declared}}}",
    )
    if not fault:
        read(tmp_path, text)
        return
    with pytest.raises(GridError, match=fault):
        read(tmp_path, text)


def test_a_batch_of_one_is_refused_where_images_are_compared(tmp_path: Path):
    alone = GRID.replace("batch: 64", "batch: 1")
    read(tmp_path, alone)
    with pytest.raises(GridError, match="moco-v3@1 compares the images of a batch"):
        read(tmp_path, alone.replace("[mae@1]", "[mae@1, moco-v3@1]"))
