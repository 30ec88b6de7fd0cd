"""A stand-in for `orch_core.learn`: its training is a hash chain, and misbehaves as its recipe says."""

import contextlib
import ctypes
import hashlib
import json
import multiprocessing.connection
import os
import signal
import time
from dataclasses import dataclass, field

from orch_core.errors import OrchError
from orch_core.files import write_atomic
from orch_core.study.record import Reason


class Stopped(Exception):
    pass


@dataclass
class Result:
    status: str
    values: dict = field(default_factory=dict)
    cost: dict = field(default_factory=dict)
    reason: object = None
    files: dict = field(default_factory=dict)


@dataclass
class MemoryPlan:
    micro_batch: int = 0
    checkpointing: bool = False


CODE = "the code that was launched"


class distributed:
    """Ranks meet where MASTER_ADDR and MASTER_PORT say, and agree on stopping at every step, as gloo's do."""

    rank, world, peers = 0, 1, []

    @staticmethod
    @contextlib.contextmanager
    def group():
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        if rank == 0:
            with multiprocessing.connection.Listener(place) as listener:
                peers = [listener.accept() for _ in range(world - 1)]
        else:
            peers = [connect(place)]
        distributed.rank, distributed.world, distributed.peers = rank, world, peers
        yield

    @staticmethod
    def agreed(wish):
        try:
            if distributed.rank == 0:
                wish = max([wish, *[peer.recv() for peer in distributed.peers]])
            for peer in distributed.peers:
                peer.send(wish)
            return distributed.peers[0].recv() if distributed.rank else wish
        except (EOFError, ConnectionError):
            raise RuntimeError("Connection closed by peer") from None


def connect(place):
    for _ in range(600):
        with contextlib.suppress(ConnectionError):
            return multiprocessing.connection.Client(place)
        time.sleep(0.1)
    raise RuntimeError("Connection refused")


def note(folder, **what):
    if distributed.rank:
        return
    with (folder / "audit.ndjson").open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), **what}) + "\n")


def pretrain(cell, folder, *, should_stop, memory_plan, trunks):
    (folder / "checkpoint").mkdir(exist_ok=True)
    saved = folder / "checkpoint" / "state.json"
    state = json.loads(saved.read_text()) if saved.exists() else {"step": 0, "chain": cell.id}
    seen = folder / f"seen-{distributed.rank}"
    first = state["step"] == 0 and not seen.exists()
    seen.touch()
    note(folder, begin=state["step"], micro_batch=memory_plan.micro_batch, ranks=distributed.world)
    print("training", cell.name, flush=True)
    pause = dict(cell.overrides).get("pause", 0.0)
    while state["step"] < cell.steps:
        if distributed.agreed(should_stop()):
            if distributed.rank == 0:
                write_atomic(saved, json.dumps(state))
            note(folder, stopped=state["step"])
            raise Stopped
        state = {"step": state["step"] + 1, "chain": hashlib.sha256(state["chain"].encode()).hexdigest()}
        time.sleep(pause)
        if distributed.rank:
            if state["step"] == 7 and cell.algorithm.startswith("rank"):
                misbehave(cell, folder, first)
            continue
        row = {"step": state["step"], "loss": 1.0 / state["step"], "images_per_second": 100.0}
        with (folder / "metrics.ndjson").open("a") as file:
            file.write(json.dumps(row) + "\n")
        if state["step"] % 5 == 0:
            write_atomic(saved, json.dumps(state))
        if state["step"] == 7:
            misbehave(cell, folder, first)
        if cell.algorithm == "hungry" and state["step"] == 7 and not 0 < memory_plan.micro_batch <= 2:
            held = b"x" * (400 << 20)
            time.sleep(4.0)  # accounting looks every second
            os.kill(os.getpid(), signal.SIGKILL * bool(held))
        if cell.algorithm == "greedy" and not 0 < memory_plan.micro_batch <= 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    if cell.algorithm == "diverge":
        return Result("diverged", reason=Reason(cause="diverged", message="loss is nan at step 7"))
    note(folder, end=state["step"])
    return Result(
        "done",
        {
            "heldout_loss": int(state["chain"][:8], 16) / 2**32,
            "threads": os.environ["OMP_NUM_THREADS"],
            "code": CODE,
        },
        {"seconds": 1.0},
    )


def misbehave(cell, folder, first):
    kind = cell.algorithm
    if kind == "bug":
        raise ValueError(f"a bug in {cell.name}")
    if kind == "bad":
        raise OrchError("tissue.npz is truncated", hint="copy it again")
    if kind == "oom":
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    if kind == "rankbug" and distributed.rank == 1:
        raise ValueError("a bug in rank 1")
    if (
        kind == "killed"
        or (kind == "once" and first)
        or (kind == "rankonce" and first and distributed.rank == 1)
    ):
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "segv":
        ctypes.string_at(0)
    if kind == "big":
        (folder / "checkpoint" / "big").write_bytes(bytes(64 << 20))


def probe(cell, folder, probes, *, should_stop):
    for one in probes:
        if one.task == "broken":
            raise ValueError("a bug in a probe")
        note(folder, probe=one.task)
        yield (
            one,
            Result(
                "done", {"auc": int(hashlib.sha256((cell.id + one.id).encode()).hexdigest()[:8], 16) / 2**32}
            ),
        )
