"""The only module that uses submitit: it starts workers here, and submits arrays of them to Slurm.

submitit carries an entry point and strings; `orch.launching.worker.main` is what runs.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orch.launching import journal, slurm
from orch.launching.journal import JobRequest
from orch.launching.worker import main
from orch.launching.worker.process import ONE_THREAD, warning_seconds
from orch_core import provenance
from orch_core.grid.resources import NodeEnvironment, Option
from orch_core.study.folder import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """An array of `workers` on Slurm for one resource class of a launch, with the code of `snapshot`."""

    study: Study
    token: str
    group: str
    workers: int
    request: JobRequest
    snapshot: Path

    @property
    def entry(self) -> Callable[[], str]:
        """The function that each worker calls."""
        root = str(self.study.root.resolve())
        return functools.partial(main.run, root, self.token, "", self.group, self.request.minutes)


def job_name(token: str, group: str) -> str:
    """The Slurm job name of a launch's workers, by which a launch finds them if the submitter was killed."""
    return f"orch-{token}-{group}"


def header(array: Array) -> dict[str, Option]:
    """The sbatch header's options, besides submitit's (array, job-name, nodes, open-mode, time).

    An option for every job goes here. Workers avoid nodes on which others of the launch died.
    """
    options = dict(array.request.options)
    bad = journal.bad_nodes(array.study.root, array.token)
    if bad:
        options["exclude"] = ",".join(filter(None, [str(options.get("exclude", "")), *bad]))
    folder = str(_logs(array.study, array.token)).replace("%", "%%")
    return {
        "output": f"{folder}/{'%A_%a' if array.workers > 1 else '%j'}_0_log.out",
        "signal": f"B:USR2@{warning_seconds(array.request.minutes)}",
        "requeue": True,
        **options,
    }


def submit(array: Array) -> str:
    """Submit an array with one sbatch call; returns its job id. Raises OrchError with sbatch's message."""
    from submitit.core.utils import FailedJobError

    executor = _executor(array)
    environment = slurm.environment()
    environment.pop("CUDA_VISIBLE_DEVICES", None)  # of a surrounding job: Slurm sets it for each job
    try:
        with _environment(environment):
            jobs = executor.submit_array([array.entry] * array.workers)
    except FailedJobError as error:
        refused = slurm.refusal("sbatch", str(error))
        raise refused from error
    return str(jobs[0].job_id).partition("_")[0]


def adopt(array: Array, job: str) -> None:
    """Write the file that tasks of an orphaned array wait for: submitit writes it after sbatch returns."""
    from submitit.core.utils import DelayedSubmission

    logs = _logs(array.study, array.token)
    names = [f"{job}_{task}" for task in range(array.workers)] if array.workers > 1 else [job]
    for name in names:
        draft, target = logs / f".{name}.pkl", logs / f"{name}_submitted.pkl"
        if not target.exists():
            DelayedSubmission(array.entry).dump(draft)
            draft.rename(target)


def script_text(array: Array) -> str:
    """The sbatch script that `submit` gives to Slurm."""
    executor = _executor(array)
    if array.workers > 1:
        executor.parameters["map_count"] = array.workers
    return str(executor._make_submission_file_text(executor._submitit_command_str, ""))


def _executor(array: Array) -> Any:
    import submitit

    folder = _logs(array.study, array.token)
    folder.mkdir(parents=True, exist_ok=True)  # a task whose log has no folder ends without a message
    prepared = array.request.environment
    # exec: the worker receives the batch script's signals itself, and no shell ends before it has saved
    executor = submitit.SlurmExecutor(folder, python=f"exec {shlex.join(python_of(prepared))} -P")
    executor.update_parameters(
        job_name=job_name(array.token, array.group),
        time=int(array.request.minutes),
        use_srun=False,
        stderr_to_stdout=True,
        array_parallelism=array.workers,
        wckey=None,
        setup=preparation(prepared, array.snapshot),
        additional_parameters=header(array),
    )
    return executor


def preparation(prepared: NodeEnvironment, snapshot: Path) -> list[str]:
    """The shell lines that run in a job before its Python starts."""
    variables = _exports(prepared.variables())
    return [*variables, *(prepared.setup or ()), *_exports(worker_environment(snapshot))]


def _exports(variables: Mapping[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def python_of(prepared: NodeEnvironment) -> list[str]:
    """The Python of a worker: the one that runs here, or `python3` of the container's image."""
    return [*prepared.container.command(), "python3"] if prepared.container else [sys.executable]


def _logs(study: Study, token: str) -> Path:
    return study.root.resolve() / "logs" / token


def start_here(study: Study, token: str, number: int, gpus_each: int, snapshot: Path) -> Any:
    """Start a worker process on this machine that sees `gpus_each` GPUs; returns submitit's handle of it.

    Inside a Slurm job the worker does not start a process for each of the job's GPUs.
    """
    import submitit

    gpus = provenance.visible_gpus()
    seen = [gpus[(number * gpus_each + one) % len(gpus)] for one in range(min(gpus_each, len(gpus)))]
    executor = submitit.LocalExecutor(study.logs / token, python=f"{shlex.quote(sys.executable)} -P")
    executor.update_parameters(
        timeout_min=60 * 24 * 365,
        stderr_to_stdout=True,
        gpus_per_node=len(seen),
    )
    executor.parameters["visible_gpus"] = tuple(seen)  # ids may be names, which update_parameters refuses
    # Ctrl-C in a terminal reaches every process of its group: submitit's controller would kill its
    # worker after a second. Children inherit that the signal is ignored; workers then set their own flag.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _environment({**slurm.environment(), **worker_environment(snapshot)}):
            return executor.submit(main.run, str(study.root.resolve()), token, f"w{number}")
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGHUP, before[1])


@contextlib.contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Replace the whole environment inside the block."""
    before = dict(os.environ)
    _replace_environment(wanted)
    try:
        yield
    finally:
        _replace_environment(before)


def _replace_environment(wanted: Mapping[str, str]) -> None:
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


def worker_environment(snapshot: Path) -> Mapping[str, str]:
    """A worker's environment: `python -P` for its children too, the snapshot, one thread per process."""
    others = [
        str(Path(part).resolve()) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part
    ]
    path = os.pathsep.join([str(snapshot.resolve()), *others])
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", **ONE_THREAD}
