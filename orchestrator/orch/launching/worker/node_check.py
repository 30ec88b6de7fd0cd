"""What `orch doctor --cluster slurm` runs in a job: whether a worker would find what it needs on this node.

FOLDER/request.json  what to look at, written before the job is submitted
       result.json   the checks, written here
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from orch.launching.worker import ranks, rendezvous
from orch_core.files import dumps, write_atomic
from orch_core.grid.resources import NodeEnvironment
from orch_core.study import attempts

PACKAGES = ("torch", "torchvision", "timm", "numpy", "polars", "pydantic", "submitit")
CLOCK_SECONDS = 5.0  # by which clocks may differ
SCRATCH_BYTES = 256 << 20
SLOW_SCRATCH = 200e6  # bytes a second, which an ordinary disk writes
REDUCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRequest:
    """What to check: the paths that workers read, how the node is prepared, nodes and GPUs of the job."""

    paths: tuple[str, ...]
    environment: dict[str, object]
    nodes: int
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check on a node: `status` is ok, warning or error; `remedy` says what to do about it."""

    name: str
    status: str
    message: str
    remedy: str = ""


def ok(name: str, message: str) -> Finding:
    """A check that found nothing wrong."""
    return Finding(name=name, status="ok", message=message)


def check(folder: Path) -> None:
    """Run every check, and write each as soon as it is known: the job may end at any time."""
    request = NodeRequest(**json.loads((folder / "request.json").read_text(encoding="utf-8")))
    checks: list[Callable[[Path, NodeRequest], Finding]] = [
        _python,
        _gpus,
        _data,
        _clock,
        _scratch,
        _srun,
        _reduce,
    ]
    found: list[Finding] = []
    for one in checks:
        try:
            found.append(one(folder, request))
        except Exception as error:  # noqa: BLE001  # whatever is wrong here is what we are looking for
            name, message = one.__name__.strip("_"), f"{type(error).__name__}: {error}"
            found.append(Finding(name=name, status="error", message=message, remedy="see the message"))
        done = len(found) == len(checks)
        write_atomic(
            folder / "result.json", dumps({"done": done, "checks": [asdict(each) for each in found]})
        )


def _python(_folder: Path, request: NodeRequest) -> Finding:
    missing = {}
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  # libraries fail in their own ways
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    where = f"{platform.python_version()} at {sys.executable} on {platform.node()}"
    if missing:
        message = f"{where} cannot import {', '.join(missing)}: {next(iter(missing.values()))}"
        image = "build an image with these packages" if request.environment.get("container") else ""
        remedy = (
            image or "load what they need in `cluster.setup`, or launch from a Python that the nodes share"
        )
        return Finding(name="python", status="error", message=message, remedy=remedy)
    return ok("python", where)


def _gpus(_folder: Path, request: NodeRequest) -> Finding:
    from orch_core.learn import distributed

    names = distributed.gpu_names()
    message = f"torch sees {len(names)} GPUs, and {request.gpus} are asked for on a node"
    if len(names) < request.gpus:
        remedy = "install a torch that is built for this node's CUDA driver, or load CUDA in `cluster.setup`"
        return Finding(name="gpus", status="error", message=message, remedy=remedy)
    return ok("gpus", ": ".join(filter(None, [message, ", ".join(sorted(set(names)))])))


def _data(folder: Path, request: NodeRequest) -> Finding:
    unread = {}
    for text in (str(folder), *request.paths):
        path = Path(text)
        try:
            next(path.iterdir()) if path.is_dir() else path.open("rb").close()
        except (OSError, StopIteration) as error:
            unread[text] = getattr(error, "strerror", None) or "empty"
    if unread:
        message = "; ".join(f"{path}: {error}" for path, error in unread.items())
        remedy = "put the study and the data on a file system that the nodes see, at the same path"
        return Finding(name="data", status="error", message=message, remedy=remedy)
    return ok("data", f"the study and {len(request.paths)} data files and folders can be read")


def _clock(folder: Path, _request: NodeRequest) -> Finding:
    skew = time.time() - attempts.file_clock(folder)
    message = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the file system's clock"
    if abs(skew) > CLOCK_SECONDS:
        remedy = "none is needed by orch, which uses the file system's clock; times in logs will differ"
        return Finding(name="clock", status="warning", message=message, remedy=remedy)
    return ok("clock", message)


