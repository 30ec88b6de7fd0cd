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
ENDS = {10: "finished", 11: "signal", 12: "cancelled", 13: "disk_full", 14: "deadline"}
"""Why a process ended, by its exit code, none of which Python has for itself; of several, the last one counts."""


def side_by_side(arguments: tuple[str, ...], cells: int, stop: Stop) -> str:
    """Run `cells` walks of a worker's manifest in processes; returns why they ended.

    The GPUs of the job are dealt out in turn. Slurm tells its warning before the time limit to this process alone,
    which hands it on. A process that is killed leaves its cell to the others.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "orch.launching.side_by_side", *arguments],
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
    return max((process.returncode, ENDS.get(process.returncode, "signal")) for process in processes)[1]


def share_of(number: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The GPU that the process of this number sees: one of those of the job; empty where it has none."""
    gpus = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    return {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}


def main(root: str, token: str, group: str, minutes: str) -> int:
    """One of the processes; its exit code says why it ended."""
    from orch.launching.worker import work

    why = work(Path(root), token, "", group, float(minutes), Stop())
    return next(code for code, end in ENDS.items() if end == why)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
