"""One attempt at a cell: pretrain it unless done, probe its encoder, publish; every failure is recorded."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orch.launching import journal
from orch.launching.journal import Launch, ManifestEntry
from orch.launching.worker import causes, claims, ranks
from orch.launching.worker.claims import Attempt
from orch.launching.worker.process import Every, Stop, heartbeat, log_to
from orch.launching.worker.spending import Spending
from orch.launching.worker.staging import Stage, cell_from, data_of, probe_from
from orch_core import provenance
from orch_core.cell import Job, Probe
from orch_core.errors import OrchError
from orch_core.files import dumps, write_atomic
from orch_core.study import attempts
from orch_core.study.attempts import End, Owner
from orch_core.study.folder import Study
from orch_core.study.record import Cause, Reason, Record
from orch_core.study.stored import publish

if TYPE_CHECKING:
    from orch_core.learn import MemoryPlan, Result

TOO_SHORT = "its job's time was up before it could save anything: the next job is twice as long"
CHECK_SECONDS = 1.0  # between checks for a fence or a cancellation


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """The context of a worker's attempts.

    redirect: whether output goes to the attempt's log, not to the terminal
    minutes:  its job's time limit, infinite on a local machine
    ranks:    processes that train a cell together
    first:    whether the attempt is this worker's first, which has the job's whole time
    stage:    copies of data on the node's own disk
    spending: the device time that the launch has used and may use
    """

    study: Study
    launch: Launch
    owner: Owner
    stop: Stop
    redirect: bool = True
    minutes: float = math.inf
    ranks: ranks.Ranks = ranks.ONE
    first: bool = False
    stage: Stage = field(default_factory=Stage)
    spending: Spending = field(default_factory=Spending)


def attempt_cell(context: WorkerContext, entry: ManifestEntry, attempt: Attempt) -> End:
    """Make an attempt at one cell; an exception becomes the attempt's end."""
    began = time.monotonic()
    log = attempts.log_of(attempt.folder)
    end = End(how="failed", cause=Cause.KILLED)
    try:
        with log_to(log, redirect=context.redirect), heartbeat(log):
            try:
                end = _work(context, entry, attempt)
            except Exception as error:  # noqa: BLE001  # every failure of a cell is a record, not a crash
                end = _failure(context, entry, attempt, error)
    finally:
        seconds = time.monotonic() - began
        progress = attempts.made_progress(context.study.cell_folder(entry.id), attempt.folder)
        end = replace(end, seconds=seconds, progress=progress, devices=attempt.owner.devices)
        with contextlib.suppress(OSError):  # on a full disk, others will find the attempt dead
            claims.release(attempt, end)
    return end


def _work(context: WorkerContext, entry: ManifestEntry, attempt: Attempt) -> End:
    """Pretrain unless that is done, then run the missing probes."""
    from orch_core import learn

    context.stage.add(data_of([entry.job]))
    if not context.study.config(entry.id):
        write_atomic(context.study.config_file(entry.id), dumps(entry.job.cell.to_json()))
    try:
        record = context.study.record(entry.id) or _pretrain(context, entry, attempt)
        return _probe(context, entry, attempt) if record.status == "done" else End(how="done")
    except learn.Stopped:
        if (
            context.first
            and context.stop.reason == Cause.DEADLINE
            and not _has_saved(context, entry, attempt)
        ):
            raise ranks.RankFailed(End(how="failed", cause=Cause.TIMEOUT, message=TOO_SHORT)) from None
        return End(how="stopped", cause=context.stop.reason or Cause.CANCELLED)


def _has_saved(context: WorkerContext, entry: ManifestEntry, attempt: Attempt) -> bool:
    """Whether the attempt saved progress; otherwise the next one would repeat it for ever."""
    folder = context.study.cell_folder(entry.id)
    return (folder / "record.json").exists() or attempts.made_progress(folder, attempt.folder)


def _pretrain(context: WorkerContext, entry: ManifestEntry, attempt: Attempt) -> Record:
    """Train the cell and publish its record."""
    cell, folder = entry.job.cell, context.study.cell_folder(entry.id)
    result = _pretrained(context, entry, attempt)
    record = Record(
        cell=entry.id,
        name=cell.name,
        status=result.status,
        values=result.values,
        cost=result.cost,
        provenance=_provenance(context, attempt, config=cell.to_json()),
        reason=result.reason,
    )
    _publish(attempt, folder, record)
    publish(attempt.folder, record)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # only the encoder is read from now on
    return record


def _pretrained(context: WorkerContext, entry: ManifestEntry, attempt: Attempt) -> Result:
    """Train the cell in this process, or in one process per GPU of the worker."""
    from orch_core import learn

    prepared, folder = context.launch.request(entry.group).environment, context.study.cell_folder(entry.id)
    memory_plan = memory_plan_of(entry.job, context.ranks.count, attempts.count(folder, Cause.OUT_OF_MEMORY))
    watch = _watch(context, entry, attempt)
    if context.ranks.count > 1:
        return ranks.pretrain(context.study, attempt.folder, context.ranks, memory_plan, prepared, watch)
    trunks, cell = context.study.trunks, cell_from(entry.job.cell)
    return learn.pretrain(cell, folder, should_stop=watch, memory_plan=memory_plan, trunks=trunks)


