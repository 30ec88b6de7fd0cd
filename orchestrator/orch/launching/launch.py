"""`orch launch`: a manifest of what a plan lacks, run by workers, in this process, here or on Slurm."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic_core import PydanticCustomError

from orch.answer import Answer
from orch.console import command_line, say
from orch.launching import freeze, journal, progress, slurm
from orch.launching.journal import JobRequest, Launch, ManifestEntry
from orch.launching.local_workers import LocalWorkers, parallel_here
from orch.launching.settings import LaunchOptions, Settings, settings_of
from orch.launching.slurm_workers import SlurmWorkers, shares_of
from orch.launching.status import JobState, job_state, job_states
from orch.launching.submit import Array, script_text
from orch.launching.waiting import FINAL, Summary, Watch, Workers, disk_full, summarise, wait_for
from orch.launching.worker import claims, main
from orch.launching.worker.process import ONE_THREAD, Stop, signals_to
from orch.launching.worker.staging import data_of
from orch.launching.worker.training import WorkerContext
from orch_core import provenance
from orch_core.cell import Job
from orch_core.errors import OrchError
from orch_core.files import dumps
from orch_core.formatting import quantity
from orch_core.grid.resources import NodeEnvironment, ResourceClass
from orch_core.recipes import trunk
from orch_core.study import attempts
from orch_core.study.budget import limits_of, release, reserve, spent_hours
from orch_core.study.folder import Study
from orch_core.study.plan import Plan
from orch_core.study.record import Cause
from orch_core.study.stored import repair

MIN_MINUTES, MAX_MINUTES = 10.0, 24 * 60.0  # of a job if the user sets no time limit: it requeues itself
OTHERS_SECONDS = 5.0  # at least, between two looks of `orch worker` at cells of other workers
YEAR_MINUTES = 365 * 24 * 60.0  # replaces an infinite time limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The sbatch script of one resource class, with its cells, workers and hours."""

    group: str
    cells: int
    workers: int
    gpu_hours: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview(Answer):
    """The scripts that a launch on Slurm would submit, one per resource class."""

    scripts: tuple[Script, ...]

    def to_json(self) -> dict[str, Any]:
        """The scripts as one JSON document."""
        return asdict(self)

    @property
    def text(self) -> str:
        """Each script below a line that says what it would run and cost."""
        return "\n".join(map(_script_page, self.scripts)) or "nothing is left to launch"


def _script_page(script: Script) -> str:
    hours = quantity(script.gpu_hours, "device-hours")
    return f"# {script.group}: {script.cells:,} cells, {script.workers:,} workers, {hours}\n{script.text}"


def launch_study(plan: Plan, study: Study, options: LaunchOptions) -> Summary:
    """Launch what a study lacks of its plan; raises OrchError before anything runs.

    The plan's budget is reserved first: if it is exceeded, the error names the cells that do not fit.
    """
    settings = settings_of(plan.cluster, options)
    _check_training(options)
    limits = limits_of(plan)
    if limits.hours is not None:
        reserve(plan, study, limits)
    _say_cancelled(study)
    try:
        summary = launch_jobs(
            study,
            list(plan.jobs()),
            settings,
            wait=options.wait,
            overspent=lambda: limits.hours is not None and spent_hours(study) > limits.hours,
        )
    finally:
        if limits.hours is not None:
            release(study, plan.frame["id"].to_list())
    if options.wait and options.cluster != "worker":  # one process at a time writes the mirror
        _mirror(study)
    return summary


def preview(plan: Plan, study: Study, options: LaunchOptions) -> Preview:
    """The sbatch scripts that a launch on Slurm would submit; submits nothing."""
    return Preview(scripts=scripts(study, list(plan.jobs()), settings_of(plan.cluster, options)))


def launch_jobs(
    study: Study,
    jobs: Sequence[Job],
    settings: Settings,
    *,
    wait: bool = True,
    overspent: Callable[[], bool] = lambda: False,
) -> Summary:
    """Run the jobs without a record; safe to call again, or twice at once: nothing runs twice.

    Workers save and end once `overspent()`, which is checked now and then, is true.
    Raises OrchError if nothing can be launched: a full disk, workers that cannot start, a bad Slurm option.
    """
    for path in repair(study.root):
        say(f"a damaged record was renamed, and counts as not done: {path}")
    entries = open_entries(study, jobs, settings)
    if not entries:
        return Summary(study=str(study.root), cluster=settings.cluster)
    requests = job_requests(study, entries, settings) if settings.cluster == "slurm" else {}
    try:
        snapshot = freeze.freeze(study)
        launch = _launch(settings, snapshot, requests)
        folder = journal.begin(study, launch, entries)
        owner = claims.current_owner(launch.token, "launcher", slurm.environment())
        lock = claims.lock_file(folder / "launcher.json", dumps(asdict(owner)))
    except OSError as error:
        raise disk_full(study, error) from error
    stop = Stop()
    try:
        with signals_to(stop), progress.live(study) as display:
            watch = Watch(
                study=study,
                token=launch.token,
                limit=settings.attempts,
                stop=stop,
                display=display,
                max_seconds=3600 * settings.max_gpu_hours or math.inf,
                overspent=overspent,
            )
            if settings.cluster == "worker":
                states = _as_worker(watch, entries)
            elif settings.cluster == "debug":
                states = _in_process(watch, entries, launch)
            else:
                workers = _workers(watch, entries, settings, snapshot, requests)
                states = wait_for(watch, entries, workers) if wait else _leave(watch, entries, workers)
    finally:
        os.close(lock)
    if stop.reason:
        say(progress.how_to_continue(stop.reason, settings.cluster))
    return summarise(study, launch.token, states, cluster=settings.cluster, stopped=stop.reason)


