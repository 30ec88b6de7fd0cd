"""Launching: a manifest, and workers that walk it, in this process, on this machine or on Slurm.

The only door to submitit, which carries a tiny entry point and strings; see `orch.launching.worker` for what runs.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orch.console import command_line
from orch.launching import freeze, journal, progress, slurm
from orch.launching.journal import ManifestEntry
from orch.launching.settings import Failure, Settings, Summary, summarise
from orch.launching.slurm import Value
from orch.launching.status import Standing, stand, survey
from orch.launching.waiting import Watch, disk_full, wait_for
from orch.launching.worker import claims, main
from orch.launching.worker.process import ONE_THREAD, Stop, signals_to, warning_seconds
from orch.launching.worker.training import WorkerContext
from orch.launching.workers import Fleet, job_name, local_fleet, shares_of, slurm_fleet
from orch_core import provenance
from orch_core.cell import Job
from orch_core.errors import OrchError
from orch_core.files import dumps
from orch_core.grid.resources import minutes_of
from orch_core.recipes import trunk
from orch_core.study import attempts
from orch_core.study.folder import Study

__all__ = ["Failure", "Script", "Settings", "Summary", "launch", "preview"]

MIN_MINUTES, MAX_MINUTES = (
    10.0,
    24 * 60.0,
)  # of a worker's job where the user gives no time: it requeues itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What would be submitted for one resource class."""

    group: str
    cells: int
    workers: int
    gpu_hours: float
    text: str


def launch(
    study: Study,
    jobs: Sequence[Job],
    settings: Settings,
    *,
    wait: bool = True,
    overspent: Callable[[], bool] = lambda: False,
) -> Summary:
    """Run what is missing of the jobs; safe to call again, or twice at once: nothing is done twice.

    Once `overspent()` is true, asked now and then, workers save and end.
    Raises OrchError where nothing can be launched: a full disk, workers that cannot start, a bad Slurm option.
    """
    entries = open_entries(study, jobs, settings)
    if not entries:
        return Summary(token="", done=0, failed=0, remaining=0)
    on_slurm = settings.cluster == "slurm"
    options = _slurm_options(study, entries, settings) if on_slurm else {}
    token = journal.new_token()
    try:
        snapshot = freeze.freeze(study)
        about = _about(settings, snapshot, options)
        folder = journal.begin(study, token, entries, about)
        lock = claims.lock_file(
            folder / "launcher.json", dumps(asdict(claims.current_owner(token, "launcher")))
        )
    except OSError as error:
        raise disk_full(study, error) from error
    stop = Stop()
    try:
        with signals_to(stop), progress.live(study) as tell:
            watch = Watch(
                study=study,
                token=token,
                limit=settings.attempts,
                stop=stop,
                tell=tell,
                max_seconds=3600 * settings.max_gpu_hours or math.inf,
                overspent=overspent,
            )
            if settings.cluster == "debug":
                standings = _in_process(watch, entries, about["code"])
            else:
                fleet = _fleet(watch, entries, settings, snapshot, options)
                standings = wait_for(watch, entries, fleet) if wait else _leave(watch, entries, fleet)
    finally:
        os.close(lock)
    if stop.reason:
        progress.say(progress.how_to_go_on(stop.reason, settings.cluster))
    return summarise(study, token, standings, stopped=stop.reason)


def open_entries(study: Study, jobs: Sequence[Job], settings: Settings) -> list[ManifestEntry]:
    """The jobs that lack a record, in the order in which to start them."""
    entries, cancelled = [], journal.cancelled_cells(study.root)
    for job in jobs:
        cell, group = job.cell.id, group_of(job, settings)
        if cell in cancelled:
            continue
        folder = study.cell_folder(cell)
        if not folder.exists():
            entries.append(ManifestEntry(id=cell, job=job, group=group))
            continue
        taken = attempts.numbers(folder)
        ended = [number for number in taken if attempts.end_of(folder / "attempts" / str(number))]
        entry = ManifestEntry(id=cell, job=job, group=group, after=max(ended, default=0))
        if not main.is_settled(study, entry):
            entries.append(entry)
    return _in_order(entries)


def _in_order(entries: Sequence[ManifestEntry]) -> list[ManifestEntry]:
    """Longest first, so that workers end together; what shares a trunk stays in the plan's order, to go on from one another."""
    cooled = ["cooldown" in dict(entry.job.cell.overrides) for entry in entries]
    trunks = [(own and trunk(entry.job.cell)) or entry.id for own, entry in zip(cooled, entries, strict=True)]
    seconds = dict.fromkeys(trunks, 0.0)
    for name, entry in zip(trunks, entries, strict=True):
        seconds[name] += entry.job.seconds
    place = {name: at for at, name in enumerate(sorted(seconds, key=lambda name: -seconds[name]))}
    ordered = sorted(zip(trunks, entries, strict=True), key=lambda pair: place[pair[0]])
    return [entry for _, entry in ordered]


