"""The origin of a number: versions, code state, hardware, host. Imports no package that it describes."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("orch-scaling", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "safetensors")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a number can depend on; missing ones are omitted."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code_state() -> dict[str, str]:
    """The checkout that this package is imported from: `commit`, and `dirty`, a hash of uncommitted changes.

    Empty if the package is installed from a wheel or git fails; `dirty` is empty for a clean tree.
    """
    root = Path(__file__).resolve().parent
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD").strip()
    if not commit:
        return {}
    difference = _output("git", "-C", str(root), "diff", "HEAD", "--", ":/*.py")
    dirty = hashlib.blake2b(difference.encode(), digest_size=8).hexdigest() if difference else ""
    return {"commit": commit, "dirty": dirty}


@functools.cache
def hardware() -> dict[str, Any]:
    """CPU model, cores usable by this process, memory in bytes, and the names of the GPUs."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cores": cpus,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus(),
    }


@functools.cache
def gpus() -> list[str]:
    """Names of the NVIDIA GPUs of this machine, as `nvidia-smi` lists them; empty without GPUs."""
    if not shutil.which("nvidia-smi"):
        return []
    names = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return [line.strip() for line in names.splitlines() if line.strip()]


def visible_gpus() -> list[str]:
    """Ids of the NVIDIA GPUs that this process may use: those of CUDA_VISIBLE_DEVICES if set, else all."""
    ids = [str(number) for number in range(len(gpus()))]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return ids if visible is None or not ids else [one for one in visible.split(",") if one]


def gather(**more: object) -> dict[str, Any]:
    """The provenance of a record made by this process now, with `more` entries of the caller."""
    return {
        "versions": versions(),
        "hardware": hardware(),
        "host": socket.gethostname(),
        **more,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
