"""The state of a study's jobs, read from its folder: no cluster is needed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from orch.answer import Answer
from orch.launching import journal, slurm
from orch.launching.journal import ManifestEntry
from orch.launching.worker.main import is_stopped
from orch_core.cell import Job
from orch_core.errors import OrchError
from orch_core.formatting import duration
from orch_core.study import attempts
from orch_core.study.folder import Study
from orch_core.study.plan import read_plan
from orch_core.study.record import Cause

WATCH_SECONDS = 5.0  # between two updates
State = Literal["done", "diverged", "running", "pending", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """The state of one job.

    state:       done if all its records are published; failed if this launch will not try it again
    cause:       why it failed
    attempt:     number of its newest attempt, 0 before the first
    probes_done: of `len(entry.job.probes)`
    encoder:     whether the cell's record is published, with or without its probes
    dead:        whether its newest attempt was killed and this is not recorded yet
    seconds:     device-seconds of all its attempts so far
    timeouts:    number of attempts that reached their job's time limit
    devices:     GPUs of its running attempt, 1 on a CPU
    """

    entry: ManifestEntry
    state: State
    cause: str = ""
    attempt: int = 0
    probes_done: int = 0
    encoder: bool = False
    dead: bool = False
    seconds: float = 0.0
    timeouts: int = 0
    devices: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the status table: cells that share a value of the axis, hours in device-hours."""

    label: str
    done: int = 0
    diverged: int = 0
    running: int = 0
    pending: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    probes: int = 0
    probes_done: int = 0
    hours_planned: float = 0.0
    hours_spent: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Answer):
    """A study's status: rows by axis, their total, running workers, and the estimated seconds left."""

    study: str
    axis: str
    rows: tuple[Row, ...]
    total: Row
    retries: int
    workers: int
    eta_seconds: float | None
    cluster: str = ""

    def to_json(self) -> dict[str, Any]:
        """The status as one JSON document."""
        return {"schema_version": 1, **asdict(self)}

    @property
    def text(self) -> str:
        """A plain table: one row per value of the axis, and their total."""
        head = (self.axis, "done", "running", "pending", "failed", "probes", "hours", "planned")
        lines = [head, *(_columns(row) for row in (*self.rows, self.total))]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
            for line in lines
        )
        tail = [f"{self.workers} workers", f"{self.retries} retries"]
        if self.eta_seconds is not None:
            tail.append(f"about {duration(self.eta_seconds / 3600)} left")
        if self.cluster:
            tail.append(self.cluster)
        return f"{table}\n{', '.join(tail)}"


def _columns(row: Row) -> tuple[str, ...]:
    failed = ", ".join(f"{count} {cause}" for cause, count in row.failed.items())
    done = f"{row.done}" + (f" + {row.diverged} diverged" if row.diverged else "")
    probes = f"{row.probes_done}/{row.probes}"
    hours = (f"{row.hours_spent:.2f}", f"{row.hours_planned:.2f}")
    return (row.label, done, str(row.running), str(row.pending), failed or "0", probes, *hours)


def _model(entry: ManifestEntry) -> str:
    return entry.job.cell.model.name if entry.job.cell.model else "none"


AXES: dict[str, Callable[[ManifestEntry], str]] = {
    "algorithm": lambda entry: entry.job.cell.recipe,
    "model": _model,
    "mix": lambda entry: entry.job.cell.mix or "none",
    "images": lambda entry: str(entry.job.cell.images),
    "class": lambda entry: entry.group,
    "algorithm x model": lambda entry: f"{entry.job.cell.recipe} {_model(entry)}",
}


def status(
    study: Study, jobs: Sequence[Job], *, axis: str = "algorithm x model", ids: Iterable[str] | None = None
) -> Status:
    """The state of every job, grouped by one of `AXES`; raises OrchError for another axis.

    ids: of the jobs' cells, if known: hashing ten thousand takes half a second
    If a launch used Slurm, Slurm is asked once; its answer is a remark and does not change a state.
    """
    if axis not in AXES:
        message = f"there is no axis {axis!r}"
        raise OrchError(message, hint=f"choose one of {', '.join(AXES)}")
    tokens = journal.tokens(study.root)
    states = job_states(study, entries_now(study, jobs, ids), token=tokens[-1] if tokens else "")
    groups: dict[str, list[JobState]] = {}
    for job in states:
        groups.setdefault(AXES[axis](job.entry), []).append(job)
    running, remark = _cluster(study, tokens)
    workers = max(running, sum(len(journal.live_workers(study.root, token)) for token in tokens))
    return Status(
        study=study.name,
        axis=axis,
        rows=tuple(row(label, group) for label, group in groups.items()),
        total=row("total", states),
        retries=sum(max(0, job.attempt - 1) for job in states),
        workers=workers,
        eta_seconds=eta_seconds(states, workers),
        cluster=remark,
    )


def statuses(study: Study, axis: str, *, watch: bool) -> Iterator[Status]:
    """The status of a study's plan; if `watch`, repeatedly, until nothing is running or pending.

    Reading takes at most a tenth of the time. Raises OrchError for an unknown axis.
    """
    plan = read_plan(study)
    jobs, ids = list(plan.jobs()), plan.frame["id"].to_list()
    while True:
        began = time.monotonic()
        now = status(study, jobs, axis=axis, ids=ids)
        yield now
        if not watch or not now.total.running + now.total.pending:
            return
        time.sleep(max(WATCH_SECONDS, 10 * (time.monotonic() - began)))


