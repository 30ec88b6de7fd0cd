"""Training of one cell by several processes: one per GPU of a worker, on one node or all nodes of its job.

attempts/<k>/ranks/config.json    settings of all ranks, written by the worker
                   beacon.json, reach-<n>.json, meeting.json: see rendezvous
                   node-<n>.json the agent of a node, which starts its ranks; `.ended` once they have ended
                   node-<n>.txt  output of the nodes of a job with several
                   stop          the worker's request to stop
                   failed-<who>  how a rank failed; the agents then end the others
                   result.json   of rank 0

On one node the worker is the agent. On several, srun starts an agent per node, and is then killed: at a
preemption Slurm gives every process KillWait seconds to save, but its SIGTERM makes a living srun kill the
step at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orch.launching.worker import causes, claims, rendezvous
from orch.launching.worker.process import Every, Stop, heartbeat, signals_to
from orch.launching.worker.rendezvous import Meeting
from orch.launching.worker.staging import Stage, cell_from
from orch_core.files import dumps, publish_once, write_atomic
from orch_core.grid.resources import NodeEnvironment
from orch_core.study import attempts
from orch_core.study.attempts import STALE_SECONDS, End
from orch_core.study.folder import Study
from orch_core.study.record import Cause, Reason

if TYPE_CHECKING:
    from orch_core.learn import MemoryPlan, Result

POLL_SECONDS = 0.1  # of processes on the same node
LOOK_SECONDS = 1.0  # between checks of the study: fences, requests to stop, failures elsewhere
START_SECONDS = 300.0  # for repeated attempts of srun, whose controller may be down
END_SECONDS = 20.0  # that the other nodes' agents get to end their ranks after a failure
LOG_LINES = 40
GENTLE = frozenset({-signal.SIGUSR2, -signal.SIGTERM})
FIRST_CAUSES = (
    Cause.OUT_OF_MEMORY, Cause.DISK_FULL, Cause.BAD_DATA, Cause.KILLED, Cause.CODE_ERROR, Cause.NETWORK
)  # fmt: skip
"""Of several failed ranks, the reason is that with the first of these causes: others lost their peer."""


class Fenced(Exception):  # noqa: N818  # not an error: another attempt took over
    """A later attempt has been claimed: this one must not write any more."""


class RankFailed(Exception):  # noqa: N818  # `end` describes the failure
    """A process of the cell failed; `end` describes how."""

    def __init__(self, end: End) -> None:
        super().__init__(end.message)
        self.end = end


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Processes that train a cell together: `nodes` times `per_node`."""

    nodes: int = 1
    per_node: int = 1

    @property
    def count(self) -> int:
        """Number of processes."""
        return self.nodes * self.per_node


ONE = Ranks()


@dataclass(frozen=True, slots=True, kw_only=True)
class RankConfig:
    """Settings of all ranks: the cell, how the batch fits into memory, and where data are copied to."""

    root: str
    cell: str
    nodes: int
    per_node: int
    memory_plan: dict[str, Any]
    stage: str = ""


def of_allocation(environment: Mapping[str, str] = os.environ) -> Ranks:
    """One process per GPU of the Slurm job that contains this process, or one per node without GPUs."""
    return Ranks(
        nodes=int(environment.get("SLURM_JOB_NUM_NODES", "1")),
        per_node=max(1, int(environment.get("SLURM_GPUS_ON_NODE", "1"))),
    )


