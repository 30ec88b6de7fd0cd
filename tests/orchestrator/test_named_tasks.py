"""Tasks in a grid: published ones by name, those that share a source's file, and labels that make no sound task."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from learn_cells import write_images
from test_protocols import GRID

from orch.datasets.packing import pack_sources
from orch_core.errors import GridError
from orch_core.grid.check import read_grid
from orch_core.images import medmnist
from orch_core.images.leaks import leaks
from orch_core.packs.gather import Settings
from orch_core.packs.pack import PackOptions
from orch_core.study.draft import draft


def written(folder: Path, text: str, **sizes) -> Path:
    if not (folder / "bars.npz").exists():
        write_images(folder / "bars.npz", **sizes)
    (folder / "grid.yaml").write_text(GRID + text, encoding="utf-8")
    return folder / "grid.yaml"


def mistakes(folder: Path, text: str) -> list[tuple[int, str]]:
    with pytest.raises(GridError) as caught:
        read_grid(written(folder, text))
    return [(problem.line, problem.message) for problem in caught.value.problems]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder with a file that is, for this test, the published breastmnist at 28 px."""
    folder = tmp_path / "data"
    folder.mkdir()
    path = write_images(folder / "breastmnist.npz", train=50, val=20, test=30)
    entry = medmnist.MEDMNIST["breastmnist"]
    md5 = {**entry.md5, 28: hashlib.md5(path.read_bytes()).hexdigest()}
    monkeypatch.setitem(medmnist.MEDMNIST, "breastmnist", replace(entry, md5=md5))
    monkeypatch.delenv("ORCH_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


def test_the_table_is_medmnists_own():
    """The package's INFO: 12 sets, 707,962 images; the counts of three sets as in Yang et al. 2023, table 2."""
    assert len(medmnist.MEDMNIST) == 12
    assert sum(sum(entry.counts) for entry in medmnist.MEDMNIST.values()) == 707_962
    assert sum(medmnist.MEDMNIST["tissuemnist"].counts) == 236_386
    kinds = {entry.kind for entry in medmnist.MEDMNIST.values()}
    assert kinds == {"multi-class", "binary-class", "multi-label", "ordinal-regression"}
    md5s = [md5 for entry in medmnist.MEDMNIST.values() for md5 in entry.md5.values()]
    assert len(set(md5s)) == len(md5s) == 48
    assert all(len(md5) == 32 and int(md5, 16) for md5 in md5s)
    assert [medmnist.file_name("pathmnist", size) for size in (28, 224)] == [
        "pathmnist.npz",
        "pathmnist_224.npz",
    ]


@pytest.mark.parametrize("where", ["--data", "ORCH_DATA", "~/.medmnist"])
def test_a_named_task_is_found_in_a_data_folder(tmp_path, published, monkeypatch, where):
    if where == "ORCH_DATA":
        monkeypatch.setenv("ORCH_DATA", f"{tmp_path}/nowhere:{published}")
    elif where == "~/.medmnist":
        (tmp_path / "home").mkdir()
        published.rename(tmp_path / "home" / ".medmnist")
    grid = written(tmp_path, "tasks:\n  breast: {task: breastmnist}\nprobes: {tasks: [breast]}\n")
    plan, _, checked = draft(grid, tmp_path / "study", data=published if where == "--data" else None)
    (probe,) = plan.probes
    assert (probe.kind, probe.classes) == ("binary-class", 2)
    assert Path(probe.path).name == "breastmnist.npz"
    assert Path(probe.path).exists()
    assert plan.absent == ()
    assert checked.tasks["breast"].counts == {"train": 50, "val": 20, "test": 30}


def test_a_named_task_without_its_file_is_planned_as_published_and_said_to_be_absent(tmp_path, published):
    grid = written(tmp_path, "tasks:\n  chest: {task: chestmnist, size: 224}\nprobes: {tasks: [chest]}\n")
    plan, _, _ = draft(grid, tmp_path / "study")
    (probe,) = plan.probes
    assert (probe.kind, probe.classes, plan.test_images) == ("multi-label", 14, {"chest": 22433})
    assert plan.absent == ("chest",)


def test_another_file_than_the_published_one_is_a_mistake_at_its_line(tmp_path, published, monkeypatch):
    monkeypatch.setenv("ORCH_DATA", str(published))
    write_images(published / "breastmnist.npz", train=51)
    ((line, message),) = mistakes(tmp_path, "tasks:\n  breast: {task: breastmnist}\n")
    assert line == GRID.count("\n") + 2
    assert "is not the published file: its MD5 is" in message
    assert "name it by `path`" in message


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{task: breastmnits}", "unknown task 'breastmnits' - did you mean 'breastmnist'?"),
        (
            "{task: breastmnist, path: bars.npz}",
            "give `path` (a file) or `task` (a published task), and not both",
        ),
        ("{kind: multi-class}", "give `path` (a file) or `task` (a published task), and not both"),
        ("{task: breastmnist, size: 32}", "28, 64, 128 or 224"),
    ],
)
def test_a_wrong_name_is_a_mistake_at_its_line(tmp_path, published, entry, said):
    found = mistakes(tmp_path, f"tasks:\n  breast: {entry}\n")
    assert [line for line, _ in found] == [GRID.count("\n") + 2]
    assert said in found[0][1]