def group_of(job: Job, settings: Settings) -> str:
    """The resource class of a job: its size class where that has a profile, else `default`."""
    return job.size_class if job.size_class in settings.profiles else "default"


def preview(study: Study, jobs: Sequence[Job], settings: Settings) -> tuple[Script, ...]:
    """What a launch on Slurm would submit: the exact sbatch script of each resource class. Submits nothing."""
    entries = open_entries(study, jobs, settings)
    options = _slurm_options(study, entries, settings) if entries else {}
    groups = Counter(entry.group for entry in entries)
    shares = _shares(entries, settings)
    return tuple(
        Script(
            group=group,
            cells=count,
            workers=shares[group],
            gpu_hours=sum(entry.job.seconds for entry in entries if entry.group == group) / 3600,
            text=script_text(study, "TOKEN", group, shares[group], options[group], Path("SNAPSHOT.zip")),
        )
        for group, count in groups.items()
    )


def _about(settings: Settings, snapshot: Path, options: Mapping[str, Mapping[str, Value]]) -> dict[str, Any]:
    return {
        "cluster": settings.cluster,
        "parallel": settings.parallel,
        "attempts": settings.attempts,
        "options": options,
        "minutes": {group: [given["time"], _longest(given)] for group, given in options.items()},
        "cells_per_job": settings.cells_per_job if options else {},
        "gpus": settings.gpus,
        "argv": command_line(),
        "code": {**provenance.code_state(), "snapshot": f"code/{snapshot.name}"},
    }


def _in_process(watch: Watch, entries: list[ManifestEntry], code: dict[str, Any]) -> list[Standing]:
    """Walk the manifest here, one cell after another, output on the terminal."""
    os.environ.update(ONE_THREAD)
    context = WorkerContext(
        study=watch.study,
        token=watch.token,
        owner=claims.current_owner(watch.token, "debug"),
        stop=watch.stop,
        limit=watch.limit,
        code=code,
        redirect=False,
    )

    def look() -> list[Standing]:
        return survey(watch.study, entries, token=watch.token, limit=watch.limit)

    if main.walk_manifest(context, entries, tell=lambda: watch.tell(look(), 1, "")) == "disk_full":
        raise disk_full(watch.study)
    return look()


def _fleet(
    watch: Watch,
    entries: list[ManifestEntry],
    settings: Settings,
    snapshot: Path,
    options: Mapping[str, Mapping[str, Value]],
) -> Fleet:
    """Workers in processes that outlive this one, on this machine or on Slurm."""
    study, token = watch.study, watch.token
    if settings.cluster == "local":
        return local_fleet(
            study,
            token,
            settings,
            lambda name: _submit_local(study, token, name, settings.gpus, snapshot),
            unfinished=len(entries),
        )
    return slurm_fleet(
        study,
        token,
        settings,
        lambda group, count, minutes: _submit_slurm(
            study, token, group, count, {**options[group], "time": int(minutes)}, snapshot
        ),
        functools.partial(_adopt, study),
        _shares(entries, settings),
        {group: (float(given["time"]), _longest(given)) for group, given in options.items()},
    )


def _leave(watch: Watch, entries: Sequence[ManifestEntry], fleet: Fleet) -> list[Standing]:
    """Start the workers, and do not wait for them."""
    standings = [stand(watch.study, entry) for entry in entries]
    fleet.keep([standing for standing in standings if standing.state == "pending"])
    return standings


def _shares(entries: Sequence[ManifestEntry], settings: Settings) -> Counter[str]:
    seconds: dict[str, float] = {}
    for entry in entries:
        seconds[entry.group] = seconds.get(entry.group, 0.0) + entry.job.seconds
    return shares_of(settings, Counter(entry.group for entry in entries), seconds)


def _slurm_options(
    study: Study, entries: Sequence[ManifestEntry], settings: Settings
) -> dict[str, dict[str, Value]]:
    """Checked sbatch options of each resource class, with a time limit where the user gave none."""
    shares, checked = _shares(entries, settings), {}
    for group in shares:
        options = settings.options_of(group)
        slurm.check(options, study.root)
        if "time" not in options:
            seconds = [entry.job.seconds for entry in entries if entry.group == group]
            share = max(*seconds, sum(seconds) / shares[group])
            limit = slurm.partition_minutes(str(options.get("partition", "")))
            options["time"] = int(min(limit, MAX_MINUTES, max(MIN_MINUTES, 2 * share / 60)))
        options["time"] = int(minutes_of(str(options["time"])))
        checked[group] = options
    return checked


