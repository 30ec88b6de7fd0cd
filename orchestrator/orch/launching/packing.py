"""Several cells side by side in one job, each in a process of its own, where they share GPUs that one would not fill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from orch.launching.process import Stop

POLL_SECONDS = 0.2
ENDS = ("finished", "deadline", "signal", "cancelled", "disk_full")
"""Why a process ended, by its exit code."""


def side_by_side(arguments: tuple[str, ...], cells: int, stop: Stop) -> str:
    """Run `cells` walks of a worker's manifest in processes; returns why they ended.

    The GPUs of the job are dealt out in turn. Slurm tells its warning before the time limit to this process alone,
    which hands it on. A process that is killed leaves its cell to the others.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "orch.launching.packing", *arguments],
            stdin=subprocess.DEVNULL,
            env=os.environ | share_of(number),
        )
        for number in range(cells)
    ]
    told = False
    while any(process.poll() is None for process in processes):
        if stop.wanted() and not told:
            told = True
            for process in processes:
                process.send_signal(signal.SIGUSR2 if stop.reason == "deadline" else signal.SIGTERM)
        time.sleep(POLL_SECONDS)
    ends = {process.returncode for process in processes}
    return next((end for code, end in reversed([*enumerate(ENDS)]) if code in ends), "signal")


def share_of(number: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The GPU that the process of this number sees: one of those of the job; empty where it has none."""
    gpus = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    return {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}


def main(root: str, token: str, group: str, minutes: str) -> int:
    """One of the processes; its exit code says why it ended."""
    from orch.launching.worker import work

    return ENDS.index(work(Path(root), token, "", group, float(minutes), Stop()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