def pretrain(
    study: Study,
    attempt: Path,
    ranks: Ranks,
    memory_plan: MemoryPlan,
    prepared: NodeEnvironment,
    should_stop: Callable[[], bool],
) -> Result:
    """Train the cell of an attempt's folder in `ranks.count` processes; returns what `learn.pretrain` does.

    Raises learn.Stopped and Fenced as one process does, and RankFailed if a process failed or died.
    """
    from orch_core import learn

    folder = attempt / "ranks"
    folder.mkdir()
    config = RankConfig(
        root=str(study.root),
        cell=attempt.parents[1].name,
        nodes=ranks.nodes,
        per_node=ranks.per_node,
        memory_plan=asdict(memory_plan),
        stage=prepared.stage or "",
    )
    write_atomic(folder / "config.json", dumps(asdict(config)))
    if ranks.nodes == 1:
        run_node(folder, 0, Meeting(address=rendezvous.HERE, port=_free_port()), "lo", should_stop)
    else:
        _run_nodes(folder, ranks.nodes, prepared, should_stop)
    _print_tails(folder)
    if (folder / "result.json").exists():
        document = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        reason = Reason(**document["reason"]) if document["reason"] else None
        shutil.rmtree(folder, ignore_errors=True)
        return learn.Result(**{**document, "reason": reason})
    end = _failure(folder)
    if (end is None or end.cause == Cause.NETWORK) and (should_stop() or (folder / "stop").exists()):
        raise learn.Stopped  # a signal before ranks can save ends them, and their peers lose the connection
    if end and end.how == "fenced":
        raise Fenced
    raise RankFailed(
        end or End(how="failed", cause=Cause.KILLED, message="its processes ended without recording a result")
    )


def _failure(folder: Path) -> End | None:
    """The end of the rank that made the others fail, or None if no rank failed."""
    found = sorted(folder.glob("failed-*"), key=lambda path: path.stat().st_mtime_ns)
    ends = [End(**json.loads(path.read_text(encoding="utf-8"))) for path in found]
    fenced = next((end for end in ends if end.how == "fenced"), None)
    return fenced or min(ends, key=_blame, default=None)


def _blame(end: End) -> int:
    """Position of a cause in FIRST_CAUSES; others count as CODE_ERROR, before NETWORK, a consequence."""
    return FIRST_CAUSES.index(end.cause if end.cause in FIRST_CAUSES else Cause.CODE_ERROR)


