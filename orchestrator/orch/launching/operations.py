"""After a launch: cancel it, try failed cells again, read a cell's log, and ask why a number is what it is."""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orch.launching import journal
from orch.launching.local_workers import local_workers
from orch.launching.slurm_workers import stop_slurm
from orch.launching.status import entries_now, survey
from orch_core.cell import Cell, Job
from orch_core.errors import OrchError
from orch_core.study import attempts
from orch_core.study.attempts import End, Owner
from orch_core.study.folder import Study
from orch_core.study.plan import read_plan
from orch_core.study.record import Record
from orch_core.study.stored import read_record

LOG_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """What `cancel` reached: launches given a tombstone, cells named, workers on this machine asked to stop."""

    launches: int
    cells: int
    workers: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One attempt at a cell: who made it, how it ended (None while it runs), and where its log lies."""

    number: int
    owner: Owner | None
    end: End | None
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Everything that stands behind one cell's numbers."""

    id: str
    name: str
    status: str
    reason: str
    config: dict[str, Any]
    values: dict[str, Any]
    probes: dict[str, dict[str, Any]]
    cost: dict[str, float]
    provenance: dict[str, Any]
    attempts: tuple[Try, ...]
    log_tail: str

    def to_json(self) -> dict[str, Any]:
        """The answer as one JSON document."""
        return {"schema_version": 1, **asdict(self)}


def cancel(study: Study, cells: Sequence[str] = ()) -> Cancelled:
    """Stop the study's launches, or only some cells: running ones save first, nothing comes back by itself.

    The tombstone is written before anything is stopped: a worker asks for it before it requeues itself.
    A new launch goes on from what was saved, but not with single cells that were cancelled: those are retried.
    """
    tokens = journal.tokens(study.root)
    if cells:
        journal.cancel_cells(study.root, cells)
        note = "`orch retry --cause cancelled` brings them back"
        return Cancelled(launches=len(tokens), cells=len(cells), workers=0, note=note)
    for token in tokens:
        (journal.launch_folder(study.root, token) / "cancelled").touch()
    stopped = 0
    for path in local_workers(study):
        owner = attempts.read_owner(path)
        if owner and not owner.job:
            with contextlib.suppress(ProcessLookupError):
                os.kill(owner.pid, signal.SIGTERM)
                stopped += 1
    return Cancelled(launches=len(tokens), cells=0, workers=stopped, note=_cancel_slurm(study, tokens))


def _cancel_slurm(study: Study, tokens: Sequence[str]) -> str:
    if not journal.used_slurm(study.root):
        return ""
    try:
        return f"{stop_slurm(study, tokens)} Slurm workers cancelled"
    except OrchError as error:
        return f"{error.message}; the workers will find the tombstone, and stop"


def failed_jobs(study: Study, jobs: Sequence[Job], cause: str = "") -> list[Job]:
    """The jobs that failed for good in the last launch: those of one cause, or all but what was cancelled."""
    failed = [standing for standing in survey(study, entries_now(study, jobs)) if standing.state == "failed"]
    return [one.entry.job for one in failed if one.cause == cause or (not cause and one.cause != "cancelled")]


def dropped(study: Study, jobs: Sequence[Job]) -> list[str]:
    """Cells that launches still work at although the plan does not hold them any more, to be offered for cancelling."""
    wanted = {job.cell.id for job in jobs}
    return sorted(
        {
            cell
            for token in journal.tokens(study.root)
            if not journal.is_cancelled(study.root, token)
            for cell in journal.cell_ids(study.root, token)
            if cell not in wanted and not (study.cell_folder(cell) / "record.json").exists()
        }
    )


def find_cell(study: Study, text: str) -> str:
    """The id of the planned or launched cell that `text` names: by its name, or by the beginning of its id.

    Raises OrchError if there is none, or more than one.
    """
    launched = [path.name for path in (study.root / "cells").iterdir()]
    planned = _planned(study)
    ids = sorted({*launched, *planned})
    found = [cell for cell in ids if cell.startswith(text)] if len(text) >= 4 else []
    if not found:
        names = {cell: one.name for cell, one in planned.items()}
        found = [cell for cell, name in names.items() if name == text]
        for cell in launched if not found else ():  # under the name that an earlier plan gave it
            with contextlib.suppress(OrchError):  # claimed, but its config is not written yet, or damaged
                names[cell] = study.cell(cell).name
        found = found or [cell for cell, name in names.items() if name == text]
        if not found:
            close = difflib.get_close_matches(text, names.values(), 1)
            message = f"no cell of {study.name} is called {text!r}"
            hint = f"did you mean {close[0]!r}?" if close else "`orch status --json` lists the cells"
            raise OrchError(message, hint=hint)
    if len(found) > 1:
        message = f"{text!r} could be any of {len(found)} cells: {', '.join(cell[:12] for cell in found[:5])}"
        raise OrchError(message, hint="give more digits of its id")
    return found[0]


def _planned(study: Study) -> dict[str, Cell]:
    """The cells of the plan by id; none without a plan that can be read."""
    try:
        plan = read_plan(study)
    except OrchError:
        return {}
    return {cell: job.cell for cell, job in zip(plan.frame["id"], plan.jobs(), strict=True)}


def log_path(study: Study, cell: str) -> Path:
    """The log of a cell's newest attempt; raises OrchError where it was never started."""
    taken = attempts.numbers(study.cell_folder(cell))
    if not taken:
        message = f"{cell} has not been started"
        raise OrchError(message, hint="`orch status` shows what runs")
    return study.cell_folder(cell) / "attempts" / str(taken[-1]) / "log.txt"


def why(study: Study, cell: str) -> Why:
    """What stands behind a cell: config, result or reason, cost, code state, attempts with their nodes, log tail."""
    folder = study.cell_folder(cell)
    tries = tuple(_try(study, folder, number) for number in attempts.numbers(folder))
    record = study.record(cell)
    shown = record or _last_record(folder)
    one = study.cell(cell) if study.config_file(cell).exists() else _planned(study)[cell]
    tail = log_path(study, cell).read_text(encoding="utf-8", errors="replace") if tries else ""
    probes = [read_record(path) for path in sorted(folder.glob("probes/*/record.json"))]
    return Why(
        id=cell,
        name=one.name,
        status=record.status if record else "running" if tries and tries[-1].end is None else "not done",
        reason=f"{shown.reason.cause}: {shown.reason.message}" if shown and shown.reason else "",
        config=one.to_json(),
        values=dict(record.values) if record else {},
        probes={probe.task: dict(probe.values) for probe in probes if probe},
        cost=dict(record.cost) if record else {},
        provenance=dict(shown.provenance) if shown else {},
        attempts=tries,
        log_tail="\n".join(tail.splitlines()[-LOG_LINES:]),
    )


def _try(study: Study, folder: Path, number: int) -> Try:
    attempt = folder / "attempts" / str(number)
    return Try(
        number=number,
        owner=attempts.owner_of(attempt),
        end=attempts.end_of(attempt),
        log=(attempt / "log.txt").relative_to(study.root).as_posix(),
    )


def _last_record(folder: Path) -> Record | None:
    for number in reversed(attempts.numbers(folder)):
        record = read_record(folder / "attempts" / str(number) / "record.json")
        if record:
            return record
    return None
