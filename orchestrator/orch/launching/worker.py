"""A worker: walks a launch's manifest, claims one cell after another, trains it, and probes its encoder.

Workers pull: any number of them may walk the same manifest, and none needs to know the others.
Signals only set a flag; training saves at its next step. A worker ends when nothing is left to claim.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orch.launching import attempts, causes, journal, slurm
from orch.launching.attempts import Attempt, End, Owner
from orch.launching.journal import Entry
from orch.launching.process import Stop, heartbeat, log_to, signals_to, warning_seconds
from orch_core import provenance
from orch_core.cell import Probe
from orch_core.record import Reason, Record, dumps, publish_once, write_atomic
from orch_core.study import Study, publish

SAME_ERROR_LIMIT = 3  # identical tracebacks in different cells stop their class
CHECK_SECONDS = 1.0  # how often the fence and the tombstone are looked at


class Fenced(Exception):  # noqa: N818  # not an error: another attempt took over
    """A later attempt has been claimed: this one must not write any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What a worker carries along its manifest."""

    study: Study
    token: str
    owner: Owner
    stop: Stop
    limit: int
    code: dict[str, Any]
    redirect: bool = True


def run(root: str, token: str, name: str, group: str = "") -> str:
    """Entry of a worker process, called through submitit; returns why it ended."""
    faulthandler.enable()
    study = Study(Path(root))
    launch = journal.about(study.root, token)
    owner = attempts.me(token, name)
    if owner.job:
        owner = replace(owner, worker=f"{owner.job}-{os.environ.get('SLURM_RESTART_COUNT', '0')}-{owner.pid}")
    stop = Stop(deadline=_deadline(launch, group, owner.job))
    path = journal.launch_folder(study.root, token) / "workers" / f"{owner.worker}.json"
    lock = attempts.lock_file(path, dumps(asdict(owner)))
    try:
        with signals_to(stop):
            walk = Walk(
                study=study,
                token=token,
                owner=owner,
                stop=stop,
                limit=launch["attempts"],
                code=launch["code"],
            )
            why = walk_manifest(walk, journal.manifest(study.root, token, group))
            with contextlib.suppress(OSError):  # a full disk: Slurm's own wait will do
                path.rename(path.with_suffix(".ended"))
            if why == "deadline" and not journal.is_cancelled(study.root, token):
                _come_back(stop, owner.job)
            return why
    finally:
        os.close(lock)


def _deadline(launch: dict[str, Any], group: str, job: str) -> float:
    """When a worker must have saved: its Slurm job's end, less a margin; never on one's own machine."""
    if not job or launch["cluster"] != "slurm":
        return math.inf
    minutes = slurm.minutes_of(str(launch["options"][group]["time"]))
    left = min(slurm.seconds_left(job), 60.0 * minutes)
    return time.time() + left - warning_seconds(minutes)


def _come_back(stop: Stop, job: str) -> None:
    """Have Slurm run this task again; while its controller is down, try until the time limit ends this process.

    `job` must name the task, `12_3`: SLURM_JOB_ID of one task of an array is the whole array.
    """
    while stop.reason != "signal" and not slurm.requeue(job):
        time.sleep(5.0)


def walk_manifest(walk: Walk, entries: list[Entry], *, tell: Callable[[], None] = lambda: None) -> str:
    """Work at every entry that can be claimed until none is left; `tell` is called after each attempt.

    Returns `finished` (nothing left to claim), or why it stopped: `signal`, `deadline`, `cancelled`, `disk_full`.
    """
    todo, position, idle = list(entries), 0, 0
    while todo and idle < len(todo):
        if not walk.stop.wanted() and journal.is_cancelled(walk.study.root, walk.token):
            walk.stop.reason = "cancelled"
        if walk.stop.wanted():
            return walk.stop.reason
        position %= len(todo)
        entry = todo[position]
        if is_settled(walk.study, entry):
            todo.pop(position)
            continue
        attempt = _take(walk, entry)
        if attempt is None:
            position, idle = position + 1, idle + 1
            continue
        end = _attempt(walk, entry, attempt)
        tell()
        idle = 0
        if end.cause == "disk_full":
            return "disk_full"
    return "finished"


def is_settled(study: Study, entry: Entry) -> bool:
    """Whether an entry has all its records: the cell's, and its probes' where it has an encoder."""
    folder = study.cell_folder(entry.id)
    if not (folder / "record.json").exists():
        return False
    if all((study.probe_folder(entry.id, probe) / "record.json").exists() for probe in entry.job.probes):
        return True
    record = study.record(entry.id)
    return record is not None and record.status != "done"


def _take(walk: Walk, entry: Entry) -> Attempt | None:
    """The entry's next attempt, or None where it is busy, spent, cancelled or stopped with its class."""
    root, folder = walk.study.root, walk.study.cell_folder(entry.id)
    if is_stopped(root, walk.token, entry) or journal.is_cell_cancelled(root, walk.token, entry.id):
        return None
    verdict, newest = attempts.judge(folder, after=entry.after, limit=walk.limit)
    if verdict == "dead":
        record_death(walk.study, entry, newest)
        verdict, newest = attempts.judge(folder, after=entry.after, limit=walk.limit)
    if verdict != "claim":
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return attempts.claim(folder, walk.owner, newest + 1)


