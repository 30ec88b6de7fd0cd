"""Who works at a cell: attempts, claimed atomically, known to be alive or dead, and fenced.

cells/<id>/attempts/<k>/owner.json   who claimed it; its flock is held while the owner lives
                        log.txt      stdout, stderr and traceback; its mtime is the heartbeat
                        end.json     how it ended; missing while it runs, or where it was killed
                        record.json  what pretraining gave in this attempt

An attempt is claimed by renaming a folder that already holds its locked owner.json to the next
number: rename fails where another claim came first. A later claim fences the earlier one, which
must not write any more: a dead slurmd, for one, does not stop its process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from orch_core.files import dumps, publish_once

HEARTBEAT_SECONDS = 15.0
VMSTAT = Path("/proc/vmstat")
STALE_SECONDS = 90.0  # a silent owner on another machine is dead after six missed heartbeats

RETRIED = frozenset({"killed", "out_of_memory", "disk_full", "timeout", "network"})
FREE = frozenset({"preempted", "node_failure", "cancelled"})  # never the cell's fault
How = Literal["done", "failed", "stopped", "fenced"]
Verdict = Literal["claim", "busy", "dead", "spent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that claimed an attempt.

    job:       its Slurm job id, or empty
    started:   Unix seconds
    devices:   GPUs that the attempt holds, or 1 where there are none; a share where cells lie side by side on one
    restart:   how often the Slurm job had been requeued
    oom_kills: processes that the kernel of this machine had killed for want of memory before
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
    progress:  a checkpoint was written during the attempt, so that the next one starts further on
    seconds:   wall time of the attempt
    devices:   GPUs that it held, or 1 where there are none
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
        """What the attempt took of the budget."""
        return self.seconds * self.devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A claimed attempt of this process: `lock` is the descriptor that keeps it."""

    folder: Path
    number: int
    owner: Owner
    lock: int


def me(
    token: str, worker: str, environment: Mapping[str, str] = os.environ, *, devices: float = 1.0
) -> Owner:
    """The present process as an owner; the Slurm job and node come from the environment."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return Owner(
        token=token,
        worker=worker,
        host=socket.gethostname(),
        machine=machine(),
        pid=os.getpid(),
        job=f"{array}_{task}" if array else environment.get("SLURM_JOB_ID", ""),
        node=environment.get("SLURMD_NODENAME", ""),
        started=time.time(),
        devices=devices,
        oom_kills=oom_kills(),
        restart=int(environment.get("SLURM_RESTART_COUNT", "0")),
    )


def machine() -> str:
    """Identity of the running kernel: locks of two processes with the same one see each other."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return socket.gethostname()


def oom_kills() -> int:
    """Processes that this machine's kernel has killed for want of memory since it started; 0 where it does not say."""
    try:
        lines = VMSTAT.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def numbers(folder: Path) -> list[int]:
    """Numbers of a cell's attempts, in order."""
    try:
        return sorted(int(path.name) for path in (folder / "attempts").iterdir() if path.name.isdigit())
    except FileNotFoundError:
        return []


def claim(folder: Path, owner: Owner, number: int) -> Attempt | None:
    """Take attempt `number` of a cell, or None where another process has it.

    `number` is one above the newest: the attempt fences all earlier ones from now on.
    """
    (folder / "attempts").mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder, prefix=".claim-"))
    lock = -1
    try:
        lock = lock_file(draft / "owner.json", dumps(asdict(owner)))
        (draft / "log.txt").touch()
        draft.chmod(0o755)
        target = folder / "attempts" / str(number)
        draft.rename(target)
    except OSError as error:
        if lock >= 0:
            os.close(lock)
        shutil.rmtree(draft, ignore_errors=True)
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return None
        raise
    return Attempt(folder=target, number=number, owner=owner, lock=lock)


