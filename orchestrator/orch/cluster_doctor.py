"""`orch doctor --cluster slurm`: a short job per resource class or partition checks its node."""

from __future__ import annotations

import contextlib
import json
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orch.console import say
from orch.doctor import Check
from orch.launching import freeze, slurm
from orch.launching.launch import environment_for
from orch.launching.settings import LaunchOptions, settings_of
from orch.launching.slurm import flag
from orch.launching.submit import preparation, python_of
from orch.launching.worker.node_check import NodeRequest
from orch.launching.worker.staging import data_of
from orch_core.errors import OrchError
from orch_core.files import dumps
from orch_core.grid.resources import Cluster, ResourceClass, environment_of
from orch_core.study.folder import open_study
from orch_core.study.plan import read_plan

JOB_MINUTES = 5  # imports from a cold network disk take minutes; a job ends as soon as it can
QUEUE_SECONDS = 600.0  # that a job may wait in the queue
POLL_SECONDS = 2.0
LOG_LINES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    """A submitted job: its name in the table, its folder, and its id."""

    name: str
    folder: Path
    job: str


def cluster_checks(study_root: Path | None) -> tuple[Check, ...]:
    """Check a node of each resource class of a study, or of each partition without a study.

    Writes into a temporary folder in the study or the working directory. Raises OrchError without Slurm.
    """
    slurm.run("scontrol", "ping", seconds=30)
    place, classes, paths = _what(study_root)
    with tempfile.TemporaryDirectory(dir=place, prefix=".orch-doctor-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        snapshot = freeze.store(folder / "code")
        probes: list[_Probe] = []
        checks: list[Check] = []
        try:
            for number, (label, asked) in enumerate(classes.items()):
                try:
                    probes.append(_submit(label, asked, folder / str(number), snapshot, paths))
                except OrchError as error:
                    checks.append(
                        Check(
                            name=f"{label}: sbatch",
                            status="error",
                            message=error.message,
                            remedy=error.hint or "",
                        )
                    )
            say(f"waiting for {len(probes)} jobs of at most {JOB_MINUTES} minutes; Ctrl-C cancels them")
            for probe in probes:
                checks += _result(probe)
        finally:
            with contextlib.suppress(OrchError):
                slurm.run("scancel", *(probe.job for probe in probes)) if probes else None
    return tuple(checks)


def _what(study_root: Path | None) -> tuple[Path, Mapping[str, ResourceClass], Sequence[Path]]:
    """Where to write, what to ask for by name, and which data workers would read."""
    options = LaunchOptions(cluster="slurm")
    if study_root:
        study = open_study(study_root)
        plan = read_plan(study)
        return study.root, settings_of(plan.cluster, options).classes, sorted(data_of(list(plan.jobs())))
    (one,) = settings_of(Cluster(), options).classes.values()
    names = slurm.run("sinfo", "--noheader", "--format=%R").split()
    return Path.cwd(), {name: one.model_copy(update={"partition": name}) for name in sorted(set(names))}, ()


def _submit(label: str, asked: ResourceClass, folder: Path, snapshot: Path, paths: Sequence[Path]) -> _Probe:
    folder.mkdir()
    environment = environment_for(asked, folder.parent, paths)
    container = environment.container
    request = NodeRequest(
        paths=tuple(map(str, paths)),
        environment=environment_of(environment),
        nodes=asked.node_count,
        gpus=asked.gpus // asked.node_count,
    )
    (folder / "request.json").write_text(dumps(asdict(request)), encoding="utf-8")
    words = [*python_of(environment), "-P", "-m", "orch.launching.worker.node_check", "check", str(folder)]
    lines = ["#!/bin/bash", *preparation(environment, snapshot), f"exec {shlex.join(words)}"]
    (folder / "job.sh").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = asked.options() | (container.sbatch_options() if container else {})
    limit = asked.minutes or slurm.wall_limit(options)[0]
    options |= {
        "time": int(min(JOB_MINUTES, limit)),
        "job-name": "orch-doctor",
        "output": f"{folder}/out.txt",
    }
    flags = [flag(name, value) for name, value in options.items()]
    job = slurm.run("sbatch", "--parsable", *flags, str(folder / "job.sh")).strip().partition(";")[0]
    return _Probe(name=label, folder=folder, job=job)


def _result(probe: _Probe) -> Iterator[Check]:
    """What a job found, once it has ended; then an error if it did not check everything."""
    state = _wait(probe)
    document: dict[str, Any] = {"done": False, "checks": []}
    with contextlib.suppress(OSError, ValueError):
        document = json.loads((probe.folder / "result.json").read_text(encoding="utf-8"))
    for found in document["checks"]:
        one = Check(**found)
        yield replace(one, name=f"{probe.name}: {one.name}")
    if not document["done"]:
        words = _output(probe.folder / "out.txt")
        message = f"job {probe.job} {state}" + (f"; its output ends with: {words}" if words else "")
        remedy = "correct `cluster.setup` or `cluster.container`" if words else "see `squeue` and `sinfo`"
        yield Check(name=f"{probe.name}: job", status="error", message=message, remedy=remedy)


def _wait(probe: _Probe) -> str:
    """Wait until a job has ended or waited for too long; its last state in words."""
    end, state = time.monotonic() + QUEUE_SECONDS, "ended before it could check everything"
    while True:
        try:
            line = slurm.run(
                "squeue", "--noheader", f"--jobs={probe.job}", "--format=%T %r", seconds=30
            ).strip()
        except OrchError:  # it has left the queue: Slurm says `Invalid job id`
            return state
        if not line:
            return state
        if line.startswith("PENDING") and time.monotonic() > end:
            return f"did not start within {QUEUE_SECONDS / 60:.0f} minutes ({line.partition(' ')[2]})"
        time.sleep(POLL_SECONDS)


def _output(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return " / ".join(line.strip() for line in lines[-LOG_LINES:] if line.strip())
