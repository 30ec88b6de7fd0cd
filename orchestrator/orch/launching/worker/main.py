"""A worker: runs a launch's manifest, claims one cell after another, trains it, and probes its encoder.

Workers pull cells: any number of them may run the same manifest without knowing of each other.
Signals only set a flag; training saves at its next step. A worker ends when no cell is left to claim.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from orch.launching import freeze, journal, slurm
from orch.launching.journal import Launch, ManifestEntry
from orch.launching.worker import claims, ranks, side_by_side
from orch.launching.worker.claims import Attempt
from orch.launching.worker.process import Stop, signals_to, warning_seconds
from orch.launching.worker.spending import spending_of
from orch.launching.worker.staging import Stage
from orch.launching.worker.training import WorkerContext, attempt_cell, failed_record
from orch_core.files import dumps
from orch_core.study import attempts
from orch_core.study.attempts import Owner
from orch_core.study.folder import Study
from orch_core.study.record import Cause
from orch_core.study.stored import publish

SAME_ERROR_LIMIT = 3  # identical tracebacks in different cells stop their recipe


def run(root: str, token: str, name: str, group: str = "", minutes: float = math.inf) -> str:
    """Entry point of a worker's job, through submitit; `minutes` is its time limit. Returns why it ended."""
    faulthandler.enable()
    study = Path(root)
    launch, stop = journal.read_launch(study, token), Stop()
    freeze.check_running(study / launch.code["snapshot"])
    job = claims.current_owner(token, name).job
    cells = launch.request(group).cells
    with signals_to(stop):
        if cells > 1:
            stop.deadline = _deadline(launch, job, minutes)
            why = side_by_side.side_by_side((root, token, group, str(minutes)), cells, stop)
        else:
            why = work(study, token, name, group, minutes, stop)
        if why == Cause.DEADLINE and not journal.is_cancelled(study, token):
            _requeue(stop, job)
    return why


def work(root: Path, token: str, name: str, group: str, minutes: float, stop: Stop) -> str:
    """Run the entries of a launch (of one resource class if `group` is given); returns why it ended."""
    launch = journal.read_launch(root, token)
    together, cells = _ranks(launch), launch.request(group).cells
    if cells > 1:
        together, devices = ranks.ONE, together.count / cells
    else:
        devices = together.count
    owner = claims.current_owner(token, name, devices=devices)
    if owner.job:
        owner = replace(owner, worker=f"{owner.job}-{owner.restart}-{owner.pid}")
    stop.deadline = _deadline(launch, owner.job, minutes)
    path = journal.launch_folder(root, token) / "workers" / f"{owner.worker}.json"
    lock = claims.lock_file(path, dumps(asdict(owner)))
    context = WorkerContext(
        study=Study(root),
        launch=launch,
        owner=owner,
        stop=stop,
        minutes=minutes,
        ranks=together,
        spending=spending_of(root, launch, owner.worker, devices),
        stage=Stage(folder=launch.request(group).environment.stage or "", should_stop=stop.wanted),
    )
    try:
        with signals_to(stop):
            why = walk_manifest(context, journal.manifest(root, token, group))
            with contextlib.suppress(OSError):  # a full disk: Slurm then waits before it requeues the job
                path.rename(path.with_suffix(".ended"))
            return why
    finally:
        context.stage.close(together.nodes)
        os.close(lock)


def _ranks(launch: Launch) -> ranks.Ranks:
    """The processes that train a cell together: one per GPU of the Slurm job, or of a local worker."""
    return ranks.of_allocation() if launch.cluster == "slurm" else ranks.Ranks(per_node=max(1, launch.gpus))


def _deadline(launch: Launch, job: str, minutes: float) -> float:
    """When a worker must have saved: before its Slurm job's end, by a margin; never on a local machine."""
    if not job or launch.cluster != "slurm":
        return math.inf
    left = min(slurm.seconds_left(job), 60.0 * minutes)
    return time.time() + left - warning_seconds(minutes)


def _requeue(stop: Stop, job: str) -> None:
    """Requeue this task; while Slurm does not answer, try until the time limit ends this process.

    `job` must name the task (`12_3`): SLURM_JOB_ID of a task is the whole array.
    """
    while stop.reason != Cause.SIGNAL and not slurm.requeue(job):
        time.sleep(5.0)