def record_death(study: Study, entry: Entry, number: int) -> None:
    """Record that an attempt's process died without a word."""
    folder = study.cell_folder(entry.id)
    owner = attempts.owner_of(folder / "attempts" / str(number))
    cause, message = slurm.cause_of_death(owner.job if owner else "")
    end = attempts.bury(folder, number, cause, message)
    if end and owner and owner.node and cause in {"killed", "node_failure"}:
        journal.note_death(study.root, owner.token, owner.node, entry.id)
    if end and not (folder / "record.json").exists():
        record = _failed(entry, end, Path("cells") / entry.id / "attempts" / str(number) / "log.txt")
        publish_once(folder / "attempts" / str(number) / "record.json", dumps(record.to_json()))


def _attempt(walk: Walk, entry: Entry, attempt: Attempt) -> End:
    """Work at one cell; whatever happens inside becomes the attempt's end."""
    began = time.monotonic()
    log = attempt.folder / "log.txt"
    end = End(how="failed", cause="killed")
    try:
        with log_to(log, redirect=walk.redirect), heartbeat(log):
            try:
                end = _work(walk, entry, attempt)
            except Exception as error:  # noqa: BLE001  # every failure of a cell is a record, not a crash
                end = _failure(walk, entry, attempt, error)
    finally:
        seconds = time.monotonic() - began
        progress = attempts.made_progress(walk.study.cell_folder(entry.id), attempt.folder)
        with contextlib.suppress(OSError):  # a full disk: the attempt will be found dead
            attempts.release(attempt, replace(end, seconds=seconds, progress=progress))
    return end


def _work(walk: Walk, entry: Entry, attempt: Attempt) -> End:
    """Pretrain unless that is done, then probe what is missing."""
    from orch_core import learn

    cell, folder = entry.job.cell, walk.study.cell_folder(entry.id)
    publish_once(folder / "cell.json", dumps(cell.to_json()))
    record = walk.study.record(entry.id)
    if record is None:
        try:
            result = learn.pretrain(cell, folder, should_stop=_watch(walk, entry, attempt))
        except learn.Stopped:
            return End(how="stopped", cause=walk.stop.reason or "cancelled")
        record = Record(
            cell=entry.id,
            name=cell.name,
            status=result.status,
            values=result.values,
            cost=result.cost,
            provenance=_provenance(walk, attempt, config=cell.to_json()),
            reason=result.reason,
        )
        _publish(attempt, folder, record)
        publish_once(attempt.folder / "record.json", dumps(record.to_json()))
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # the encoder is what is read from now on
    if record.status == "done":
        return _probe(walk, entry, attempt)
    return End(how="done")


