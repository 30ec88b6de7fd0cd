"""Waiting for a launch: workers are replaced, deaths are recorded, Ctrl-C loses nothing."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from orch.answer import Answer
from orch.console import Exit
from orch.launching import journal, progress
from orch.launching.journal import ManifestEntry
from orch.launching.status import JobState, job_state
from orch.launching.worker import causes, spending
from orch.launching.worker.main import record_death
from orch.launching.worker.process import Stop
from orch_core.errors import OrchError
from orch_core.study.folder import Study
from orch_core.study.record import Cause

BUDGET_SECONDS = 60.0  # between two checks of what the whole study has spent
POLL_SECONDS, POLL_SECONDS_MOST = 0.5, 30.0
STOP_SECONDS = 60.0  # that workers get to save after Ctrl-C
FUTILE_ROUNDS = 3  # of workers that end without claiming a cell, before the launch gives up
FINAL = frozenset({"done", "diverged", "failed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A launch to wait for; it stops after `max_seconds` of device time, or once `overspent()` is true."""

    study: Study
    token: str
    limit: int
    stop: Stop
    display: Callable[[Sequence[JobState], int, str], None]
    max_seconds: float = math.inf
    overspent: Callable[[], bool] = lambda: False


class Workers(Protocol):
    """The workers of a launch, on any machine; `detached` if they outlive a Ctrl-C."""

    detached: bool

    def keep(self, pending: Sequence[JobState]) -> int:
        """Start missing workers for the pending cells; returns how many were started."""

    def alive(self) -> int:
        """Count the living workers, queued ones included."""

    def stop(self) -> object:
        """Ask them to save and end."""

    def explain(self) -> str:
        """The end of the newest worker's output, for workers that end before they claim a cell."""

    def note(self) -> str:
        """A short description of the cluster's queue."""


def wait_for(watch: Watch, entries: Sequence[ManifestEntry], workers: Workers) -> list[JobState]:
    """Poll until every entry is done or has failed, or until `watch.stop`; returns the state of each.

    Raises OrchError if the disk is full, or if workers keep exiting before claiming a cell.
    """
    jobs = {entry.id: job_state(watch.study, entry) for entry in entries}
    spent = sum(job.seconds for job in jobs.values())
    counted = time.monotonic()
    futile, seen = 0, _mark(jobs)
    while True:
        began = time.monotonic()
        _refresh(watch, jobs)
        looked = time.monotonic() - began
        here = list(jobs.values())
        watch.display(here, workers.alive(), workers.note())
        pending = [job for job in here if job.state == "pending"]
        if any(job.cause == Cause.DISK_FULL for job in pending):
            _end(workers)
            raise disk_full(watch.study)
        if all(job.state in FINAL for job in here):
            return here
        due = time.monotonic() - counted > BUDGET_SECONDS
        counted = time.monotonic() if due else counted
        used = max(sum(one.seconds for one in here) - spent, spending.spent(watch.study.root, watch.token))
        if used > watch.max_seconds or (due and watch.overspent()):
            watch.stop.reason = watch.stop.reason or Cause.BUDGET
        if journal.is_cancelled(watch.study.root, watch.token):
            watch.stop.reason = watch.stop.reason or Cause.CANCELLED
        if watch.stop.wanted():
            if watch.stop.reason != Cause.SIGNAL or not workers.detached:
                _end(workers)
            _refresh(watch, jobs)
            return list(jobs.values())
        mark = _mark(jobs)
        futile, seen = (futile if mark == seen else 0), mark
        if pending:
            futile += workers.keep(pending) > 0
            if futile > FUTILE_ROUNDS:
                _end(workers)
                message = "workers keep exiting before claiming a cell"
                raise OrchError(message, hint=workers.explain())
        # reading takes at most a tenth of the time, however slow the file system
        _sleep(watch.stop, min(max(POLL_SECONDS, 10 * looked), POLL_SECONDS_MOST))


def _refresh(watch: Watch, jobs: dict[str, JobState]) -> None:
    """Update unfinished jobs and record dead workers; raises OrchError if the study cannot be written."""
    try:
        for cell, old in jobs.items():
            if old.state in FINAL:
                continue
            now = job_state(watch.study, old.entry, token=watch.token, limit=watch.limit)
            if now.dead:
                record_death(watch.study, now.entry, now.attempt)
                now = job_state(watch.study, old.entry, token=watch.token, limit=watch.limit)
            jobs[cell] = now
    except OSError as error:
        if causes.is_disk_error(error, watch.study.root):
            raise disk_full(watch.study, error) from error
        raise


