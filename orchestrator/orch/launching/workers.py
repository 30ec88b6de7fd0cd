"""The workers of a launch on this machine and on Slurm: how many live, how many to start, how to end them."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orch.launching import journal, slurm
from orch.launching.settings import SLURM_WORKERS, Settings
from orch.launching.slurm import SlurmJob
from orch.launching.status import Standing
from orch_core import provenance
from orch_core.errors import OrchError
from orch_core.files import exclusive
from orch_core.study import attempts
from orch_core.study.folder import Study

REGISTER_SECONDS = 60.0  # that a worker may take to start Python and be seen
LIMIT_WORDS = re.compile(
    r"MaxSubmit|submit limit|job limit|JobCount|Resource temporarily unavailable", re.IGNORECASE
)
RETRY_SECONDS = 60.0  # after a submit limit
QUEUE_SECONDS = 5.0  # between two squeue calls, whatever the number of cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The workers of a launch, wherever they run.

    keep:    start what is missing for the pending cells; returns how many were started
    alive:   how many live, queued ones included
    stop:    ask them to save and end
    explain: what the last of them said, for when they die before they work
    note:    what the cluster says, in a few words
    detached: Ctrl-C ends the waiting, not the workers
    """

    keep: Callable[[Sequence[Standing]], int]
    alive: Callable[[], int]
    stop: Callable[[], object]
    explain: Callable[[], str]
    note: Callable[[], str] = lambda: ""
    detached: bool = False


class Handle(Protocol):
    """A worker process that was started here."""

    def done(self) -> bool:
        """Whether it has ended; reaps it."""