def entries_now(study: Study, jobs: Sequence[Job], ids: Iterable[str] | None = None) -> list[ManifestEntry]:
    """Entries of the jobs as in the last launch; `ids` of their cells, if known."""
    cells = ids if ids is not None else (job.cell.id for job in jobs)
    by_id = dict(zip(cells, jobs, strict=True))
    tokens = journal.tokens(study.root)
    known = journal.entries_of(study.root, tokens[-1], by_id) if tokens else {}
    return [known.get(cell) or ManifestEntry(id=cell, job=job) for cell, job in by_id.items()]


def job_states(
    study: Study, entries: Iterable[ManifestEntry], *, token: str = "", limit: int = 3
) -> list[JobState]:
    """The present state of each entry; entries of recipes that launch `token` has stopped count as failed."""
    return [job_state(study, entry, token=token, limit=limit) for entry in entries]


def job_state(study: Study, entry: ManifestEntry, *, token: str = "", limit: int = 3) -> JobState:
    """The state of one entry: a few file operations, and one read if its record is published."""
    folder = study.cell_folder(entry.id)
    record = study.record(entry.id)
    probes = sum(study.is_published(entry.id, probe) for probe in entry.job.probes) if record else 0
    taken = attempts.numbers(folder)
    ends = [attempts.end_of(attempts.folder_of(folder, number)) for number in taken]
    here = JobState(
        entry=entry,
        state="pending",
        attempt=taken[-1] if taken else 0,
        probes_done=probes,
        encoder=record is not None,
        seconds=sum(end.device_seconds for end in ends if end)
        or (record.cost.get("seconds", 0.0) if record else 0.0),
        timeouts=sum(end is not None and end.cause == Cause.TIMEOUT for end in ends),
    )
    if record and record.status == "diverged":
        return replace(here, state="diverged", cause=Cause.DIVERGED)
    if record and probes == len(entry.job.probes):
        return replace(here, state="done")
    verdict, _ = attempts.claimability(folder, after=entry.after, limit=limit) if taken else ("claim", 0)
    if verdict == "busy":
        attempt = attempts.folder_of(folder, taken[-1])
        owner = attempts.owner_of(attempt)
        devices = owner.devices if owner else 1.0
        seconds = here.seconds + devices * attempts.seconds_alive(attempt)
        return replace(here, state="running", seconds=seconds, devices=devices)
    failed = [
        end.cause
        for number, end in zip(taken, ends, strict=True)
        if number > entry.after and end and end.how == "failed"
    ]
    if verdict == "spent":
        return replace(here, state="failed", cause=failed[-1])
    if journal.is_cell_cancelled(study.root, entry.id):
        return replace(here, state="failed", cause=Cause.CANCELLED)
    if token and is_stopped(study.root, token, entry):
        return replace(here, state="failed", cause=Cause.CLASS_STOPPED)
    return replace(here, cause=failed[-1] if failed else "", dead=verdict == "dead")


def row(label: str, jobs: Sequence[JobState]) -> Row:
    """The jobs of one group, counted."""
    states = Counter(job.state for job in jobs)
    causes = Counter(job.cause for job in jobs if job.state == "failed")
    return Row(
        label=label,
        done=states["done"],
        diverged=states["diverged"],
        running=states["running"],
        pending=states["pending"],
        failed=dict(sorted(causes.items())),
        probes=sum(len(job.entry.job.probes) for job in jobs),
        probes_done=sum(job.probes_done for job in jobs),
        hours_planned=sum(job.entry.job.device_hours for job in jobs),
        hours_spent=sum(job.seconds for job in jobs) / 3600,
    )


def eta_seconds(jobs: Iterable[JobState], workers: int) -> float | None:
    """Seconds until the last pending cell is done: planned time, scaled by the ratio of the finished cells.

    None if nothing runs, or if the plan does not contain the time of a cell.
    """
    jobs = list(jobs)
    held = sum(job.devices for job in jobs)
    finished, left, devices = [], 0.0, []
    for job in jobs:
        planned = 3600 * job.entry.job.device_hours
        if job.state in {"done", "diverged"}:
            finished.append((job.seconds, planned))
        elif job.state in {"running", "pending"}:
            left += max(planned - job.seconds, 0.0) if job.state == "running" else planned
            devices.append(job.entry.job.devices)
    if not workers or not left:
        return None
    spent, planned = (sum(column) for column in zip(*finished, strict=True)) if finished else (0.0, 0.0)
    parallel = max(held, workers * sum(devices) / len(devices))
    return left * (spent / planned if spent and planned else 1.0) / parallel


def _cluster(study: Study, tokens: Sequence[str]) -> tuple[int, str]:
    """Number of workers that run on Slurm, and a remark on them."""
    if not journal.used_slurm(study.root):
        return 0, ""
    try:
        jobs = slurm.queue(f"orch-{token}-" for token in tokens)
    except OrchError as error:
        return 0, f"Slurm does not answer ({error.message}): this status is from the study alone"
    return sum(job.tasks for job in jobs if job.state == "RUNNING"), slurm.describe(jobs)
