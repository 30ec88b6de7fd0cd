"""Several cells in one job, each in a process, to share GPUs that one cell would not fill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from orch.launching.worker.process import Stop
from orch_core.study.record import Cause

POLL_SECONDS = 0.2
REASONS = (
    "too_short", Cause.SIGNAL, "finished", Cause.CANCELLED, Cause.BUDGET, Cause.DISK_FULL, Cause.DEADLINE,
)  # fmt: skip
"""Why a process ended; the last in this order counts, so that one unfinished process requeues the job."""


def side_by_side(arguments: Sequence[str], cells: int, stop: Stop) -> str:
    """Run `cells` workers as processes; returns why they ended. Each prints its reason at its end.

    The job's GPUs are assigned in turn. Before the time limit Slurm signals this process only, which passes
    the signal on. If a process is killed, the others take its cell.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "orch.launching.worker.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | share_of(number),
        )
        for number in range(cells)
    ]
    passed_on = False
    while any(process.poll() is None for process in processes):
        if stop.wanted() and not passed_on:
            passed_on = True
            for process in processes:
                process.send_signal(signal.SIGUSR2 if stop.reason == Cause.DEADLINE else signal.SIGTERM)
        time.sleep(POLL_SECONDS)
    printed = [line for process in processes for line in process.communicate()[0].splitlines()]
    return max((line for line in printed if line in REASONS), key=REASONS.index, default=Cause.SIGNAL)


def share_of(number: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The GPU of the process with this number, one of the job's; empty if the job has none."""
    gpus = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    return {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
