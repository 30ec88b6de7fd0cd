"""Copies of a cell's data on the node's own disk: made once per node, checked by hash, removed after use.

STAGE/orch-<uid>/<key>/<name>   the copy of a npz file or a pack folder; the key changes with what is copied
                 <key>.lock     held shared by every worker that reads it, exclusively while it is removed
                 <key>.making   held exclusively while it is made
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from orch_core.cell import Cell, Job, Probe

STAGED = "ORCH_STAGED"  # environment variable of the processes of a cell: where the copies are, as JSON
RESERVE = 1 << 30  # bytes of the node's disk that are left free
CHUNK = 1 << 22
CLEAN_SECONDS = 30.0
POLL_SECONDS = 0.2


def data_of(jobs: Sequence[Job]) -> set[Path]:
    """Every file and pack folder that jobs read."""
    cells = {one.path for job in jobs for one in job.cell.data}
    return {Path(path).resolve() for path in cells | {one.path for job in jobs for one in job.probes} if path}


@dataclass(slots=True, kw_only=True)
class Stage:
    """The copies that this worker uses, below `folder`, which may name variables of the node.

    A copy that is being made is abandoned once `should_stop()` is true.
    """

    folder: str = ""
    should_stop: Callable[[], object] = lambda: False
    copies: dict[str, str] = field(default_factory=dict)
    _locks: list[int] = field(default_factory=list)

    def add(self, paths: Iterable[Path]) -> None:
        """Copy what is not there yet; what cannot be copied is read in place, with a note in the log."""
        for path in sorted(paths) if self.folder else ():
            if str(path) in self.copies:
                continue
            try:
                copy, lock = _shared_copy(path, _place(self.folder), self.should_stop)
            except OSError as error:
                sys.stdout.write(f"not copied to this node: {path}: {error.strerror or error}\n")
                self.copies[str(path)] = str(path)  # not tried again for each cell
                continue
            self.copies[str(path)] = str(copy)
            self._locks.append(lock)
        os.environ[STAGED] = json.dumps(self.copies)  # for the processes of the cell too

    def close(self, nodes: int = 1) -> None:
        """Let go of the copies, and remove those that no worker reads any more, on all nodes of the job."""
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()
        if self.folder:
            clean(_place(self.folder))
        if self.folder and nodes > 1:
            srun = ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
            words = [*srun, sys.executable, "-P", "-m", "orch.launching.worker.staging", self.folder]
            with contextlib.suppress(
                OSError, subprocess.TimeoutExpired
            ):  # the next worker there removes them
                subprocess.run(words, check=False, timeout=CLEAN_SECONDS, stdin=subprocess.DEVNULL)


def _place(folder: str) -> Path:
    """Where the copies of this user are on this node; relative if a variable is not set here."""
    return Path(os.path.expandvars(folder)) / f"orch-{os.getuid()}"


def cell_from(cell: Cell) -> Cell:
    """The same cell, whose data are read from this node's copies where it has them."""
    return replace(cell, data=tuple(replace(one, path=_copy_of(one.path)) for one in cell.data))


def probe_from(probe: Probe) -> Probe:
    """The same probe, whose data are read from this node's copy if it has one."""
    return replace(probe, path=_copy_of(probe.path))


def _copy_of(path: str) -> str:
    copies = json.loads(os.environ.get(STAGED, "{}"))
    return str(copies.get(str(Path(path).resolve()), path)) if path and copies else path


def clean(root: Path) -> None:
    """Remove the copies below `root` that nothing reads, those of workers that were killed too."""
    for path in root.glob("*.lock"):
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                shutil.rmtree(path.with_suffix(".part"), ignore_errors=True)
                path.with_suffix(".making").unlink(missing_ok=True)
                path.unlink()
            finally:
                os.close(lock)
    with contextlib.suppress(OSError):
        root.rmdir()


def _shared_copy(path: Path, root: Path, should_stop: Callable[[], object]) -> tuple[Path, int]:
    """The copy of `path` below `root`, and the descriptor of its lock.

    Raises OSError if there is no room, or if the worker is asked to stop.
    """
    if not root.is_absolute():
        raise OSError(0, f"{root.parent} names a variable that is not set on this node")
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = _key(path)
    while True:
        with _maker(root / f"{key}.making", should_stop):
            lock = os.open(root / f"{key}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)
                if os.fstat(lock).st_nlink:  # not removed while we waited
                    if not (root / key).exists():
                        _copy(path, root / f"{key}.part", should_stop)
                        (root / f"{key}.part").rename(root / key)
                    return root / key / path.name, lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)


@contextlib.contextmanager
def _maker(path: Path, should_stop: Callable[[], object]) -> Iterator[None]:
    """Hold the lock of what is made; another worker that makes it now is waited for."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            _refuse_to_go_on(should_stop)
            time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _refuse_to_go_on(should_stop: Callable[[], object]) -> None:
    if should_stop():
        raise OSError(0, "the worker was asked to stop")


def _key(path: Path) -> str:
    """A name for what is at `path` now: 16 hexadecimal digits over its place, its files' sizes and times."""
    stamps = [
        (str(one.relative_to(path)), one.stat().st_size, one.stat().st_mtime_ns) for one in _files(path)
    ]
    return hashlib.blake2b(repr((str(path), stamps)).encode(), digest_size=8).hexdigest()


def _files(path: Path) -> list[Path]:
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]


def _copy(path: Path, part: Path, should_stop: Callable[[], object]) -> None:
    """Copy the files of `path` into the folder `part`, which a failure removes."""
    files = _files(path)
    size, free = sum(one.stat().st_size for one in files), shutil.disk_usage(part.parent).free
    if free < size + RESERVE:
        raise OSError(0, f"{part.parent} has {free / 1e9:.1f} GB free, and it takes {size / 1e9:.1f} GB")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for one in files:
            target = part / path.name / one.relative_to(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy_file(one, target, should_stop)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _copy_file(original: Path, target: Path, should_stop: Callable[[], object]) -> None:
    with original.open("rb") as source, target.open("wb") as copy:
        read = _digest(source, should_stop, copy.write)
        copy.flush()
        os.fsync(copy.fileno())
        os.posix_fadvise(copy.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # compare what the disk holds
    with target.open("rb") as copied:
        if _digest(copied, should_stop) != read:
            raise OSError(0, f"the copy in {target.parent} differs from it")


def _digest(
    file: IO[bytes], should_stop: Callable[[], object], write: Callable[[bytes], object] = len
) -> bytes:
    """The hash of what is left of a file, each part of which also goes to `write`."""
    digest = hashlib.blake2b()
    while part := file.read(CHUNK):
        _refuse_to_go_on(should_stop)
        digest.update(part)
        write(part)
    return digest.digest()


if __name__ == "__main__":  # on every node of a job that ends
    clean(_place(sys.argv[1]))
