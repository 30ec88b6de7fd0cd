"""Progress of a launch on stderr: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from orch.console import is_terminal, say
from orch.launching.status import JobState, eta_seconds
from orch_core.formatting import duration
from orch_core.study.curves import last_row
from orch_core.study.folder import Study
from orch_core.study.record import Cause

if TYPE_CHECKING:
    from rich.table import Table

PLAIN_SECONDS = 15.0  # between plain lines while no cell ends
RUNNING_SHOWN = 8
Display = Callable[[Sequence[JobState], int, str], None]


@contextlib.contextmanager
def live(study: Study) -> Iterator[Display]:
    """A function to call at every poll with the jobs, the number of workers, and a note on the cluster."""
    if not is_terminal(sys.stderr):
        yield _plain(study)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as display:
        yield lambda jobs, workers, note: display.update(_panel(study, jobs, workers, note))


def how_to_continue(reason: str, cluster: str) -> str:
    """The message of a launch that ends before its work does."""
    again = command("launch", cluster)
    if reason == Cause.SIGNAL and cluster == "slurm":
        return f"Slurm workers continue: {again} joins them, `orch status` lists, `orch cancel` stops them"
    what: dict[str, str] = {Cause.BUDGET: "the allowed GPU-hours are spent", Cause.CANCELLED: "cancelled"}
    return f"{what.get(reason, 'stopped')}: workers have saved; {again} continues from there"


def command(verb: str, cluster: str) -> str:
    """A command with the last launch's cluster: `orch retry --cluster slurm`."""
    return f"`orch {verb}{' --cluster slurm' if cluster == 'slurm' else ''}`"


def summary_line(jobs: Sequence[JobState], workers: int) -> str:
    """`12/40 cells, 2 running, 1 failed (killed), 30/160 probes, 2 workers, 4 min left`."""
    states = Counter(job.state for job in jobs)
    causes = Counter(job.cause for job in jobs if job.state == "failed")
    parts = [f"{states['done'] + states['diverged']}/{len(jobs)} cells"]
    if states["running"]:
        parts.append(f"{states['running']} running")
    if states["diverged"]:
        parts.append(f"{states['diverged']} diverged")
    if states["failed"]:
        why = ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items()))
        parts.append(f"{states['failed']} failed ({why})")
    probes = sum(len(job.entry.job.probes) for job in jobs)
    if probes:
        parts.append(f"{sum(job.probes_done for job in jobs)}/{probes} probes")
    parts.append(f"{workers} worker{'s' * (workers != 1)}")
    eta = eta_seconds(jobs, workers)
    if eta is not None:
        parts.append(f"{duration(eta / 3600)} left")
    return ", ".join(parts)


def cell_line(study: Study, job: JobState) -> str:
    """A running cell in one line: name, progress, loss, images/s."""
    cell = job.entry.job.cell
    now = last_row(study.curves_file(job.entry.id))
    if job.encoder:
        return f"{cell.name}: probing, {job.probes_done}/{len(job.entry.job.probes)}"
    parts = []
    if "step" in now and cell.steps:
        parts.append(f"{100 * now['step'] / cell.steps:.0f}%")
    if "loss" in now:
        parts.append(f"loss {now['loss']:.4f}")
    if "images_per_second" in now:
        parts.append(f"{now['images_per_second']:.0f} images/s")
    return f"{cell.name}: {', '.join(parts) or 'starting'}"


def _plain(study: Study) -> Display:
    """Lines without control characters: when a cell ends or fails, and every PLAIN_SECONDS in between."""
    last, when = "", -PLAIN_SECONDS

    def display(jobs: Sequence[JobState], workers: int, note: str) -> None:
        nonlocal last, when
        states = Counter(job.state for job in jobs)
        ended = f"{states['done']} {states['diverged']} {states['failed']}"
        if ended == last and time.monotonic() - when < PLAIN_SECONDS:
            return
        last, when = ended, time.monotonic()
        say(summary_line(jobs, workers) + (f"; {note}" if note else ""))
        for job in jobs:
            if job.state == "running":
                say(f"  {cell_line(study, job)}")

    return display


def _panel(study: Study, jobs: Sequence[JobState], workers: int, note: str) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    ended = sum(job.state in {"done", "diverged", "failed"} for job in jobs)
    running = [job for job in jobs if job.state == "running"]
    table = Table.grid()
    table.add_row(ProgressBar(total=max(len(jobs), 1), completed=ended, width=60))
    table.add_row(Text(summary_line(jobs, workers)))
    lines = [cell_line(study, job) for job in running[:RUNNING_SHOWN]]
    if len(running) > RUNNING_SHOWN:
        lines.append(f"and {len(running) - RUNNING_SHOWN} more")
    for line in (*lines, *([note] if note else [])):
        table.add_row(Text(f"  {line}", style="dim"))
    return table