def _probe(walk: Walk, entry: Entry, attempt: Attempt) -> End:
    """Probe what is missing; a probe that fails leaves its reason, and the others go on."""
    from orch_core import learn

    cell, folder = entry.job.cell, walk.study.cell_folder(entry.id)
    missing = [probe for probe in entry.job.probes if not walk.study.probe_record(entry.id, probe)]
    parent = {"parent": f"cells/{entry.id}/record.json"}
    end = End(how="done")
    while missing:
        try:
            for probe, result in learn.probe(cell, folder, tuple(missing)):
                record = Record(
                    cell=entry.id,
                    name=cell.name,
                    task=probe.task,
                    probe=probe.id,
                    status=result.status,
                    values=result.values,
                    cost=result.cost,
                    provenance=_provenance(walk, attempt, probe=asdict(probe), **parent),
                    reason=result.reason,
                )
                target = walk.study.probe_folder(entry.id, probe)
                target.mkdir(parents=True, exist_ok=True)
                for name, content in result.files.items():
                    write_atomic(target / name, content)
                _publish(attempt, target, record)
                missing.remove(probe)
                if walk.stop.wanted() and missing:
                    return End(how="stopped", cause=walk.stop.reason)
            break
        except Fenced:
            raise
        except Exception as error:  # noqa: BLE001  # one task's failure is no other's
            end = _failure(walk, entry, attempt, error, missing.pop(0))
            if end.cause == "disk_full":
                break
    return end


def _failure(walk: Walk, entry: Entry, attempt: Attempt, error: Exception, probe: Probe | None = None) -> End:
    """Record why a cell, or one of its probes, failed."""
    if isinstance(error, Fenced):
        return End(how="fenced")
    traceback.print_exception(error)
    cause = causes.cause_of(error, walk.study.root)
    signature = causes.signature_of(error)
    end = End(how="failed", cause=cause, message=causes.message_of(error), signature=signature)
    log = attempt.folder.relative_to(walk.study.root) / "log.txt"
    record = _failed(entry, end, log, probe, provenance=_provenance(walk, attempt))
    target = attempt.folder
    if probe:
        target = walk.study.probe_folder(entry.id, probe) / "attempts" / str(attempt.number)
    with contextlib.suppress(OSError):  # the disk may be what failed; the end is tried once more
        target.mkdir(parents=True, exist_ok=True)
        if probe or not (walk.study.cell_folder(entry.id) / "record.json").exists():
            publish_once(target / "record.json", dumps(record.to_json()))
        if cause == "code_error":
            seen = _errors(walk.study.root, walk.token, entry) / signature
            seen.mkdir(parents=True, exist_ok=True)
            (seen / entry.id).touch()
    return end


def _failed(
    entry: Entry,
    end: End,
    log: Path,
    probe: Probe | None = None,
    provenance: dict[str, Any] | None = None,
) -> Record:
    return Record(
        cell=entry.id,
        name=entry.job.cell.name,
        status="failed",
        task=probe.task if probe else "",
        probe=probe.id if probe else "",
        provenance=provenance or {},
        reason=Reason(cause=end.cause, message=end.message, log=log.as_posix()),
    )


def is_stopped(root: Path, token: str, entry: Entry) -> bool:
    """Whether the entry's class (its recipe) was stopped: three of its cells failed with the same traceback."""
    try:
        signatures = list(_errors(root, token, entry).iterdir())
    except FileNotFoundError:
        return False
    return any(len(list(signature.iterdir())) >= SAME_ERROR_LIMIT for signature in signatures)


def _errors(root: Path, token: str, entry: Entry) -> Path:
    return journal.launch_folder(root, token) / "errors" / entry.job.cell.recipe


def _watch(walk: Walk, entry: Entry, attempt: Attempt) -> Callable[[], bool]:
    """`should_stop` for the training loop: raises Fenced once a later attempt exists, before anything is saved."""
    checked = -math.inf

    def should_stop() -> bool:
        nonlocal checked
        if time.monotonic() - checked >= CHECK_SECONDS:
            checked = time.monotonic()
            if not attempts.is_newest(attempt):
                raise Fenced
            if _is_cancelled(walk, entry):
                return True
        return bool(walk.stop.wanted())

    return should_stop


def _is_cancelled(walk: Walk, entry: Entry) -> bool:
    root = walk.study.root
    return journal.is_cancelled(root, walk.token) or journal.is_cell_cancelled(root, walk.token, entry.id)


def _publish(attempt: Attempt, folder: Path, record: Record) -> None:
    if not attempts.is_newest(attempt):
        raise Fenced
    publish(folder, record)


def _provenance(walk: Walk, attempt: Attempt, **more: object) -> dict[str, Any]:
    owner = attempt.owner
    return provenance.gather(
        code=walk.code,
        launch=walk.token,
        attempt=attempt.number,
        job=owner.job,
        node=owner.node,
        log=(attempt.folder.relative_to(walk.study.root) / "log.txt").as_posix(),
        **more,
    )