def walk_manifest(
    context: WorkerContext, entries: list[ManifestEntry], *, after_attempt: Callable[[], None] = lambda: None
) -> str:
    """Run every entry that can be claimed until none is left; `after_attempt` is called after each attempt.

    Returns `finished`, or why it stopped: `signal`, `deadline`, `cancelled`, `budget`, `disk_full`, or
    `too_short` if its job's time was up before it could begin.
    """
    todo, position, idle, begun = list(entries), 0, 0, False
    while todo and idle < len(todo):
        if not context.stop.wanted() and journal.is_cancelled(context.study.root, context.launch.token):
            context.stop.reason = Cause.CANCELLED
        if context.spending.is_over():
            context.stop.reason = context.stop.reason or Cause.BUDGET
        if context.stop.wanted():
            return context.stop.reason if begun or context.stop.reason != Cause.DEADLINE else "too_short"
        position %= len(todo)
        entry = todo[position]
        if is_settled(context.study, entry):
            todo.pop(position)
            continue
        attempt = _take(context, entry)
        if attempt is None:
            position, idle = position + 1, idle + 1
            continue
        end = attempt_cell(replace(context, first=not begun), entry, attempt)
        after_attempt()
        idle, begun = 0, True
        if end.cause == Cause.DISK_FULL:
            return Cause.DISK_FULL
    return "finished"


def is_long_enough(context: WorkerContext, entry: ManifestEntry) -> bool:
    """Whether this worker's time limit suffices for an entry that reached the limits of earlier jobs."""
    if math.isinf(context.minutes):
        return True
    timeouts = attempts.count(context.study.cell_folder(entry.id), Cause.TIMEOUT)
    return context.minutes >= context.launch.request(entry.group).minutes_after(timeouts)


def is_settled(study: Study, entry: ManifestEntry) -> bool:
    """Whether an entry has all its records: the cell's, and its probes' if it has an encoder."""
    if not study.is_published(entry.id):
        return False
    if all(study.is_published(entry.id, probe) for probe in entry.job.probes):
        return True
    record = study.record(entry.id)
    return record is not None and record.status != "done"


def _take(context: WorkerContext, entry: ManifestEntry) -> Attempt | None:
    """The entry's next attempt, or None if it is busy, spent, cancelled, or its recipe is stopped."""
    root, folder = context.study.root, context.study.cell_folder(entry.id)
    if is_stopped(root, context.launch.token, entry) or journal.is_cell_cancelled(root, entry.id):
        return None
    if not is_long_enough(context, entry):
        return None
    verdict, newest = attempts.claimability(folder, after=entry.after, limit=context.launch.attempts)
    if verdict == "dead":
        record_death(context.study, entry, newest)
        verdict, newest = attempts.claimability(folder, after=entry.after, limit=context.launch.attempts)
    if verdict != "claim":
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return claims.claim(folder, context.owner, newest + 1)


def record_death(study: Study, entry: ManifestEntry, number: int) -> None:
    """Record that an attempt's process died without recording its end."""
    folder = study.cell_folder(entry.id)
    attempt = attempts.folder_of(folder, number)
    owner = attempts.owner_of(attempt)
    cause, message = slurm.cause_of_death(owner.job, owner.token, owner.restart) if owner else slurm.UNKNOWN
    if owner and cause in {Cause.KILLED, Cause.CANCELLED} and _was_out_of_memory(study, owner):
        where = f"process {owner.pid} on {owner.node or owner.host}"
        cause, message = Cause.OUT_OF_MEMORY, f"{where} was killed: out of memory"
    end = claims.record_crash(folder, number, cause, message)
    if end and owner and owner.node and cause in {Cause.KILLED, Cause.NODE_FAILURE}:
        journal.note_death(study.root, owner.token, owner.node, entry.id)
    if end and not study.is_published(entry.id):
        record = failed_record(entry, end, study.relative(attempts.log_of(attempt)))
        publish(attempt, record)


def _was_out_of_memory(study: Study, owner: Owner) -> bool:
    """Whether the kernel of this machine, or Slurm in the job's output, reports a kill for memory."""
    if owner.machine == attempts.machine() and claims.oom_kills() > owner.oom_kills:
        return True
    return bool(owner.job) and slurm.killed_for_memory(study.logs / owner.token / f"{owner.job}_0_log.out")


def is_stopped(root: Path, token: str, entry: ManifestEntry) -> bool:
    """Whether the entry's recipe was stopped because three of its cells failed with the same traceback."""
    try:
        signatures = list(journal.errors_folder(root, token, entry).iterdir())
    except FileNotFoundError:
        return False
    return any(len(list(signature.iterdir())) >= SAME_ERROR_LIMIT for signature in signatures)


if __name__ == "__main__":  # one of several processes of a job, see side_by_side
    root, token, group, minutes = sys.argv[1:]
    sys.stdout.write(work(Path(root), token, "", group, float(minutes), Stop()) + "\n")