def open_entries(study: Study, jobs: Sequence[Job], settings: Settings) -> list[ManifestEntry]:
    """The jobs without a record, in the order in which to start them."""
    entries, cancelled = [], journal.cancelled_cells(study.root)
    for job in jobs:
        cell, group = job.cell.id, settings.class_of(job)
        if cell in cancelled:
            continue
        folder = study.cell_folder(cell)
        if not folder.exists():
            entries.append(ManifestEntry(id=cell, job=job, group=group))
            continue
        taken = attempts.numbers(folder)
        ended = [number for number in taken if attempts.end_of(attempts.folder_of(folder, number))]
        entry = ManifestEntry(id=cell, job=job, group=group, after=max(ended, default=0))
        if not main.is_settled(study, entry):
            entries.append(entry)
    return _in_order(entries)


def _in_order(entries: Sequence[ManifestEntry]) -> list[ManifestEntry]:
    """Longest first, so that workers end together; cells of one trunk in the plan's order, to reuse it."""
    cooled = ["cooldown" in dict(entry.job.cell.overrides) for entry in entries]
    trunks = [(own and trunk(entry.job.cell)) or entry.id for own, entry in zip(cooled, entries, strict=True)]
    seconds = dict.fromkeys(trunks, 0.0)
    for name, entry in zip(trunks, entries, strict=True):
        seconds[name] += entry.job.seconds
    place = {name: at for at, name in enumerate(sorted(seconds, key=lambda name: -seconds[name]))}
    ordered = sorted(zip(trunks, entries, strict=True), key=lambda pair: place[pair[0]])
    return [entry for _, entry in ordered]


def scripts(study: Study, jobs: Sequence[Job], settings: Settings) -> tuple[Script, ...]:
    """The sbatch script of each resource class that a launch on Slurm would submit. Submits nothing."""
    entries = open_entries(study, jobs, settings)
    shares = _shares(entries, settings)

    def made() -> Iterator[Script]:
        for group, request in job_requests(study, entries, settings).items():
            array = Array(
                study=study,
                token="TOKEN",  # noqa: S106  # a placeholder
                group=group,
                workers=shares[group],
                request=request,
                snapshot=Path("SNAPSHOT.zip"),
            )
            mine = [entry.job.device_hours for entry in entries if entry.group == group]
            yield Script(
                group=group,
                cells=len(mine),
                workers=shares[group],
                gpu_hours=sum(mine),
                text=script_text(array),
            )

    return tuple(made())


def _launch(settings: Settings, snapshot: Path, requests: Mapping[str, JobRequest]) -> Launch:
    return Launch(
        token=journal.new_token(),
        created=time.time(),
        cluster=settings.cluster,
        parallel=settings.parallel,
        attempts=settings.attempts,
        gpus=settings.gpus,
        code={**provenance.code_state(), "snapshot": f"code/{snapshot.name}"},
        argv=command_line(),
        requests=requests,
        max_gpu_hours=settings.max_gpu_hours,
    )


def _in_process(watch: Watch, entries: list[ManifestEntry], launch: Launch) -> list[JobState]:
    """Run the manifest in this process, one cell after another, with output on the terminal."""
    os.environ.update(ONE_THREAD)
    context = WorkerContext(
        study=watch.study,
        owner=claims.current_owner(watch.token, "debug", slurm.environment()),
        stop=watch.stop,
        launch=launch,
        redirect=False,
    )

    def look() -> list[JobState]:
        return job_states(watch.study, entries, token=watch.token, limit=watch.limit)

    why = main.walk_manifest(context, entries, after_attempt=lambda: watch.display(look(), 1, ""))
    if why == Cause.DISK_FULL:
        raise disk_full(watch.study)
    return look()