def _scratch(_folder: Path, request: NodeRequest) -> Finding:
    stage = str(request.environment.get("stage") or "")
    place = Path(os.path.expandvars(stage)) if stage else Path(tempfile.gettempdir())
    if stage and not place.is_absolute():
        remedy = "write a path, or a variable that the nodes have, as `cluster.stage`"
        return Finding(
            name="scratch", status="error", message=f"{stage} is not set on this node", remedy=remedy
        )
    place.mkdir(parents=True, exist_ok=True)
    free, speed = shutil.disk_usage(place).free, _write_speed(place)
    message = f"{place}: {free / 1e9:.0f} GB free, writes {speed / 1e6:.0f} MB/s"
    if speed < SLOW_SCRATCH:
        remedy = "leave `cluster.stage` out, or name a faster disk of the node"
        return Finding(name="scratch", status="warning", message=message, remedy=remedy)
    return ok("scratch", message)


def _write_speed(place: Path) -> float:
    block = os.urandom(1 << 22)
    with tempfile.NamedTemporaryFile(dir=place) as file:
        began = time.monotonic()
        for _ in range(SCRATCH_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return SCRATCH_BYTES / (time.monotonic() - began)


def _srun(_folder: Path, request: NodeRequest) -> Finding:
    severe = "error" if request.nodes > 1 else "warning"
    remedy = "cells on several nodes need srun in the job: mount it into the container, or use one node"
    if not shutil.which("srun"):
        return Finding(name="srun", status=severe, message="srun is not on PATH in the job", remedy=remedy)
    words = ["srun", "--overlap", f"--nodes={request.nodes}", f"--ntasks={request.nodes}", "true"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        return Finding(name="srun", status=severe, message=done.stderr.strip()[-300:], remedy=remedy)
    return ok("srun", f"starts a process on each of {request.nodes} nodes")


def _reduce(folder: Path, request: NodeRequest) -> Finding:
    """Two processes, or one on each node, add a number, over the network that cells would use."""
    environment = NodeEnvironment.model_validate(request.environment)
    count = max(2, request.nodes)
    remedy = "name the network between the nodes in `cluster.network_interface`"
    meeting = folder / "meeting"
    meeting.mkdir()
    try:
        with rendezvous.beacon(meeting, environment.network_interface) as port:
            processes = _start_reduce(meeting, request.nodes, environment)
            found = rendezvous.meet(meeting, count, port, lambda: False)
    except rendezvous.Unreachable as error:
        return Finding(name="all-reduce", status="error", message=str(error), remedy=remedy)
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(REDUCE_SECONDS)
        process.kill()
    sums = [path.read_text(encoding="utf-8") for path in meeting.glob("sum-*")]
    where = f"{count} processes at {found.address if found else ''}"
    if len(sums) < count:
        message = f"{len(sums)} of {where} finished; the end of the job's output says why"
        return Finding(name="all-reduce", status="error", message=message, remedy=remedy)
    return ok("all-reduce", f"{where}, {' and '.join(sorted(set(sums)))}")


def _start_reduce(folder: Path, nodes: int, environment: NodeEnvironment) -> list[subprocess.Popen[bytes]]:
    words = ["-P", "-m", "orch.launching.worker.node_check", "reduce", str(folder)]
    if nodes > 1:
        return [subprocess.Popen([*ranks.srun_words(nodes, environment), *words])]
    numbers = ({"SLURM_NODEID": str(rank), "SLURM_NNODES": "2"} for rank in range(2))
    return [subprocess.Popen([sys.executable, *words], env=os.environ | number) for number in numbers]


def reduce(folder: Path) -> None:
    """One process of the sum; writes its backends into a file once the sum is right."""
    rank, count = int(os.environ["SLURM_NODEID"]), int(os.environ["SLURM_NNODES"])
    rendezvous.try_addresses(folder, rank)
    end = time.monotonic() + rendezvous.MEET_SECONDS
    while not (found := rendezvous.meeting_of(folder, rank)):
        if time.monotonic() > end:
            return
        time.sleep(rendezvous.POLL_SECONDS)
    meeting, interface = found
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": "0",
        "MASTER_ADDR": meeting.address, "MASTER_PORT": str(meeting.port), **rendezvous.variables(interface),
    }  # fmt: skip
    from orch_core.learn import distributed

    gpus = distributed.gpu_names()
    across_nodes = (
        int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) > 1
    )  # NCCL refuses two processes on one GPU
    with distributed.group():
        for backend in ("gloo", "nccl") if gpus and across_nodes else ("gloo",):
            distributed.check_sum(backend)
    write_atomic(folder / f"sum-{rank}", "gloo and nccl" if gpus and across_nodes else "gloo")


if __name__ == "__main__":
    role, place = sys.argv[1:]
    reduce(Path(place)) if role == "reduce" else check(Path(place))