def _longest(options: Mapping[str, Value]) -> float:
    """Minutes that a job of a class may have after it met its time limit."""
    most = min(MAX_MINUTES, slurm.partition_minutes(str(options.get("partition", ""))))
    return max(float(options["time"]), most)


def _submit_local(study: Study, token: str, name: str, each: int, snapshot: Path) -> Any:
    """A worker process of this machine, which sees `each` of its GPUs."""
    import submitit

    gpus = provenance.gpus()
    executor = submitit.LocalExecutor(study.root / "logs" / token, python=f"{shlex.quote(sys.executable)} -P")
    executor.update_parameters(
        timeout_min=60 * 24 * 365,
        stderr_to_stdout=True,
        gpus_per_node=min(each, len(gpus)),
        visible_gpus=tuple((int(name[1:]) * each + one) % len(gpus) for one in range(min(each, len(gpus)))),
    )
    # Ctrl-C in a terminal reaches every process of its group: submitit's controller would kill its
    # worker after a second. Children inherit that the signal is ignored; workers then set their own flag.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _environment(snapshot):
            return executor.submit(main.run, str(study.root.resolve()), token, name)
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGHUP, before[1])


def _submit_slurm(
    study: Study, token: str, group: str, count: int, options: Mapping[str, Value], snapshot: Path
) -> str:
    """One sbatch call for an array of workers; returns its job id, or raises OrchError with sbatch's words."""
    from submitit.core.utils import FailedJobError

    executor = _slurm_executor(study, token, group, count, options, snapshot)
    try:
        jobs = executor.submit_array([_entry(study, token, group, float(options["time"]))] * count)
    except FailedJobError as error:
        words = " ".join(str(error).split())
        message = f"sbatch says: {words}"
        raise OrchError(message, hint=slurm.hint_for(words)) from error
    return str(jobs[0].job_id).partition("_")[0]


def _entry(study: Study, token: str, group: str, minutes: float) -> Callable[[], str]:
    return functools.partial(main.run, str(study.root.resolve()), token, "", group, minutes)


def _adopt(study: Study, token: str, group: str, job: str, count: int, minutes: float) -> None:
    """Give the tasks of an orphaned array what they wait for: submitit writes it after sbatch has returned."""
    from submitit.core.utils import DelayedSubmission

    logs = study.root.resolve() / "logs" / token
    names = [f"{job}_{task}" for task in range(count)] if count > 1 else [job]
    for name in names:
        draft, target = logs / f".{name}.pkl", logs / f"{name}_submitted.pkl"
        if not target.exists():
            DelayedSubmission(_entry(study, token, group, minutes)).dump(draft)
            draft.rename(target)


def script_text(
    study: Study, token: str, group: str, count: int, options: Mapping[str, Value], snapshot: Path
) -> str:
    """The sbatch script that `_submit_slurm` hands to Slurm."""
    executor = _slurm_executor(study, token, group, count, options, snapshot)
    if count > 1:
        executor.parameters["map_count"] = count
    return str(executor._make_submission_file_text(executor._submitit_command_str, ""))


def _slurm_executor(
    study: Study, token: str, group: str, count: int, options: Mapping[str, Value], snapshot: Path
) -> Any:
    import submitit

    folder = study.root.resolve() / "logs" / token
    folder.mkdir(parents=True, exist_ok=True)  # a task whose log has no folder dies without a word
    # exec: the worker itself gets the signals of the batch script, and no shell dies before it has saved
    executor = submitit.SlurmExecutor(folder, python=f"exec {shlex.quote(sys.executable)} -P")
    minutes = int(options["time"])
    passed = {name.replace("_", "-"): value for name, value in options.items() if name != "time"}
    bad = journal.bad_nodes(study.root, token)
    if bad:
        passed["exclude"] = ",".join(filter(None, [str(passed.get("exclude", "")), *bad]))
    executor.update_parameters(
        job_name=job_name(token, group),
        time=minutes,
        use_srun=False,
        stderr_to_stdout=True,
        array_parallelism=count,
        wckey=None,
        setup=[f"export {name}={shlex.quote(value)}" for name, value in worker_environment(snapshot).items()],
        additional_parameters={
            "signal": f"B:USR2@{warning_seconds(minutes)}",
            "requeue": True,
            **passed,
        },
    )
    return executor


@contextlib.contextmanager
def _environment(snapshot: Path) -> Iterator[None]:
    """What workers inherit: the frozen code first on their path, nothing of the launch directory, one thread."""
    wanted = worker_environment(snapshot)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def worker_environment(snapshot: Path) -> Mapping[str, str]:
    """The environment of a worker: `python -P` for its children too, the snapshot, and one thread a process."""
    others = [
        str(Path(part).resolve()) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part
    ]
    path = os.pathsep.join([str(snapshot.resolve()), *others])
    return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", **ONE_THREAD}