def _as_worker(watch: Watch, entries: list[ManifestEntry]) -> list[JobState]:
    """Be one worker of any number, until every cell is done or failed for good, whoever works at it."""
    os.environ.update(ONE_THREAD | {"PYTHONSAFEPATH": "1"})
    while True:
        why = main.work(watch.study.root, watch.token, "worker", "", math.inf, watch.stop)
        began = time.monotonic()
        states = [job_state(watch.study, one, token=watch.token, limit=watch.limit) for one in entries]
        watch.display(states, 1, "")
        if why == Cause.DISK_FULL:
            raise disk_full(watch.study)
        if watch.stop.wanted() or all(one.state in FINAL for one in states):
            return states
        end = time.monotonic() + max(OTHERS_SECONDS, 10 * (time.monotonic() - began))
        while time.monotonic() < end and not watch.stop.wanted():
            time.sleep(0.1)


def _workers(
    watch: Watch,
    entries: Sequence[ManifestEntry],
    settings: Settings,
    snapshot: Path,
    requests: Mapping[str, JobRequest],
) -> Workers:
    """Workers in processes that outlive this one, on this machine or on Slurm."""
    if settings.cluster == "local":
        return LocalWorkers(
            study=watch.study,
            token=watch.token,
            snapshot=snapshot,
            parallel=min(parallel_here(settings), len(entries)),
            gpus_each=settings.gpus,
        )
    return SlurmWorkers(
        study=watch.study,
        token=watch.token,
        snapshot=snapshot,
        shares=_shares(entries, settings),
        requests=requests,
    )


def _leave(watch: Watch, entries: Sequence[ManifestEntry], workers: Workers) -> list[JobState]:
    """Start the workers without waiting for them."""
    jobs = [job_state(watch.study, entry) for entry in entries]
    workers.keep([job for job in jobs if job.state == "pending"])
    return jobs


def _shares(entries: Sequence[ManifestEntry], settings: Settings) -> Counter[str]:
    seconds: dict[str, float] = {}
    for entry in entries:
        seconds[entry.group] = seconds.get(entry.group, 0.0) + entry.job.seconds
    cells_per_job = {group: settings.resources(group).cells_per_job or 1 for group in seconds}
    return shares_of(settings.parallel, Counter(entry.group for entry in entries), seconds, cells_per_job)


def job_requests(study: Study, entries: Sequence[ManifestEntry], settings: Settings) -> dict[str, JobRequest]:
    """Checked sbatch options of each resource class, with a time limit if the user set none."""
    shares, requests = _shares(entries, settings), {}
    for group in shares:
        asked = settings.resources(group)
        data = data_of([entry.job for entry in entries if entry.group == group])
        environment = environment_for(asked, study.root, data)
        container = environment.container
        options = asked.options() | (container.sbatch_options() if container else {})
        slurm.check(options, study.root)
        options.pop("time", None)
        limit, _ = slurm.wall_limit(options)
        seconds = [entry.job.seconds for entry in entries if entry.group == group]
        share = max(*seconds, sum(seconds) / shares[group])
        minutes = asked.minutes or min(limit, MAX_MINUTES, max(MIN_MINUTES, 2 * share / 60))
        minutes = float(int(min(minutes, YEAR_MINUTES)))
        requests[group] = JobRequest(
            options=options,
            minutes=minutes,
            longest=max(minutes, min(MAX_MINUTES, limit)),
            cells=asked.cells_per_job or 1,
            environment=environment,
        )
    return requests


def environment_for(asked: ResourceClass, study: Path, data: Iterable[Path]) -> NodeEnvironment:
    """How the nodes are prepared; a container sees the study and the folders of the data."""
    environment = asked.node_environment()
    if environment.container is None:
        return environment
    folders = {study.resolve(), *(path if path.is_dir() else path.parent for path in data)}
    try:
        container = environment.container.with_folders(folders)
    except PydanticCustomError as error:
        raise OrchError(str(error), hint="move it, or work without a container") from error
    return environment.model_copy(update={"container": container})


def _check_training(options: LaunchOptions) -> None:
    missing = [name for name in ("torch", "timm") if importlib.util.find_spec(name) is None]
    if missing and options.cluster != "slurm":  # compute nodes may have what the login node lacks
        message = f"this machine cannot train: {', '.join(missing)} not installed"
        raise OrchError(message, hint="pip install 'orch-scaling[train]'; `orch doctor` checks the rest")


def _say_cancelled(study: Study) -> None:
    count = len(journal.cancelled_cells(study.root))
    if count:
        say(f"{count} cancelled cells are skipped; `orch retry --cause cancelled` launches them again")


def _mirror(study: Study) -> None:
    from orch.tracking.track import sync

    try:
        sync(study)
    except OrchError as error:  # the records are safe, and can be mirrored at any time
        say(f"warning: not mirrored into MLflow: {error.message}; `orch sync` tries again")
