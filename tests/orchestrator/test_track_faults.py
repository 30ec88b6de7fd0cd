"""A mirror that is cut, killed, locked, raced or damaged ends whole, or says what to do."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest
from mirrored import content, runs_of

from orch.tracking import stores, track
from orch_core.errors import OrchError
from orch_core.study.folder import Study

Make = Callable[..., Study]


class Cut(Exception):
    pass


def test_a_sync_cut_at_any_statement_is_completed_by_the_next(
    recorded: Make, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy import Connection

    execute, calls = Connection.execute, Counter()

    def cutting(limit: int) -> None:
        calls.clear()

        def call(self, *args, **kwargs):
            calls["n"] += 1
            if calls["n"] == limit:
                raise Cut
            return execute(self, *args, **kwargs)

        monkeypatch.setattr(Connection, "execute", call)

    study = recorded(2, 1)
    shutil.copy(empty_database, study.root / "mlflow.db")
    cutting(0)
    track.sync(study)
    total, whole = calls["n"], content(study)
    assert total > 20
    for limit in range(1, total + 1):
        for place in ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm", "mlruns"):
            path = study.root / place
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        # a fresh path: MLflow caches engines
        study = Study(study.root.rename(study.root.with_name(f"study{limit}")))
        shutil.copy(empty_database, study.root / "mlflow.db")
        cutting(limit)
        with contextlib.suppress(Cut, OrchError):
            track.sync(study)
        cutting(0)
        track.sync(study)
        assert content(study) == whole, f"cut at statement {limit} of {total}"


KILLED = """
import os, sys
from pathlib import Path
from mlflow.store.db import utils
from sqlalchemy import Connection
from orch.tracking import track
from orch_core.study.folder import Study

def killing(owner, name, limit, calls=[]):
    original = getattr(owner, name)
    def call(*args, **kwargs):
        calls.append(name)
        if len(calls) == limit:
            os.kill(os.getpid(), 9)
        return original(*args, **kwargs)
    setattr(owner, name, call)

track.BATCH = 2
killing(utils if sys.argv[2] == "_upgrade_db" else Connection, sys.argv[2], int(sys.argv[3]))
track.sync(Study(Path(sys.argv[1])))
"""


def test_killed_in_the_schema_and_in_the_runs_it_ends_exact(recorded: Make, empty_database: Path) -> None:
    study = recorded(4, 1)
    for name, limit in (("_upgrade_db", 1), ("execute", 20), ("execute", 20)):
        command = [sys.executable, "-c", KILLED, str(study.root), name, str(limit)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, f"{name} {limit}: {done.stderr}"
        if name == "_upgrade_db":  # which counts its own statements
            shutil.copy(empty_database, study.root / "mlflow.db")
    with contextlib.closing(sqlite3.connect(study.root / "mlflow.db")) as database:
        assert 0 <= database.execute("select count(*) from runs").fetchone()[0] < 5
    track.sync(study)
    assert not list(study.root.glob(".mlflow.*/")), "the next sync removes what a kill left"
    killed = content(study)
    assert len(list((study.root / "mlruns").iterdir())) == 5, (
        "files of runs that were not written are removed"
    )
    for place in study.root.glob("mlflow.db*"):
        place.unlink()
    clean = Study(study.root.rename(study.root.with_name("clean")))
    shutil.copy(empty_database, clean.root / "mlflow.db")
    track.sync(clean)
    assert killed == content(clean)


def test_two_at_once_write_each_run_once(study: Study) -> None:
    """Both are told the truth: one waits for the other, then finds nothing to do."""
    done, errors = [], []

    def run() -> None:
        try:
            done.append(track.sync(study))
        except OrchError as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(summary.added for summary in done) == [0, 3]
    assert len(runs_of(study)) == 3


def test_another_sync_that_does_not_end_is_named(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "LOCK_SECONDS", 0.1)
    with (
        filelock.FileLock(study.root / ".mlflow.lock"),
        pytest.raises(OrchError, match="another `orch sync`"),
    ):
        track.sync(study)


def test_a_locked_database_is_named(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "LOCK_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(study.root / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OrchError, match="locked") as caught:
            track.sync(study)
    assert "close it" in caught.value.hint


def test_a_schema_of_another_version_has_its_remedy(study: Study) -> None:
    with contextlib.closing(sqlite3.connect(study.root / "mlflow.db")) as database:
        database.execute("update alembic_version set version_num = '451aebb31d03'")  # of MLflow 1.0
        database.commit()
    with pytest.raises(OrchError, match="451aebb31d03") as caught:
        track.sync(study)
    assert "delete mlflow.db" in caught.value.hint


def test_a_file_that_is_no_database_has_its_remedy(study: Study) -> None:
    for place in study.root.glob("mlflow.db*"):
        place.unlink()
    (study.root / "mlflow.db").write_text("hello " * 1000)
    with pytest.raises(OrchError, match="not a database") as caught:
        track.sync(study)
    assert "delete mlflow.db" in caught.value.hint


def test_a_record_that_cannot_be_read_is_named_and_the_others_are_written(
    study: Study, write: SimpleNamespace
) -> None:
    bad = study.cell_folder(write.a_cell(0).id) / "record.json"
    bad.write_text(bad.read_text()[:50])
    summary = track.sync(study)
    assert summary.added == 2
    assert len(summary.unreadable) == 1
    assert write.a_cell(0).id in summary.unreadable[0]
    assert write.a_cell(0).id in str(summary)


def test_the_schema_is_made_whole_with_wal_and_leaves_no_litter(
    recorded: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    study = recorded(1)
    track.sync(study)
    assert list(work.iterdir()) == []
    assert not [path for path in study.root.iterdir() if path.name.startswith(".mlflow.") and path.is_dir()]
    with contextlib.closing(sqlite3.connect(study.root / "mlflow.db")) as database:
        assert database.execute("pragma journal_mode").fetchone() == ("wal",)
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)


def test_a_network_disk_is_recognised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert track.network_filesystem(tmp_path) is None
    mounts = (
        f"/dev/sda1 / ext4 rw 0 0\nserver:/home {tmp_path} nfs4 rw 0 0\n/dev/sdb {tmp_path}/fast xfs rw 0 0\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_kwargs: mounts)
    assert track.network_filesystem(tmp_path / "study" / "mlflow.db") == "nfs4"
    assert track.network_filesystem(tmp_path / "fast" / "study") is None
    assert track.network_filesystem(Path("/usr")) is None