def lock_file(path: Path, text: str) -> int:
    """Create `path` with `text` and hold its lock while the returned descriptor is open."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, text.encode())
        os.fsync(descriptor)  # it stays open: another node would see an empty file until then
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def release(attempt: Attempt, end: End) -> None:
    """Write how the attempt ended, and let go of it. A full disk leaves it to be found dead."""
    try:
        publish_once(attempt.folder / "end.json", dumps(asdict(end)))
    finally:
        os.close(attempt.lock)


def is_newest(attempt: Attempt) -> bool:
    """False once a later attempt has been claimed: this one must not write any more."""
    return not is_overtaken(attempt.folder)


def is_overtaken(folder: Path) -> bool:
    """Whether an attempt later than the one in `folder` has been claimed."""
    return (folder.parent / str(int(folder.name) + 1)).exists()


def end_of(folder: Path) -> End | None:
    """How the attempt in `folder` ended, or None."""
    try:
        return End(**_known(End, json.loads((folder / "end.json").read_text(encoding="utf-8"))))
    except FileNotFoundError:
        return None


def owner_of(folder: Path) -> Owner | None:
    """Who claimed the attempt (or runs the worker) in `folder`, or None where that cannot be read."""
    return read_owner(folder / "owner.json")


def read_owner(path: Path) -> Owner | None:
    """The owner written in `path`, or None where it is missing or damaged."""
    try:
        return Owner(**_known(Owner, json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError):
        return None


def _known(kind: type[Owner | End], document: dict[str, Any]) -> dict[str, Any]:
    """What this version knows of a document: workers of a newer one may be at the same study."""
    return {field.name: document[field.name] for field in fields(kind) if field.name in document}


def is_held(path: Path) -> bool:
    """True while a living process holds the lock of `path`, as far as this machine can see."""
    try:
        descriptor = os.open(path, os.O_RDWR)  # NFS locks only what is open for writing
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
    """The file server's time, so that clocks of nodes that disagree do not matter; ours where it is read-only."""
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


def judge(folder: Path, *, after: int, limit: int) -> tuple[Verdict, int]:
    """What may be done with a cell that is not finished, and the number of its newest attempt.

    claim: its next attempt is free. busy: a living process works at it. dead: its newest attempt
    was killed and awaits `bury`. spent: it failed for good in this launch, that is in an attempt
    above `after`: once for errors that come back, `limit` times in a row without progress for others.
    """
    taken = numbers(folder)
    if not taken:
        return "claim", 0
    newest = folder / "attempts" / str(taken[-1])
    if end_of(newest) is None:
        alive = is_alive(newest / "owner.json", newest / "log.txt")
        if alive:
            return "busy", taken[-1]
        return ("dead" if end_of(newest) is None else "claim"), taken[-1]
    ends = [end_of(folder / "attempts" / str(number)) for number in taken if number > after]
    return ("spent" if is_spent([end for end in ends if end], limit) else "claim"), taken[-1]


def is_spent(ends: Sequence[End], limit: int) -> bool:
    """Whether a cell with these ended attempts is beyond its retries; see `judge`."""
    without_progress = 0
    for end in ends:
        if end.how != "failed" or end.cause in FREE:
            continue
        if end.cause not in RETRIED:
            return True
        without_progress = 0 if end.progress else without_progress + 1
    return without_progress >= limit


def bury(folder: Path, number: int, cause: str = "killed", message: str = "") -> End | None:
    """Write the end of an attempt whose process died without one; None where another process did so first."""
    attempt = folder / "attempts" / str(number)
    owner = owner_of(attempt)
    where = f"process {owner.pid} on {owner.node or owner.host}" if owner else "its process"
    end = End(
        how="failed",
        cause=cause,
        message=message or f"{where} ended without a word: killed, out of memory, or crashed",
        progress=made_progress(folder, attempt),
        seconds=seconds_alive(attempt),
        devices=owner.devices if owner else 1.0,
    )
    return end if publish_once(attempt / "end.json", dumps(asdict(end))) else None


def count(folder: Path, cause: str) -> int:
    """How many attempts at a cell failed with `cause`, in all launches."""
    ends = (end_of(folder / "attempts" / str(number)) for number in numbers(folder))
    return sum(end is not None and end.how == "failed" and end.cause == cause for end in ends)


def seconds_alive(attempt: Path) -> float:
    """From the claim of the attempt in a folder to its last heartbeat, both by the file server's clock; 0 if unknown."""
    try:
        return max(0.0, (attempt / "log.txt").stat().st_mtime - (attempt / "owner.json").stat().st_mtime)
    except FileNotFoundError:
        return 0.0


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of `path` inside the block, waiting for it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
