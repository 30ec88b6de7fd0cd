"""Waiting for a launch: workers are kept at work, deaths are noticed, Ctrl-C stops without losing anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orch import causes
from orch.journal import Entry
from orch.process import Stop
from orch.status import Standing, stand
from orch.worker import record_death
from orch_core.errors import OrchError
from orch_core.study import Study

POLL_SECONDS = 0.5
STOP_SECONDS = 60.0  # that workers get to save after Ctrl-C
FINAL = frozenset({"done", "diverged", "failed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The workers of a launch, wherever they run.

    spawn: start that many more; alive: how many live (queued ones included); stop: ask them to save and end;
    explain: what the last of them said, for when they die before they work.
    """

    wanted: int
    spawn: Callable[[int], None]
    alive: Callable[[], int]
    stop: Callable[[], None]
    explain: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a launch waits for."""

    study: Study
    token: str
    limit: int
    stop: Stop
    tell: Callable[[Sequence[Standing], int], None]


def wait_for(watch: Watch, entries: Sequence[Entry], fleet: Fleet) -> list[Standing]:
    """Poll until every entry is done or failed for good, or until `watch.stop`; returns where each stands.

    Raises OrchError where the disk is full, or where workers die before they begin.
    """
    standings = {entry.id: stand(watch.study, entry) for entry in entries}
    futile, seen = 0, _mark(standings)
    while True:
        began = time.monotonic()
        try:
            _refresh(watch, standings)
        except OSError as error:
            _raise_if_full(watch, error)
            raise
        alive = fleet.alive()
        here = list(standings.values())
        watch.tell(here, alive)
        pending = [standing for standing in here if standing.state == "pending"]
        if any(standing.cause == "disk_full" for standing in pending):
            _end(fleet)
            raise _full(watch.study)
        if all(standing.state in FINAL for standing in here):
            return here
        if watch.stop.wanted():
            _end(fleet)
            _refresh(watch, standings)
            return list(standings.values())
        mark = _mark(standings)
        futile, seen = (futile if mark == seen else 0), mark
        missing = min(fleet.wanted, len(here)) - alive
        if pending and missing > 0:
            if futile > 2 * fleet.wanted:
                message = "workers end before they begin"
                raise OrchError(message, hint=fleet.explain())
            starting = min(missing, len(pending))
            fleet.spawn(starting)
            futile += starting
        _sleep(watch.stop, max(POLL_SECONDS, 10 * (time.monotonic() - began)))


def _refresh(watch: Watch, standings: dict[str, Standing]) -> None:
    """Look again at what is not final, and record the deaths of workers."""
    for cell, old in standings.items():
        if old.state in FINAL:
            continue
        now = stand(watch.study, old.entry, token=watch.token, limit=watch.limit)
        if now.dead:
            record_death(watch.study, now.entry, now.attempt)
            now = stand(watch.study, old.entry, token=watch.token, limit=watch.limit)
        standings[cell] = now


def _mark(standings: dict[str, Standing]) -> int:
    """A number that grows with every attempt and every record: while it stands still, nothing happens."""
    return sum(standing.attempt + standing.probes_done for standing in standings.values())


def _end(fleet: Fleet) -> None:
    """Ask the workers to stop, and give them time to save; a second Ctrl-C leaves them to it."""
    fleet.stop()
    stop = time.monotonic() + STOP_SECONDS
    while fleet.alive() and time.monotonic() < stop:
        time.sleep(0.1)


def _sleep(stop: Stop, seconds: float) -> None:
    """Sleep, but not through a signal."""
    end = time.monotonic() + seconds
    while not stop.reason and time.monotonic() < end:
        time.sleep(min(0.1, seconds))


def _raise_if_full(watch: Watch, error: OSError) -> None:
    if causes.is_disk_error(error, watch.study.root):
        raise _full(watch.study, error) from error


def _full(study: Study, error: OSError | None = None) -> OrchError:
    what = "cannot be written" if error and error.errno in causes.UNWRITABLE else "has no space left"
    return OrchError(
        f"the file system of the study {what}: {study.root}",
        hint="make room (or make it writable) and `orch launch` again: finished cells stay, others resume",
    )
