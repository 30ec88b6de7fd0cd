"""Parts of every worker process: a flag set by signals, a deadline, a heartbeat, a log, one thread."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from orch.launching.worker.claims import HEARTBEAT_SECONDS
from orch_core.study.record import Cause

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)


@dataclass(slots=True)
class Stop:
    """Why this worker should stop: set by signals, read by the training loop; `deadline` in Unix seconds."""

    reason: str = ""
    deadline: float = math.inf

    def wanted(self) -> str:
        """The reason to stop now, or an empty string."""
        if not self.reason and time.time() >= self.deadline:
            self.reason = Cause.DEADLINE
        return self.reason


@dataclass(slots=True)
class Every:
    """A timer that is due at first, and then whenever `seconds` have passed."""

    seconds: float
    _last: float = -math.inf

    def due(self) -> bool:
        """Whether it is due; if so, it starts again."""
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True


def warning_seconds(minutes: float) -> int:
    """Seconds before a Slurm job's end at which its worker saves: 120, or fewer if the job is short."""
    return int(max(10.0, min(120.0, 6.0 * minutes)))


@contextlib.contextmanager
def signals_to(stop: Stop) -> Iterator[None]:
    """Inside the block, SIGTERM, SIGINT, SIGHUP and SIGUSR2 only set `stop`."""

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        stop.reason = stop.reason or (Cause.DEADLINE if number == signal.SIGUSR2 else Cause.SIGNAL)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def heartbeat(log: Path) -> Iterator[None]:
    """Touch the attempt's log regularly, so that other machines see that its process lives."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(log)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def log_to(log: Path, *, redirect: bool) -> Iterator[None]:
    """Redirect stdout and stderr, of native code too, to the attempt's log."""
    if not redirect:
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # buffered output may not fit on a full disk
            sys.stdout.flush()
            sys.stderr.flush()
        for number, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