def local_fleet(
    study: Study, token: str, settings: Settings, submit: Callable[[str], Handle], *, unfinished: int
) -> Fleet:
    """Workers of this machine: those of this launch, and those that a killed launch left behind."""
    handles: list[Handle] = []
    gpus = len(provenance.gpus())
    room = max(1, gpus // settings.gpus) if gpus else provenance.hardware()["cores"]
    parallel = min(settings.parallel or room, unfinished)

    def alive() -> int:
        for handle in handles:
            handle.done()
        return len(local_workers(study))

    def keep(pending: Sequence[Standing]) -> int:
        started = 0
        if pending and alive() < parallel:
            # under a lock: two launches at once would each start as many as there are cores
            with exclusive(study.root / "launches" / ".spawning"):
                for _ in range(min(len(pending), parallel - alive())):
                    handles.append(submit(f"w{len(handles)}"))
                    started += 1
                _until_registered(study, token, handles)
        return started

    def stop() -> None:
        for path in local_workers(study, token):
            owner = attempts.read_owner(path)
            if owner:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(owner.pid, signal.SIGTERM)

    return Fleet(keep=keep, alive=alive, stop=stop, explain=lambda: last_words(study.root / "logs" / token))


def local_workers(study: Study, token: str = "") -> list[Path]:
    """Lock files of live workers: all of the study, or those of `token` and of launches whose launcher is gone."""
    return [
        path
        for other in journal.tokens(study.root)
        if not token or other == token or not journal.launcher_lives(study.root, other)
        for path in journal.live_workers(study.root, other)
    ]


def last_words(logs: Path) -> str:
    """The end of the log that was written last."""
    last = max(logs.glob("*_log.out"), key=lambda path: path.stat().st_mtime, default=None)
    if not last:
        return f"nothing was written to {logs}: do the nodes see this folder?"
    lines = last.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
    return f"{last} ends with:\n" + "\n".join(lines)


@dataclass(slots=True)
class _Queue:
    """What squeue showed last, asked at most every five seconds, whatever the number of cells."""

    root: Path
    kick: bool
    adopt: Callable[[str, str, str, int, float], None]
    seen: list[SlurmJob]
    asked: float = -QUEUE_SECONDS
    trouble: str = ""

    def look(self, *, now: bool = False) -> list[SlurmJob]:
        """The workers of the study's launches; what was seen before where Slurm does not answer."""
        if now or time.monotonic() - self.asked >= QUEUE_SECONDS:
            try:
                names = (f"orch-{token}-" for token in journal.tokens(self.root))
                self.seen = slurm.without_stuck(slurm.queue(names))
                self.trouble = ""
            except OrchError as error:
                self.trouble = f"Slurm does not answer: {error.message}"
            self.asked = time.monotonic()
            if self.kick:
                slurm.start_now(self.seen, lambda job: journal.worker_ended(self.root, job))
            self._adopt_orphans()
        return self.seen

    def _adopt_orphans(self) -> None:
        """Take over arrays whose submitter was killed between its intent and the end of the submission."""
        for intent in journal.open_intents(self.root) if self.seen else ():
            jobs = [job for job in self.seen if job.name == intent["name"]]
            if jobs:
                job = jobs[0].id.partition("_")[0]
                self.adopt(intent["token"], intent["group"], job, intent["workers"], intent["minutes"])
                journal.write(self.root, "adopted", intent["token"], name=intent["name"], job=job)


def slurm_fleet(
    study: Study,
    token: str,
    settings: Settings,
    submit: Callable[[str, int, float], str],
    adopt: Callable[[str, str, str, int, float], None],
    shares: Counter[str],
    minutes: Mapping[str, tuple[float, float]],
) -> Fleet:
    """Workers on Slurm; `shares` says how many each resource class gets, `minutes` their first and longest time limit.

    submit: (class, workers, minutes) to the job id of an array; adopt: completes an array that was submitted
    without this program's knowledge: (token, class, job, workers, minutes).
    Where Slurm does not answer nothing is started, and the study alone says how things stand.
    """
    queue = _Queue(root=study.root, kick="begin" not in settings.options, adopt=adopt, seen=[])
    not_before = 0.0  # the next try after a submit limit

    def keep(pending: Sequence[Standing]) -> int:
        nonlocal not_before
        jobs = queue.look()
        if queue.trouble or time.monotonic() < not_before:
            return 0
        started = 0
        for group, share in shares.items():
            serving = sum(job.tasks for job in jobs if _serves(study, token, group, job, pending))
            waiting = [standing for standing in pending if standing.entry.group == group]
            missing = min(share, math.ceil(len(waiting) / settings.cells_per_job.get(group, 1))) - serving
            if missing > 0:
                timeouts = max(standing.timeouts for standing in waiting)
                length = slurm.minutes_after(timeouts, *minutes[group])
                came = _submit_within_limits(study, token, group, missing, length, submit)
                not_before = time.monotonic() + RETRY_SECONDS if came < missing else not_before
                started += came
        if started:
            queue.look(now=True)
        return started

    return Fleet(
        keep=keep,
        alive=lambda: sum(job.tasks for job in queue.look()),
        stop=lambda: stop_slurm(study, [token]),
        detached=True,
        explain=lambda: last_words(study.root / "logs" / token),
        note=lambda: queue.trouble or slurm.describe(queue.seen),
    )


def stop_slurm(study: Study, tokens: Sequence[str]) -> int:
    """Cancel the workers of launches on Slurm; returns how many. The tombstone, written first, keeps them away."""
    for token in tokens:
        (journal.launch_folder(study.root, token) / "cancelled").touch()
    jobs = slurm.queue(f"orch-{token}-" for token in tokens)
    names = sorted({job.name for job in jobs})
    if names:
        slurm.run("scancel", "--me", f"--name={','.join(names)}")
    return sum(job.tasks for job in jobs)


def shares_of(settings: Settings, groups: Counter[str], seconds: dict[str, float]) -> Counter[str]:
    """Workers for each resource class: the total in proportion to its expected time, one at least."""
    parallel = settings.parallel or SLURM_WORKERS
    total = sum(seconds.values())
    return Counter(
        {
            group: max(
                1,
                min(
                    math.ceil(count / settings.cells_per_job.get(group, 1)),
                    round(parallel * (seconds[group] / total if total else 1 / len(groups))),
                ),
            )
            for group, count in groups.items()
        }
    )


def job_name(token: str, group: str) -> str:
    """The Slurm job name of a launch's workers: found again by it, whatever became of the submitter."""
    return f"orch-{token}-{group}"


def _serves(study: Study, token: str, group: str, job: SlurmJob, pending: Sequence[Standing]) -> bool:
    """Whether a worker walks a manifest that holds every pending cell of the class."""
    if job.name == job_name(token, group):
        return True
    other = next((name for name in journal.tokens(study.root) if job.name.startswith(f"orch-{name}-")), "")
    if not other or other == token or journal.is_cancelled(study.root, other):
        return False
    held = journal.cell_ids(study.root, other)
    return all(standing.entry.id in held for standing in pending if standing.entry.group == group)


def _submit_within_limits(
    study: Study, token: str, group: str, count: int, minutes: float, submit: Callable[[str, int, float], str]
) -> int:
    """Submit arrays no larger than the cluster allows; fewer workers where a submit limit is reached.

    The intent is durable before sbatch is called, and the array carries the token in its name: a
    submitter killed in between leaves an array that the next launch finds and counts.
    """
    name = job_name(token, group)
    started, size = 0, min(count, slurm.max_array_size() - 1)
    while started < count:
        size = min(size, count - started)
        journal.write(study.root, "intent", token, name=name, group=group, workers=size, minutes=minutes)
        try:
            job = submit(group, size, minutes)
        except OrchError as error:
            journal.write(study.root, "refused", token, name=name, words=error.message)
            if not LIMIT_WORDS.search(error.message):
                raise
            if size == 1:
                return started
            size = max(1, size // 2)
            continue
        journal.write(study.root, "submitted", token, name=name, job=job, workers=size)
        started += size
    return started


def _until_registered(study: Study, token: str, handles: Sequence[Handle]) -> None:
    """Wait until each new worker is seen alive, or has ended already."""
    folder = journal.launch_folder(study.root, token) / "workers"
    end = time.monotonic() + REGISTER_SECONDS
    while time.monotonic() < end:
        if all((folder / f"w{k}.json").exists() or handle.done() for k, handle in enumerate(handles)):
            return
        time.sleep(0.05)
