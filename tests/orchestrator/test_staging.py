"""Copies of data on a node's disk: made once, equal to their source, gone when the last worker is."""

import fcntl
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from orch.launching.worker import staging
from orch.launching.worker.staging import Stage, cell_from, data_of, probe_from
from orch_core.cell import Cell, Job, Model, Probe, SourceSubset


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job that reads a pack folder and a task's npz from a shared disk."""
    monkeypatch.setattr(staging, "RESERVE", 0)
    monkeypatch.setenv(staging.STAGED, "{}")
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "node"))
    shared = tmp_path / "shared"
    (shared / "packs" / "deep").mkdir(parents=True)
    for number in range(3):
        (shared / "packs" / "deep" / f"{number}.pack").write_bytes(os.urandom(1 << 16))
    (shared / "task.npz").write_bytes(os.urandom(1 << 16))
    source = SourceSubset(source="s", modality="ct", images=1, fingerprint="f", path=str(shared / "packs"))
    cell = Cell(
        model=Model(name="m", width=32, depth=1, heads=1), recipe="mae@1", data=(source,), resolution=28, patch=7,
        channels=1, samples_seen=4, batch=4,
    )  # fmt: skip
    probe = Probe(task="t", fingerprint="t", kind="multi-class", classes=2, path=str(shared / "task.npz"))
    return Job(cell=cell, probes=(probe,))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_cell_and_its_probes_read_equal_copies_and_keep_their_identity(job, tmp_path):
    stage = Stage(folder="$NODE_DISK")
    stage.add(data_of([job]))
    cell, probe = cell_from(job.cell), probe_from(job.probes[0])
    assert (cell, cell.id, probe) == (job.cell, job.cell.id, job.probes[0])
    packs, task = cell.data[0].path, probe.path
    assert packs.startswith(str(tmp_path / "node"))
    assert task.startswith(str(tmp_path / "node"))
    assert contents(tmp_path / "shared" / "packs") == contents(Path(packs))
    stage.close()
    assert not list((tmp_path / "node").iterdir())


def test_workers_of_a_node_copy_once_and_the_last_one_removes_it(job, tmp_path, monkeypatch):
    copied, real = [], staging._copy
    monkeypatch.setattr(staging, "_copy", lambda path, *rest: (copied.append(path), real(path, *rest)))
    stages = [Stage(folder="$NODE_DISK") for _ in range(6)]
    threads = [threading.Thread(target=stage.add, args=(data_of([job]),)) for stage in stages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(copied) == sorted(data_of([job]))
    for stage in stages[:-1]:
        stage.close()
    assert contents(tmp_path / "node" / f"orch-{os.getuid()}")
    stages[-1].close()
    assert not list((tmp_path / "node").iterdir())


def test_what_a_killed_worker_left_is_finished_or_removed_by_the_next(job, tmp_path):
    path = next(path for path in data_of([job]) if path.name == "packs")
    root = tmp_path / "node" / f"orch-{os.getuid()}"
    left = root / f"{staging._key(path)}.part" / "packs"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    (root / "other.lock").touch()
    (root / "other").mkdir()
    stage = Stage(folder="$NODE_DISK")
    stage.add({path})
    assert contents(Path(cell_from(job.cell).data[0].path)) == contents(path)
    stage.close()
    assert not list((tmp_path / "node").iterdir())


def test_a_changed_source_is_copied_again(job, tmp_path):
    stage = Stage(folder="$NODE_DISK")
    stage.add(data_of([job]))
    (tmp_path / "shared" / "task.npz").write_bytes(b"other")
    later = Stage(folder="$NODE_DISK")
    later.add(data_of([job]))
    assert Path(probe_from(job.probes[0]).path).read_bytes() == b"other"


@pytest.mark.parametrize("trouble", ["room", "variable", "damage", "permission"])
def test_where_copying_fails_the_data_are_read_from_where_they_are_with_a_note(
    job, trouble, monkeypatch, capsys, tmp_path
):
    if trouble == "room":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    if trouble == "variable":
        monkeypatch.delenv("NODE_DISK")
    if trouble == "damage":
        real = staging._digest
        monkeypatch.setattr(staging, "_digest", lambda *words: real(*words) + os.urandom(1))
    if trouble == "permission":
        (tmp_path / "node").write_text("a file, not a folder")
    stage = Stage(folder="$NODE_DISK")
    stage.add(data_of([job]))
    assert cell_from(job.cell).data[0].path == job.cell.data[0].path
    words = {"room": "GB free", "variable": "not set on this node", "damage": "differs", "permission": "node"}
    notes = capsys.readouterr().out.splitlines()
    assert len(notes) == 2
    assert all(line.startswith("not copied to this node: /") and words[trouble] in line for line in notes)
    stage.close()
    assert not list((tmp_path / "node").rglob("*.part")) if trouble != "permission" else True
    stage.add(data_of([job]))  # of the next cell
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("moment", ["copying", "waiting for another worker that copies"])
def test_a_worker_that_is_asked_to_stop_abandons_its_copy(job, moment, tmp_path, capsys):
    asked = iter([False, True, True])
    stage = Stage(folder="$NODE_DISK", should_stop=lambda: next(asked))
    path = next(path for path in data_of([job]) if path.name == "packs")
    root = tmp_path / "node" / f"orch-{os.getuid()}"
    root.mkdir(parents=True)
    with (root / f"{staging._key(path)}.making").open("w") as other:
        if moment != "copying":
            fcntl.flock(other, fcntl.LOCK_EX)
        stage.add({path})
    assert "asked to stop" in capsys.readouterr().out
    assert not list(root.rglob("*.pack"))
