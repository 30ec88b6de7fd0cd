"""Several cells side by side in one job, each in a process of its own, where they share GPUs that one would not fill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from orch.launching.worker.process import Stop

POLL_SECONDS = 0.2
REASONS = ("too_short", "signal", "finished", "cancelled", "disk_full", "deadline")
"""Why a process ended; of several, the last in this order counts, so that one that must come back brings the job back."""


def side_by_side(arguments: Sequence[str], cells: int, stop: Stop) -> str:
    """Run `cells` workers as processes; returns why they ended. Each prints its own reason when it ends.

    The GPUs of the job are dealt out in turn. Slurm sends its warning before the time limit to this process alone,
    which passes it on. A process that is killed leaves its cell to the others.
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
                process.send_signal(signal.SIGUSR2 if stop.reason == "deadline" else signal.SIGTERM)
        time.sleep(POLL_SECONDS)
    printed = [process.communicate()[0].splitlines()[-1:] for process in processes]
    return max((reason for reasons in printed for reason in reasons), key=REASONS.index, default="signal")


def share_of(number: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The GPU that the process of this number sees: one of those of the job; empty where it has none."""
    gpus = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    return {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
