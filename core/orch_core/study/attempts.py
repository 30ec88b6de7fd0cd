"""Attempts at a cell, read: who made each, how it ended, and whether it is still running.

attempts/<k>/owner.json   who claimed it; its flock is held while the owner lives
             log.txt      stdout, stderr and traceback; its mtime is the heartbeat
             end.json     how it ended; missing while it runs, or if it was killed
             record.json  the result of pretraining in this attempt
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from orch_core.study.record import Cause
from orch_core.study.stored import ATTEMPTS, attempt_numbers

STALE_SECONDS = 90.0  # a silent owner on another machine is dead after six missed heartbeats
RETRIED = frozenset({Cause.KILLED, Cause.OUT_OF_MEMORY, Cause.DISK_FULL, Cause.TIMEOUT, Cause.NETWORK})
FREE = frozenset({Cause.PREEMPTED, Cause.NODE_FAILURE, Cause.CANCELLED})  # never the cell's fault
How = Literal["done", "failed", "stopped", "fenced"]
Claimability = Literal["claim", "busy", "dead", "spent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that claimed an attempt.

    job:       its Slurm job id, or empty
    started:   Unix seconds
    devices:   GPUs of the attempt, 1 on a CPU; a fraction if several cells share a GPU
    restart:   how often the Slurm job had been requeued
    oom_kills: processes that this machine's kernel had killed for lack of memory before the attempt
    """

    token: str
    worker: str
    host: str
    machine: str
    pid: int
    job: str = ""
    node: str = ""
    started: float
    devices: float = 1.0
    oom_kills: int = 0
    restart: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an attempt ended.

    cause:     empty for `done`; why it failed or stopped otherwise
    signature: of the traceback, to recognise the same error in another cell
    progress:  whether a checkpoint was written during the attempt, so that the next one starts further on
    seconds:   wall time of the attempt
    devices:   GPUs of the attempt, 1 on a CPU
    """

    how: How
    cause: str = ""
    message: str = ""
    signature: str = ""
    progress: bool = False
    seconds: float = 0.0
    devices: float = 1.0

    @property
    def device_seconds(self) -> float:
        """Device-seconds that the attempt used."""
        return self.seconds * self.devices


def machine() -> str:
    """Identity of the running kernel: two processes with the same one see each other's locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return socket.gethostname()


def numbers(folder: Path) -> list[int]:
    """Numbers of the attempts at a cell or probe, in order, by its folder."""
    return attempt_numbers(str(folder))


def folder_of(folder: Path, number: int) -> Path:
    """Folder of an attempt at the cell or probe in `folder`."""
    return folder / ATTEMPTS / str(number)


def log_of(attempt: Path) -> Path:
    """The log of the attempt in a folder."""
    return attempt / "log.txt"


def is_overtaken(folder: Path) -> bool:
    """Whether an attempt later than the one in `folder` has been claimed."""
    return (folder.parent / str(int(folder.name) + 1)).exists()


def end_of(folder: Path) -> End | None:
    """How the attempt in `folder` ended, None if it has not; an unreadable end counts as killed."""
    try:
        return End(**_known(End, json.loads((folder / "end.json").read_bytes())))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return End(how="failed", cause=Cause.KILLED, message="its end.json is damaged")


def owner_of(folder: Path) -> Owner | None:
    """The owner of the attempt (or of the worker) in `folder`, or None if it cannot be read."""
    return read_owner(folder / "owner.json")


def read_owner(path: Path) -> Owner | None:
    """The owner in the file `path`, or None if it is missing or damaged."""
    try:
        return Owner(**_known(Owner, json.loads(path.read_bytes())))
    except (OSError, ValueError, TypeError):
        return None


def _known(kind: type[Owner | End], document: Any) -> dict[str, Any]:
    """The fields that this version knows: workers of a newer version may use the same study."""
    if not isinstance(document, dict):
        raise TypeError
    return {field.name: document[field.name] for field in fields(kind) if field.name in document}


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock of `path`, as far as this machine can see."""
    try:
        descriptor = os.open(path, os.O_RDWR)  # NFS locks only files that are open for writing
    except FileNotFoundError:
        return False
    except OSError:
        descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_alive(owner_path: Path, heartbeat: Path) -> bool:
    """Whether the owner of a lock file lives: by its lock on this machine, by its heartbeat on another."""
    if is_held(owner_path):
        return True
    owner = read_owner(owner_path)
    if owner is None or owner.machine == machine():
        return False
    try:
        return file_clock(heartbeat.parent) - heartbeat.stat().st_mtime < STALE_SECONDS
    except FileNotFoundError:
        return False


def file_clock(folder: Path) -> float:
    """The file server's time, which makes clocks of nodes comparable; local time if `folder` is read-only."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".now-") as file:
            os.utime(file.name)
            return Path(file.name).stat().st_mtime
    except OSError:
        return time.time()


def made_progress(cell_folder: Path, attempt_folder: Path) -> bool:
    """Whether a checkpoint was published since the attempt began (by the file server's clock)."""
    with contextlib.suppress(OSError):
        began = (attempt_folder / "owner.json").stat().st_mtime
        states = (cell_folder / "checkpoint").glob("[!.]*")
        return any(path.stat().st_mtime >= began for path in states)
    return False


def claimability(folder: Path, *, after: int, limit: int) -> tuple[Claimability, int]:
    """Whether an unfinished cell may be claimed, and the number of its newest attempt.

    claim: the next attempt is free. busy: a living process works on the cell. dead: its newest attempt was
    killed and awaits `record_crash`. spent: it failed permanently in this launch, that is in an attempt above
    `after`: once with an error that would repeat, or `limit` times in a row without progress.
    """
    taken = numbers(folder)
    if not taken:
        return "claim", 0
    newest = folder_of(folder, taken[-1])
    if end_of(newest) is None:
        alive = is_alive(newest / "owner.json", newest / "log.txt")
        if alive:
            return "busy", taken[-1]
        return ("dead" if end_of(newest) is None else "claim"), taken[-1]
    ends = [end_of(folder_of(folder, number)) for number in taken if number > after]
    return ("spent" if is_spent([end for end in ends if end], limit) else "claim"), taken[-1]


def is_spent(ends: Sequence[End], limit: int) -> bool:
    """Whether a cell with these ended attempts may not be retried; see `claimability`."""
    without_progress = 0
    for end in ends:
        if end.how != "failed" or end.cause in FREE:
            continue
        if end.cause not in RETRIED:
            return True
        without_progress = 0 if end.progress else without_progress + 1
    return without_progress >= limit


def count(folder: Path, cause: str) -> int:
    """Number of attempts at a cell that failed with `cause`, in all launches."""
    ends = (end_of(folder_of(folder, number)) for number in numbers(folder))
    return sum(end is not None and end.how == "failed" and end.cause == cause for end in ends)


def seconds_alive(attempt: Path) -> float:
    """Seconds from an attempt's claim to its last heartbeat, by the file server's clock; 0 if unknown."""
    try:
        return max(0.0, (attempt / "log.txt").stat().st_mtime - (attempt / "owner.json").stat().st_mtime)
    except FileNotFoundError:
        return 0.0