def memory_plan_of(job: Job, processes: int, ooms: int) -> MemoryPlan:
    """How a cell fits into memory: as planned, with half the images at a time after each failure to fit."""
    from orch_core.learn import MemoryPlan

    share = job.cell.batch // processes
    rows = min(job.micro_batch or share, share) >> ooms
    micro_batch = 0 if rows == share else max(1, rows)
    return MemoryPlan(micro_batch=micro_batch, checkpointing=job.checkpointing or rows == 0)


def _probe(context: WorkerContext, entry: ManifestEntry, attempt: Attempt) -> End:
    """Run the missing probes; if one fails, its reason is recorded and the others continue."""
    from orch_core import learn

    missing = [probe for probe in entry.job.probes if not context.study.record(entry.id, probe)]
    end = End(how="done")
    while missing and end.cause != Cause.DISK_FULL:
        try:
            _probe_in_turn(context, entry, attempt, missing)
        except (learn.Stopped, ranks.Fenced):
            raise
        except Exception as error:  # noqa: BLE001  # one task's failure does not concern the others
            end = _failure(context, entry, attempt, error, missing.pop(0))
        else:
            break
    return end


def _probe_in_turn(
    context: WorkerContext, entry: ManifestEntry, attempt: Attempt, missing: list[Probe]
) -> None:
    """Publish the missing probes, removing each from the list; raises learn.Stopped soon after a request."""
    from orch_core import learn

    cell, folder = entry.job.cell, context.study.cell_folder(entry.id)
    watch = _watch(context, entry, attempt)
    probes = tuple(map(probe_from, missing))  # equal to those that are missing: paths are not compared
    for probe, result in learn.probe(cell, folder, probes, should_stop=watch):
        record = Record(
            cell=entry.id,
            name=cell.name,
            task=probe.task,
            probe=probe.id,
            status=result.status,
            values=result.values,
            cost=result.cost,
            provenance=_provenance(
                context, attempt, probe=asdict(probe), parent=f"cells/{entry.id}/record.json"
            ),
            reason=result.reason,
        )
        target = context.study.probe_folder(entry.id, probe)
        target.mkdir(parents=True, exist_ok=True)
        for name, content in result.files.items():
            write_atomic(target / name, content)
        _publish(attempt, target, record)
        missing.remove(probe)
        if missing and context.stop.wanted():
            raise learn.Stopped


def _failure(
    context: WorkerContext,
    entry: ManifestEntry,
    attempt: Attempt,
    error: Exception,
    probe: Probe | None = None,
) -> End:
    """Record why a cell, or one of its probes, failed."""
    if isinstance(error, ranks.Fenced):
        return End(how="fenced")
    if isinstance(error, OrchError):
        sys.stderr.write(f"error: {error}\n")
    else:
        traceback.print_exception(error)
    end = error.end if isinstance(error, ranks.RankFailed) else causes.end_of(error, context.study.root)
    log = context.study.relative(attempts.log_of(attempt.folder))
    record = failed_record(entry, end, log, probe, provenance=_provenance(context, attempt))
    target = attempt.folder
    if probe:
        target = attempts.folder_of(context.study.probe_folder(entry.id, probe), attempt.number)
    with contextlib.suppress(OSError):  # the disk may be what failed; the end is written later
        target.mkdir(parents=True, exist_ok=True)
        if probe or not context.study.is_published(entry.id):
            publish(target, record)
        if end.cause == Cause.CODE_ERROR:
            seen = journal.errors_folder(context.study.root, context.launch.token, entry) / end.signature
            seen.mkdir(parents=True, exist_ok=True)
            (seen / entry.id).touch()
    return end


def failed_record(
    entry: ManifestEntry,
    end: End,
    log: str,
    probe: Probe | None = None,
    provenance: dict[str, Any] | None = None,
) -> Record:
    """The record of a failed attempt; `log` is relative to the study."""
    return Record(
        cell=entry.id,
        name=entry.job.cell.name,
        status="failed",
        task=probe.task if probe else "",
        probe=probe.id if probe else "",
        provenance=provenance or {},
        reason=Reason(cause=end.cause, message=end.message, log=log),
    )


def _watch(context: WorkerContext, entry: ManifestEntry, attempt: Attempt) -> Callable[[], bool]:
    """`should_stop` of the training loop; raises `ranks.Fenced` before saving if a later attempt exists."""
    check = Every(CHECK_SECONDS)

    def should_stop() -> bool:
        if check.due():
            if not claims.is_newest(attempt):
                raise ranks.Fenced
            if _is_cancelled(context, entry):
                return True
            if context.spending.is_over():
                context.stop.reason = context.stop.reason or Cause.BUDGET
        return bool(context.stop.wanted())

    return should_stop


def _is_cancelled(context: WorkerContext, entry: ManifestEntry) -> bool:
    root = context.study.root
    return journal.is_cancelled(root, context.launch.token) or journal.is_cell_cancelled(root, entry.id)


def _publish(attempt: Attempt, folder: Path, record: Record) -> None:
    if not claims.is_newest(attempt):
        raise ranks.Fenced
    publish(folder, record)


def _provenance(context: WorkerContext, attempt: Attempt, **more: object) -> dict[str, Any]:
    owner = attempt.owner
    return provenance.gather(
        code=context.launch.code,
        launch=context.launch.token,
        attempt=attempt.number,
        job=owner.job,
        node=owner.node,
        devices=owner.devices,
        log=context.study.relative(attempts.log_of(attempt.folder)),
        **more,
    )
