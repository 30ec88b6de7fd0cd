"""Claiming attempts: atomic, held by a lock while the owner lives, and fenced.

An attempt is claimed by renaming a folder with a locked owner.json to the next number; rename fails if
another claim came first. A later claim fences the earlier one, which must not write any more, even if its
process still runs, for example because its slurmd died.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from orch_core.files import UMASK, dumps, publish_once
from orch_core.study import attempts
from orch_core.study.attempts import End, Owner, is_overtaken, made_progress, owner_of, seconds_alive
from orch_core.study.record import Cause

HEARTBEAT_SECONDS = 15.0
VMSTAT = Path("/proc/vmstat")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A claimed attempt of this process; `lock` is the descriptor that holds the lock."""

    folder: Path
    number: int
    owner: Owner
    lock: int


def current_owner(
    token: str, worker: str, environment: Mapping[str, str] = os.environ, *, devices: float = 1.0
) -> Owner:
    """The running process as an owner; the Slurm job and node come from the environment."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return Owner(
        token=token,
        worker=worker,
        host=socket.gethostname(),
        machine=attempts.machine(),
        pid=os.getpid(),
        job=f"{array}_{task}" if array else environment.get("SLURM_JOB_ID", ""),
        node=environment.get("SLURMD_NODENAME", ""),
        started=time.time(),
        devices=devices,
        oom_kills=oom_kills(),
        restart=int(environment.get("SLURM_RESTART_COUNT", "0")),
    )


def oom_kills() -> int:
    """Processes that this machine's kernel has killed for lack of memory since it started; 0 if unknown."""
    try:
        lines = VMSTAT.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def claim(folder: Path, owner: Owner, number: int) -> Attempt | None:
    """Claim attempt `number` of a cell; None if another process has it.

    `number` is one above the newest: the attempt fences all earlier ones.
    """
    target = attempts.folder_of(folder, number)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder, prefix=".claim-"))
    lock = -1
    try:
        lock = lock_file(draft / "owner.json", dumps(asdict(owner)))
        attempts.log_of(draft).touch()
        draft.chmod(0o777 & ~UMASK)  # mkdtemp's folders are private
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
    """Create `path` with `text`, locked while the returned descriptor is open."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, text.encode())
        os.fsync(descriptor)  # it stays open, and another node would see an empty file until then
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def release(attempt: Attempt, end: End) -> None:
    """Write how the attempt ended, and unlock it. On a full disk, others will find it dead."""
    try:
        publish_once(attempt.folder / "end.json", dumps(asdict(end)))
    finally:
        os.close(attempt.lock)


def is_newest(attempt: Attempt) -> bool:
    """False once a later attempt has been claimed: this one must not write any more."""
    return not is_overtaken(attempt.folder)


def record_crash(folder: Path, number: int, cause: str = Cause.KILLED, message: str = "") -> End | None:
    """Write the end of an attempt whose process died without one; None if another process did so first."""
    attempt = attempts.folder_of(folder, number)
    owner = owner_of(attempt)
    where = f"process {owner.pid} on {owner.node or owner.host}" if owner else "its process"
    end = End(
        how="failed",
        cause=cause,
        message=message or f"{where} exited without recording a result (killed, out of memory, or crashed)",
        progress=made_progress(folder, attempt),
        seconds=seconds_alive(attempt),
        devices=owner.devices if owner else 1.0,
    )
    return end if publish_once(attempt / "end.json", dumps(asdict(end))) else None
