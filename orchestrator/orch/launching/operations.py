"""Operations after a launch: cancel it, launch failed cells again, find a cell and its log."""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orch.answer import Answer
from orch.launching import journal
from orch.launching.launch import launch_jobs
from orch.launching.local_workers import local_workers
from orch.launching.settings import LaunchOptions, Where, settings_of
from orch.launching.slurm_workers import stop_slurm
from orch.launching.status import entries_now, job_states
from orch.launching.waiting import Summary
from orch_core.cell import Cell, Job
from orch_core.errors import OrchError
from orch_core.grid.cells import rule_mask
from orch_core.grid.expression import axes_of, is_expression
from orch_core.study import attempts
from orch_core.study.folder import Study
from orch_core.study.plan import read_plan
from orch_core.study.record import Cause

LEAST_DIGITS = 4  # of an id, to name a cell by them


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(Answer):
    """The effect of `cancel`: numbers of marked launches and cells, and of local workers asked to stop."""

    launches: int
    cells: int
    workers: int
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """The counts and the note as one JSON document."""
        return asdict(self)

    @property
    def text(self) -> str:
        """The counts and the note in one line."""
        counts = f"{self.launches} launches, {self.cells} cells and {self.workers} workers on this machine"
        return f"asked {counts} to stop. {self.note}".rstrip()


def cancel(study: Study, cells: Sequence[str] = (), *, dropped: bool = False) -> Cancelled:
    """Stop the study's launches, or only some cells: running ones save first, and do not start again.

    cells: names, beginnings of ids, or expressions such as `mix == 'ct'`
    dropped: also running cells that are no longer in the plan

    The mark is written before anything is stopped, because a worker checks it before it requeues itself. A
    new launch continues from the saved state, except for single cells that were cancelled: `orch retry`
    launches those. Raises OrchError if a text matches no cell.
    """
    ids = [cell for text in cells for cell in _matching(study, text)]
    if dropped:
        ids += dropped_cells(study, list(read_plan(study).jobs()))
    tokens = journal.tokens(study.root)
    if ids:
        journal.cancel_cells(study.root, ids)
        note = "`orch retry --cause cancelled` launches them again"
        return Cancelled(launches=len(tokens), cells=len(ids), workers=0, note=note)
    if dropped:
        note = "every running cell is in the plan; nothing to cancel"
        return Cancelled(launches=0, cells=0, workers=0, note=note)
    for token in tokens:
        journal.cancel(study.root, token)
    workers = sum(map(_stop_worker, local_workers(study)))
    return Cancelled(launches=len(tokens), cells=0, workers=workers, note=_cancel_slurm(study, tokens))


def _stop_worker(path: Path) -> bool:
    """Ask the worker with this lock file to stop, if it runs on this machine and not in a Slurm job."""
    owner = attempts.read_owner(path)
    if owner and not owner.job:
        with contextlib.suppress(ProcessLookupError):
            os.kill(owner.pid, signal.SIGTERM)
            return True
    return False


def _cancel_slurm(study: Study, tokens: Sequence[str]) -> str:
    if not journal.used_slurm(study.root):
        return ""
    try:
        return f"{stop_slurm(study, tokens)} Slurm workers cancelled"
    except OrchError as error:
        return f"{error.message}; the workers will find the mark and stop"


def _matching(study: Study, text: str) -> list[str]:
    """Ids of the cells that a name, the beginning of an id, or an expression matches."""
    if not is_expression(text):
        return [find_cell(study, text)]
    axes_of(text)
    found: list[str] = read_plan(study).frame.filter(rule_mask(text))["id"].to_list()
    if not found:
        message = f"no cell of the plan matches {text!r}"
        raise OrchError(message, hint="quote values: mix == 'ct'; `orch map` shows the axes")
    return found


def retry(study: Study, cause: str, where: Where) -> Summary:
    """Launch the failed cells again; raises OrchError if there are none (with the cause)."""
    plan = read_plan(study)
    failed = failed_jobs(study, list(plan.jobs()), cause)
    if not failed:
        message = f"no cell of {study.name} has failed{f' with cause {cause!r}' if cause else ''}"
        raise OrchError(message, hint="`orch status` shows the state of every cell")
    journal.revive_cells(study.root, [job.cell.id for job in failed])
    return launch_jobs(study, failed, settings_of(plan.cluster, LaunchOptions(cluster=where)))


def failed_jobs(study: Study, jobs: Sequence[Job], cause: str = "") -> list[Job]:
    """The jobs that failed permanently in the last launch: with one cause, or all but cancelled ones."""
    failed = [job for job in job_states(study, entries_now(study, jobs)) if job.state == "failed"]
    return [
        job.entry.job for job in failed if job.cause == cause or (not cause and job.cause != Cause.CANCELLED)
    ]


def dropped_cells(study: Study, jobs: Sequence[Job]) -> list[str]:
    """Cells that launches still run although they are no longer in the plan."""
    wanted = {job.cell.id for job in jobs}
    launched = {
        cell
        for token in journal.tokens(study.root)
        if not journal.is_cancelled(study.root, token)
        for cell in journal.cell_ids(study.root, token)
    }
    return sorted(cell for cell in launched - wanted if not study.is_published(cell))


def find_cell(study: Study, text: str) -> str:
    """The id of the cell, launched or planned, with this name or this beginning of its id.

    Raises OrchError if there is none, or more than one.
    """
    cells = cells_of(study)
    found = [cell for cell in cells if len(text) >= LEAST_DIGITS and cell.startswith(text)]
    names = {cell: one.name for cell, one in cells.items() if one}
    found = found or [cell for cell, name in names.items() if name == text]
    for cell in study.cells() if not found else ():  # by its name in an earlier plan
        with contextlib.suppress(OrchError):
            if study.cell(cell).name == text:
                found.append(cell)
    if not found:
        close = difflib.get_close_matches(text, names.values(), 1)
        message = f"no cell of {study.name} is called {text!r}"
        raise OrchError(message, hint=f"did you mean {close[0]!r}?" if close else "`orch map` shows the axes")
    if len(found) > 1:
        message = f"{text!r} matches {len(found)} cells: {', '.join(cell[:12] for cell in found[:5])}"
        raise OrchError(message, hint="give more digits of its id")
    return found[0]


def cells_of(study: Study) -> dict[str, Cell | None]:
    """The cells by id, in order, launched or planned; None for one whose config cannot be read."""
    cells: dict[str, Cell | None] = {}
    with contextlib.suppress(OrchError):
        plan = read_plan(study)
        cells = {cell: job.cell for cell, job in zip(plan.frame["id"], plan.jobs(), strict=True)}
    for cell in study.cells():
        if cell not in cells:
            cells[cell] = None
            with contextlib.suppress(OrchError):
                cells[cell] = study.cell(cell)
    return dict(sorted(cells.items()))


def log_path(study: Study, cell: str) -> Path:
    """The log of a cell's newest attempt; raises OrchError if it has not been started."""
    folder = study.cell_folder(cell)
    taken = attempts.numbers(folder)
    log = attempts.log_of(attempts.folder_of(folder, taken[-1])) if taken else None
    if log is None or not log.exists():
        message = f"{cell} has not been started"
        raise OrchError(message, hint="`orch status` shows what runs")
    return log
