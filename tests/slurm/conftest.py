"""The developer cluster, started once; its tests are skipped, with the reason, where it cannot be."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("cluster")


def slurm(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def cluster(*command: object) -> None:
    subprocess.run([str(SCRIPT), *map(str, command)], check=True, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def running_cluster():
    if os.geteuid() != 0:
        pytest.skip("the developer Slurm cluster needs root")
    if not shutil.which("apt-get") and not shutil.which("slurmctld"):
        pytest.skip("the developer Slurm cluster needs Debian or Ubuntu packages")
    done = subprocess.run([str(SCRIPT), "up"], capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"the developer Slurm cluster does not start: {done.stderr.strip()[-300:]}")


@pytest.fixture
def healthy(running_cluster):
    """An idle cluster before the test, and an empty, repaired one after it."""
    yield
    cluster("up")
    subprocess.run(["scancel", "--me"], check=False)
    end = time.monotonic() + 60
    while slurm("squeue", "--me", "-h").strip() and time.monotonic() < end:
        time.sleep(0.2)