def test_a_task_may_have_the_name_and_the_file_of_a_source(tmp_path):
    alone = draft(written(tmp_path, ""), tmp_path / "a")[0].probes
    for text in ("tasks:\n  bars: {path: bars.npz}\n", "tasks:\n  bars: {path: ./bars.npz}\n"):
        assert draft(written(tmp_path, text), tmp_path / "b")[0].probes == alone
    other = draft(written(tmp_path, "tasks:\n  stripes: {path: ./bars.npz}\n"), tmp_path / "c")[0].probes
    assert [probe.task for probe in other] == ["stripes"]
    assert other[0].id == alone[0].id


def relabelled(folder: Path, **labels) -> None:
    arrays = dict(np.load(write_images(folder / "odd.npz", classes=3)))
    for split in ("train", "val", "test"):
        arrays[f"{split}_labels"] = labels["change"](arrays[f"{split}_labels"].astype(np.int64), split)
    np.savez(folder / "odd.npz", **arrays)


FAULTS = {
    "from one": (lambda labels, _: labels + 1, "its labels count from 1 to 3: subtract 1"),
    "gaps": (lambda labels, _: labels * 2, "no image has the label 1, 3, and the largest is 4"),
    "one class": (lambda labels, _: labels * 0, "all its labels are the same"),
    "not in test": (
        lambda labels, split: np.minimum(labels, 1) if split == "test" else labels,
        "its test split has no image of class 2",
    ),
    "not in train": (
        lambda labels, split: np.maximum(labels, 1) if split == "train" else labels,
        "its train split has no image of class 0",
    ),
    "one-hot": (lambda labels, _: np.eye(3, dtype=np.int64)[labels[:, 0]], "its labels are one-hot"),
    "columns": (lambda labels, _: np.concatenate([labels, labels], 1), "other values than 0 and 1"),
    "one answer": (
        lambda labels, split: np.concatenate(
            [labels > 0, labels * 0 if split == "test" else labels > 1], 1
        ).astype(int),
        "its test split has one answer alone for label 1",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_labels_that_make_no_sound_task_are_a_mistake_at_its_line(tmp_path, name):
    change, said = FAULTS[name]
    relabelled(tmp_path, change=change)
    ((line, message),) = mistakes(tmp_path, "tasks:\n  odd: {path: odd.npz}\n")
    assert line == GRID.count("\n") + 2
    assert message.startswith("odd cannot be a task: ")
    assert said in message


def test_columns_with_a_single_one_are_labels_where_the_grid_says_so(tmp_path):
    relabelled(tmp_path, change=FAULTS["one-hot"][0])
    text = "tasks:\n  odd: {path: odd.npz, kind: multi-label}\nprobes: {tasks: [odd]}\n"
    assert draft(written(tmp_path, text), tmp_path / "study")[0].probes[0].kind == "multi-label"


def test_a_source_with_such_labels_is_trained_on_but_not_probed(tmp_path):
    relabelled(tmp_path, change=FAULTS["from one"][0])
    (tmp_path / "odd.npz").rename(tmp_path / "bars.npz")
    write_images(tmp_path / "sound.npz")
    plan = draft(written(tmp_path, "tasks:\n  sound: {path: sound.npz}\n"), tmp_path / "study")[0]
    assert [probe.task for probe in plan.probes] == ["sound"]
    assert any(note.startswith("bars: not probed, for its labels count from 1") for note in plan.notes)
    ((line, message),) = mistakes(
        tmp_path, "tasks:\n  sound: {path: sound.npz}\nprobes:\n  tasks: [sound, bars]\n"
    )
    assert line == GRID.count("\n") + 4
    assert "bars cannot be a task" in message


def test_test_images_that_another_file_trains_on_are_counted(tmp_path):
    """30 of the 60 test images and 4 of the 40 val images of a task are put into a source's train split."""
    write_images(tmp_path / "lung.npz", test=60, val=40, train=97)
    lung, bars = dict(np.load(tmp_path / "lung.npz")), dict(np.load(write_images(tmp_path / "bars.npz")))
    planted = [lung["test_images"][:30], lung["val_images"][:4]]
    bars["train_images"] = np.concatenate([bars["train_images"][:-34], *planted])
    np.savez(tmp_path / "bars.npz", **bars)
    plan = draft(written(tmp_path, "tasks:\n  lung: {path: lung.npz}\n"), tmp_path / "study")[0]
    said = [note for note in plan.notes if "byte-equal to its training images" in note]
    assert [note.split(" are")[0] for note in said] == [
        "bars: 4 of the val images of lung",
        "bars: 30 of the test images of lung",
    ]


def test_leaks_out_of_packs_are_counted_too(tmp_path):
    write_images(tmp_path / "lung.npz", train=97)
    write_images(tmp_path / "bars.npz")
    (tmp_path / "packs").mkdir()
    pack_sources(
        tmp_path / "packs", ("x-ray=" + str(tmp_path / "lung.npz"),), PackOptions(settings=Settings())
    )
    found = leaks(
        {"packs": (tmp_path / "packs", "x-ray")},
        {"same": tmp_path / "lung.npz", "other": tmp_path / "bars.npz"},
    )
    assert found == []  # the pack's train split holds none of the file's val and test images
    arrays = dict(np.load(tmp_path / "bars.npz"))
    arrays["test_images"][:7] = np.load(tmp_path / "lung.npz")["train_images"][:7]
    np.savez(tmp_path / "bars.npz", **arrays)
    (found,) = leaks({"packs": (tmp_path / "packs", "x-ray")}, {"other": tmp_path / "bars.npz"})
    assert (found.source, found.task, found.split, found.images) == ("packs", "other", "test", 7)
