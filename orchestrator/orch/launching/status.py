"""Where a study stands: read from its folder alone, so that it holds with the cluster down."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from orch.launching import journal, slurm
from orch.launching.journal import ManifestEntry
from orch.launching.worker.main import is_stopped
from orch_core.cell import Job
from orch_core.errors import OrchError
from orch_core.study import attempts
from orch_core.study.folder import Study

State = Literal["done", "diverged", "running", "pending", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where one job stands.

    state:       done means all its records are there; failed, that this launch will not try it again
    cause:       why it failed
    attempt:     number of its newest attempt, 0 before the first
    probes_done: of `len(entry.job.probes)`
    encoder:     the cell's own record is published, whatever its probes
    dead:        its newest attempt was killed, and nobody has recorded that yet
    seconds:     device-seconds of all its attempts so far
    timeouts:    attempts that met their job's time limit
    devices:     GPUs that its running attempt holds, or 1 where there are none
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
class Status:
    """A study's status: rows by axis, their total, what runs now, and the seconds it may still take."""

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
    """Where every job stands, grouped by one of `AXES`; raises OrchError for another axis.

    ids: of the jobs' cells, where they are known: hashing ten thousand takes half a second
    Slurm is asked once, and only where a launch went there; what it says is a remark, not the state.
    """
    if axis not in AXES:
        message = f"there is no axis {axis!r}"
        raise OrchError(message, hint=f"choose one of {', '.join(AXES)}")
    tokens = journal.tokens(study.root)
    standings = survey(study, entries_now(study, jobs, ids), token=tokens[-1] if tokens else "")
    groups: dict[str, list[Standing]] = {}
    for standing in standings:
        groups.setdefault(AXES[axis](standing.entry), []).append(standing)
    running, remark = _cluster(study, tokens)
    workers = max(running, sum(len(journal.live_workers(study.root, token)) for token in tokens))
    return Status(
        study=study.name,
        axis=axis,
        rows=tuple(row(label, group) for label, group in groups.items()),
        total=row("total", standings),
        retries=sum(max(0, standing.attempt - 1) for standing in standings),
        workers=workers,
        eta_seconds=eta_seconds(standings, workers),
        cluster=remark,
    )


def entries_now(study: Study, jobs: Sequence[Job], ids: Iterable[str] | None = None) -> list[ManifestEntry]:
    """Entries of the jobs, judged as the last launch judges them; `ids` of their cells, where they are known."""
    cells = ids if ids is not None else (job.cell.id for job in jobs)
    by_id = dict(zip(cells, jobs, strict=True))
    tokens = journal.tokens(study.root)
    known = journal.entries_of(study.root, tokens[-1], by_id) if tokens else {}
    return [known.get(cell) or ManifestEntry(id=cell, job=job) for cell, job in by_id.items()]


def survey(
    study: Study, entries: Iterable[ManifestEntry], *, token: str = "", limit: int = 3
) -> list[Standing]:
    """Where each entry stands now; classes that launch `token` has stopped count as failed."""
    return [stand(study, entry, token=token, limit=limit) for entry in entries]


def stand(study: Study, entry: ManifestEntry, *, token: str = "", limit: int = 3) -> Standing:
    """Where one entry stands: a few file operations, and one read where its record is published."""
    folder = study.cell_folder(entry.id)
    document = _read(folder / "record.json")
    taken = attempts.numbers(folder)
    ends = [attempts.end_of(folder / "attempts" / str(number)) for number in taken]
    here = Standing(
        entry=entry,
        state="pending",
        attempt=taken[-1] if taken else 0,
        probes_done=_probes_done(study, entry) if document else 0,
        encoder=document is not None,
        seconds=sum(end.device_seconds for end in ends if end) or _cost(document),
        timeouts=sum(end is not None and end.cause == "timeout" for end in ends),
    )
    if document and document["status"] == "diverged":
        return replace(here, state="diverged", cause="diverged")
    if document and here.probes_done == len(entry.job.probes):
        return replace(here, state="done")
    verdict, _ = attempts.claimability(folder, after=entry.after, limit=limit) if taken else ("claim", 0)
    if verdict == "busy":
        attempt = folder / "attempts" / str(taken[-1])
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
        return replace(here, state="failed", cause="cancelled")
    if token and is_stopped(study.root, token, entry):
        return replace(here, state="failed", cause="class_stopped")
    return replace(here, cause=failed[-1] if failed else "", dead=verdict == "dead")


def row(label: str, standings: Sequence[Standing]) -> Row:
    """The standings of one group added up."""
    states = Counter(standing.state for standing in standings)
    causes = Counter(standing.cause for standing in standings if standing.state == "failed")
    return Row(
        label=label,
        done=states["done"],
        diverged=states["diverged"],
        running=states["running"],
        pending=states["pending"],
        failed=dict(sorted(causes.items())),
        probes=sum(len(standing.entry.job.probes) for standing in standings),
        probes_done=sum(standing.probes_done for standing in standings),
        hours_planned=sum(standing.entry.job.device_hours for standing in standings),
        hours_spent=sum(standing.seconds for standing in standings) / 3600,
    )


def eta_seconds(standings: Iterable[Standing], workers: int) -> float | None:
    """Seconds until the last pending cell is done: what is planned, scaled by how the finished ones went.

    None while nothing runs, or where the plan does not say how long a cell takes.
    """
    standings = list(standings)
    held = sum(standing.devices for standing in standings)
    finished, left, devices = [], 0.0, []
    for standing in standings:
        planned = 3600 * standing.entry.job.device_hours
        if standing.state in {"done", "diverged"}:
            finished.append((standing.seconds, planned))
        elif standing.state in {"running", "pending"}:
            left += max(planned - standing.seconds, 0.0) if standing.state == "running" else planned
            devices.append(standing.entry.job.devices)
    if not workers or not left:
        return None
    spent, planned = (sum(column) for column in zip(*finished, strict=True)) if finished else (0.0, 0.0)
    parallel = max(held, workers * sum(devices) / len(devices))
    return left * (spent / planned if spent and planned else 1.0) / parallel


def progress_of(folder: Path) -> dict[str, float]:
    """The last line of a cell's metrics.ndjson: step, loss, images_per_second, eta_seconds; empty before the first."""
    try:
        with (folder / "metrics.ndjson").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            document = json.loads(line)
            if isinstance(document, dict):
                return {key: value for key, value in document.items() if isinstance(value, int | float)}
    return {}


def _cluster(study: Study, tokens: Sequence[str]) -> tuple[int, str]:
    """Workers that run on Slurm, and a remark on them."""
    if not journal.used_slurm(study.root):
        return 0, ""
    try:
        jobs = slurm.queue(f"orch-{token}-" for token in tokens)
    except OrchError as error:
        return 0, f"Slurm does not answer ({error.message}): all this is read from the study"
    return sum(job.tasks for job in jobs if job.state == "RUNNING"), slurm.describe(jobs)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return document


def _cost(document: dict[str, Any] | None) -> float:
    return float(document["cost"].get("seconds", 0.0)) if document else 0.0


def _probes_done(study: Study, entry: ManifestEntry) -> int:
    return sum((study.probe_folder(entry.id, probe) / "record.json").exists() for probe in entry.job.probes)