def _mark(jobs: dict[str, JobState]) -> int:
    """A number that increases with every attempt and every record."""
    return sum(job.attempt + job.probes_done for job in jobs.values())


def _end(workers: Workers) -> None:
    """Ask the workers to stop, and give them time to save; a second Ctrl-C skips the waiting."""
    with contextlib.suppress(OrchError):  # Slurm may not answer; its workers find the mark
        workers.stop()
    stop = time.monotonic() + STOP_SECONDS
    while workers.alive() and time.monotonic() < stop:
        time.sleep(0.1)


def _sleep(stop: Stop, seconds: float) -> None:
    """Sleep until a signal or the end."""
    end = time.monotonic() + seconds
    while not stop.reason and time.monotonic() < end:
        time.sleep(min(0.1, seconds))


def disk_full(study: Study, error: OSError | None = None) -> OrchError:
    """The error for a study that cannot be written any more."""
    what = "cannot be written" if error and error.errno in causes.UNWRITABLE else "has no space left"
    return OrchError(
        f"the file system of the study {what}: {study.root}",
        hint="free some space (or make it writable) and run `orch launch` again: it continues from there",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A failed cell or probe: its cause, message, and the log's path in the study."""

    cell: str
    name: str
    task: str
    cause: str
    message: str
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(Answer):
    """The result of a launch: cells by state, why it stopped early, and the failures by cause.

    study: the study's folder
    token: of the launch; empty if nothing was left to launch
    """

    study: str
    cluster: str
    token: str = ""
    done: int = 0
    failed: int = 0
    remaining: int = 0
    diverged: int = 0
    interrupted: bool = False
    stopped: str = ""
    failures: tuple[Failure, ...] = ()

    @property
    def exit_code(self) -> Exit:
        """130 after Ctrl-C, 1 if a cell failed, 4 if the launch was stopped before its end, else 0."""
        if self.interrupted:
            return Exit.INTERRUPTED
        if self.failed:
            return Exit.FAILED_CELLS
        return Exit.INCOMPLETE if self.stopped and self.remaining else Exit.OK

    def to_json(self) -> dict[str, Any]:
        """The summary as one JSON document."""
        return {"schema_version": 1, **asdict(self)}

    @property
    def text(self) -> str:
        """The counts, the first failure of each cause with its log, and the next command."""
        diverged = f"{self.diverged} diverged, " if self.diverged else ""
        lines = [f"{self.done} cells done, {diverged}{self.failed} failed, {self.remaining} left"]
        for cause, count in Counter(failure.cause for failure in self.failures).items():
            first = next(failure for failure in self.failures if failure.cause == cause)
            where = f"{first.name} {first.task}".rstrip()
            lines.append(
                f"failed, {cause} ({count}): {where}: {first.message} ({Path(self.study, first.log)})"
            )
        if self.failed:
            lines.append(f"next: remove the cause, then {progress.command('retry', self.cluster)}")
        elif not self.remaining:
            lines.append("next: orch fit-laws")
        return "\n".join(lines)


def summarise(study: Study, token: str, jobs: Sequence[JobState], *, cluster: str, stopped: str) -> Summary:
    """Count the jobs, and read why the failed ones failed."""
    states = [job.state for job in jobs]
    failed = {job.entry.id for job in jobs if job.state == "failed"}
    failures = [
        Failure(
            cell=record.cell,
            name=record.name,
            task=record.task,
            cause=record.reason.cause,
            message=record.reason.message,
            log=record.reason.log,
        )
        for record in (study.failures() if failed else ())
        if record.cell in failed and record.reason
    ]
    return Summary(
        study=str(study.root),
        cluster=cluster,
        token=token,
        done=states.count("done"),
        diverged=states.count("diverged"),
        failed=len(failed),
        remaining=states.count("pending") + states.count("running"),
        interrupted=stopped == Cause.SIGNAL,
        stopped=stopped,
        failures=tuple(failures),
    )