def _print_tails(folder: Path) -> None:
    """Copy the end of each node's output into the attempt's log."""
    for path in sorted(folder.glob("node-*.txt")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        sys.stdout.write(f"--- {path.name}\n" + "".join(f"{line}\n" for line in lines))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


def run_node(
    folder: Path, node: int, meeting: Meeting, interface: str, should_stop: Callable[[], bool]
) -> None:
    """Start a node's ranks and wait for them; if one fails here or elsewhere, end the others.

    They are asked to stop, once, when `should_stop()` is true; an exception that it raises ends them too.
    """
    config = _config(folder)
    before = claims.oom_kills()
    first = node * config.per_node
    place = {"MASTER_ADDR": meeting.address, "MASTER_PORT": str(meeting.port)}
    place |= rendezvous.variables(interface)
    ranks = {
        first + local: _start_rank(folder, config, first + local, local, place)
        for local in range(config.per_node)
    }
    asked, look = False, Every(LOOK_SECONDS)
    try:
        while any(process.poll() is None for process in ranks.values()):
            if not asked and should_stop():
                asked = True
                for process in ranks.values():
                    process.send_signal(signal.SIGUSR2)
            if any(process.returncode for process in ranks.values()):
                break
            if look.due() and any(folder.glob("failed-*")):
                break
            time.sleep(POLL_SECONDS)
        asked = asked or should_stop()
    finally:
        killed = [process for process in ranks.values() if process.poll() is None]
        for process in killed:
            process.kill()
        for process in ranks.values():
            process.wait()
    for rank, process in ranks.items():
        if process not in killed and not (asked and process.returncode in GENTLE):
            _note_death(folder, rank, process.returncode, before)


def _start_rank(
    folder: Path, config: RankConfig, rank: int, local: int, place: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    number = {
        "RANK": rank,
        "WORLD_SIZE": config.nodes * config.per_node,
        "LOCAL_RANK": local,
        "LOCAL_WORLD_SIZE": config.per_node,
    }
    return subprocess.Popen(
        [sys.executable, *_role("rank", folder)],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **place, **{name: str(value) for name, value in number.items()}},
    )


def _role(role: str, folder: Path) -> list[str]:
    return ["-P", "-m", "orch.launching.worker.ranks", role, str(folder)]


def _note_death(folder: Path, rank: int, code: int, oom_kills: int) -> None:
    """Write the failure of a rank that did not write it itself."""
    if code == 0:
        return
    what = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    cause = Cause.KILLED
    if code == -signal.SIGKILL and claims.oom_kills() > oom_kills:
        cause, what = Cause.OUT_OF_MEMORY, "was killed for lack of memory"
    where = f"rank {rank} on {os.environ.get('SLURMD_NODENAME') or socket.gethostname()}"
    end = End(how="failed", cause=cause, message=f"{where} {what}")
    publish_once(folder / f"failed-{rank}", dumps(asdict(end)))


def _config(folder: Path) -> RankConfig:
    return RankConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _run_nodes(folder: Path, nodes: int, prepared: NodeEnvironment, should_stop: Callable[[], bool]) -> None:
    """Train on all nodes of the job; what fails on the way is written as `failed-...`."""
    try:
        with rendezvous.beacon(folder, prepared.network_interface) as port:
            _start_nodes(folder, nodes, prepared, should_stop)
            rendezvous.meet(folder, nodes, port, should_stop)
    except rendezvous.Unreachable as error:
        words = f"{error}; `cluster.network_interface` names the network to use"
        end = End(how="failed", cause=Cause.NETWORK, message=words)
        publish_once(folder / "failed-rendezvous", dumps(asdict(end)))
    _watch_nodes(folder, nodes, should_stop)


def _start_nodes(
    folder: Path, nodes: int, prepared: NodeEnvironment, should_stop: Callable[[], bool]
) -> None:
    """Start an agent on every node of the job with srun; repeat while the controller does not answer."""
    from orch_core import learn

    container = prepared.container
    if not shutil.which("srun"):
        where = f"the container {container.image}" if container else "this node"
        message = (
            f"a cell on several nodes needs srun, and {where} has none: mount it, or use one node a cell"
        )
        raise RankFailed(End(how="failed", cause=Cause.BAD_DATA, message=message))
    output = [f"--output={folder}/node-%n.txt", "--open-mode=append"]
    command = srun_words(nodes, prepared, output)
    end = time.monotonic() + START_SECONDS
    while True:
        srun = subprocess.Popen([*command, *_role("node", folder)], start_new_session=True)
        try:
            while srun.poll() is None and _agents(folder) < nodes:
                if should_stop():
                    raise learn.Stopped
                time.sleep(POLL_SECONDS)
            if srun.poll() is None or _agents(folder) == nodes:
                return
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(srun.pid, signal.SIGKILL)  # and its child, which would otherwise cancel the step
            srun.wait()
        if time.monotonic() > end:
            message = f"srun did not start the cell's processes (exit code {srun.returncode}): see the log"
            raise RankFailed(End(how="failed", cause=Cause.KILLED, message=message))
        time.sleep(5.0)


def srun_words(nodes: int, prepared: NodeEnvironment, options: Sequence[str] = ()) -> list[str]:
    """The command, up to the arguments of Python, by which srun starts a Python on every node of this job."""
    container = prepared.container
    words = ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    words += ["--cpu-bind=none", "--input=none", *options]
    if container is None:
        return [*words, sys.executable]
    flags = [f"--{name}={value}" for name, value in container.sbatch_options().items()]
    return [*words, *flags, *container.command(), "python3"]


def _agents(folder: Path) -> int:
    """Number of nodes whose agent has started."""
    return sum(path.suffix in {".json", ".ended"} for path in folder.glob("node-*"))


def _watch_nodes(folder: Path, nodes: int, should_stop: Callable[[], bool]) -> None:
    """Wait for the agents; pass on a request to stop, and do not wait for agents that do not respond."""
    failed_at, listen = time.monotonic(), Every(STALE_SECONDS / 2)
    while len(list(folder.glob("node-*.ended"))) < nodes:
        if should_stop():
            (folder / "stop").touch()
        now = time.monotonic()
        failed_at = failed_at if any(folder.glob("failed-*")) else now
        if now - failed_at > END_SECONDS:
            return
        if listen.due():
            for path in folder.glob("node-*.json"):
                if attempts.file_clock(folder) - path.stat().st_mtime > STALE_SECONDS:
                    end = End(how="failed", cause=Cause.KILLED, message=f"{path.stem} stopped responding")
                    publish_once(folder / f"failed-{path.stem}", dumps(asdict(end)))
        time.sleep(LOOK_SECONDS)


def _agent(folder: Path) -> None:
    """Run the ranks of one node of several."""
    node = int(os.environ["SLURM_NODEID"])
    path, stop = folder / f"node-{node}.json", Stop()
    look = Every(LOOK_SECONDS)

    def should_stop() -> bool:
        if look.due() and (folder / "stop").exists():
            stop.reason = Cause.SIGNAL
        return bool(stop.wanted())

    with signals_to(stop):
        path.touch()
        with heartbeat(path):
            rendezvous.try_addresses(folder, node)
            while not (found := rendezvous.meeting_of(folder, node)):
                if should_stop() or any(folder.glob("failed-*")):
                    break
                time.sleep(POLL_SECONDS)
            if found:
                _stage(folder, should_stop)
                run_node(folder, node, *found, should_stop)
        path.rename(path.with_suffix(".ended"))


def _stage(folder: Path, should_stop: Callable[[], bool]) -> None:
    """Copy the cell's data to this node; the copies are the next cell's too, until the job ends."""
    config = _config(folder)
    cell = Study(Path(config.root)).cell(config.cell)
    Stage(folder=config.stage, should_stop=should_stop).add(
        {Path(one.path).resolve() for one in cell.data if one.path}
    )


def _rank(folder: Path) -> None:
    """One process of the cell; it ends with its agent, and does not return if it fails."""
    from orch_core import learn
    from orch_core.learn import distributed

    config, rank = _config(folder), int(os.environ["RANK"])
    study = Study(Path(config.root))
    cell, home, stop = cell_from(study.cell(config.cell)), study.cell_folder(config.cell), Stop()
    memory_plan, trunks = learn.MemoryPlan(**config.memory_plan), study.trunks
    with signals_to(stop):
        try:
            with distributed.group():
                watch = _watch(folder, rank, stop)
                result = learn.pretrain(cell, home, should_stop=watch, memory_plan=memory_plan, trunks=trunks)
                if rank == 0:
                    document = {
                        name: getattr(result, name) for name in ("status", "values", "cost", "reason")
                    }
                    reason = asdict(result.reason) if result.reason else None
                    publish_once(folder / "result.json", dumps({**document, "reason": reason}))
        except learn.Stopped:
            return
        except BaseException as error:  # noqa: BLE001  # a rank that hangs would keep the others waiting
            _fail(folder, rank, error, study.root)


def _watch(folder: Path, rank: int, stop: Stop) -> Callable[[], bool]:
    """`should_stop` of a rank; raises Fenced in rank 0, which writes, and RankFailed if the agent is dead."""
    parent, look = os.getppid(), Every(LOOK_SECONDS)

    def should_stop() -> bool:
        if os.getppid() != parent:
            message = f"the agent of rank {rank} died"
            raise RankFailed(End(how="failed", cause=Cause.KILLED, message=message))
        if rank == 0 and look.due() and attempts.is_overtaken(folder.parent):
            raise Fenced
        return bool(stop.wanted())

    return should_stop


def _fail(folder: Path, rank: int, error: BaseException, root: Path) -> None:
    """Write why this rank failed and exit, without closing process groups, which may wait for ever."""
    import traceback

    traceback.print_exception(error)
    if isinstance(error, RankFailed):
        end = error.end
    else:
        end = End(how="fenced") if isinstance(error, Fenced) else causes.end_of(error, root)
    with contextlib.suppress(OSError):
        publish_once(folder / f"failed-{rank}", dumps(asdict(end)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    role, place = sys.argv[1:]
    _agent(Path(place)) if role == "node" else _rank(Path(place))
