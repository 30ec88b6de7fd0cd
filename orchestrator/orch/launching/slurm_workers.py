"""The workers of a launch on Slurm: how many are queued or run, how many to submit, how to end them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orch.launching import journal, slurm
from orch.launching.journal import Event, JobRequest, Step
from orch.launching.local_workers import last_words
from orch.launching.slurm import SlurmJob, SubmitLimitError
from orch.launching.status import JobState
from orch.launching.submit import Array, adopt, job_name, submit
from orch.launching.worker.process import Every
from orch_core.errors import OrchError
from orch_core.files import exclusive
from orch_core.study.folder import Study

PARALLEL = 32  # workers at once if the user sets no number
RETRY_SECONDS = 60.0  # after a submit limit
QUEUE_SECONDS = 5.0  # between two squeue calls, whatever the number of cells


@dataclass(slots=True, kw_only=True)
class SlurmWorkers:
    """Workers on Slurm.

    shares:   number of workers of each resource class
    requests: resources of the jobs of each class
    queued:   jobs of the study's launches in the last answer of squeue
    trouble:  why squeue did not answer; no worker is started then, and states of cells come from the study
              alone
    """

    study: Study
    token: str
    snapshot: Path
    shares: Counter[str]
    requests: Mapping[str, JobRequest]
    queued: list[SlurmJob] = field(default_factory=list)
    trouble: str = ""
    detached: bool = True
    _asking: Every = field(default_factory=lambda: Every(QUEUE_SECONDS))
    _not_before: float = 0.0  # the next try after a submit limit

    def alive(self) -> int:
        """Count the workers, queued ones included."""
        return sum(job.tasks for job in self.look())

    def keep(self, pending: Sequence[JobState]) -> int:
        """Submit missing workers for the pending cells; returns how many were submitted."""
        missing = self._missing(pending, self.look())
        self._refuse_hopeless()
        if not missing or self.trouble or time.monotonic() < self._not_before:
            return 0
        # under a lock, because two launches at once would each submit all of them
        with exclusive(self.study.launches / ".spawning"):
            missing = self._missing(pending, self.look(now=True))
            started = 0 if self.trouble else sum(self._start(array) for array in missing)
        if started:
            self.look(now=True)
        return started

    def stop(self) -> None:
        """Cancel them."""
        stop_slurm(self.study, [self.token])

    def explain(self) -> str:
        """The end of the newest worker's output."""
        return last_words(self.study.logs / self.token)

    def note(self) -> str:
        """A short description of the queue, or of what is wrong with Slurm."""
        return self.trouble or slurm.describe(self.queued)

    def look(self, *, now: bool = False) -> list[SlurmJob]:
        """The workers of the study's launches; those of the last answer if Slurm does not answer now."""
        if self._asking.due() or now:
            try:
                names = (f"orch-{token}-" for token in journal.tokens(self.study.root))
                self.queued = slurm.without_stuck(slurm.queue(names))
                self.trouble = ""
            except OrchError as error:
                self.trouble = f"Slurm does not answer: {error.message}"
            if not any("begin" in request.options for request in self.requests.values()):
                slurm.start_now(self.queued, lambda job: journal.worker_ended(self.study.root, job))
            self._adopt_orphans()
        return self.queued

    def _adopt_orphans(self) -> None:
        """Complete arrays whose submitter was killed between its intent and the end of the submission."""
        for intent in journal.open_intents(self.study.root) if self.queued else ():
            job = next((job.id for job in self.queued if job.name == intent.name), "").partition("_")[0]
            if job:
                request = JobRequest(minutes=intent.minutes)
                adopt(self._array(intent.group, intent.workers, request, intent.token), job)
                event = Event(step=Step.ADOPTED, token=intent.token, name=intent.name, job=job)
                journal.write(self.study.root, event)

    def _refuse_hopeless(self) -> None:
        """Cancel this launch's workers and raise OrchError if they can never start."""
        mine = [job for job in self.queued if job.name.startswith(f"orch-{self.token}-")]
        jobs = slurm.hopeless(mine)
        if jobs:
            slurm.run("scancel", *(job.id for job in jobs))
            message = f"Slurm would never start the workers of {jobs[0].name}: {jobs[0].reason}"
            raise OrchError(message, hint=slurm.hint_for(jobs[0].reason))

    def _missing(self, pending: Sequence[JobState], jobs: Sequence[SlurmJob]) -> list[Array]:
        """The workers that the pending cells lack, with a time limit for the cell with most timeouts."""
        arrays = []
        for group, share in self.shares.items():
            waiting = [one for one in pending if one.entry.group == group]
            request = self.requests[group]
            serving = sum(job.tasks for job in jobs if self._serves(job, group, pending))
            missing = min(share, math.ceil(len(waiting) / request.cells)) - serving
            if missing > 0:
                minutes = request.minutes_after(max(one.timeouts for one in waiting))
                arrays.append(self._array(group, missing, replace(request, minutes=minutes), self.token))
        return arrays

    def _serves(self, job: SlurmJob, group: str, pending: Sequence[JobState]) -> bool:
        """Whether a worker's manifest contains every pending cell of the class."""
        if job.name == job_name(self.token, group):
            return True
        tokens = journal.tokens(self.study.root)
        other = next((token for token in tokens if job.name.startswith(f"orch-{token}-")), "")
        if not other or other == self.token or journal.is_cancelled(self.study.root, other):
            return False
        cells = journal.cell_ids(self.study.root, other)
        return all(one.entry.id in cells for one in pending if one.entry.group == group)

    def _array(self, group: str, workers: int, request: JobRequest, token: str) -> Array:
        return Array(
            study=self.study,
            token=token,
            group=group,
            workers=workers,
            request=request,
            snapshot=self.snapshot,
        )

    def _start(self, wanted: Array) -> int:
        """Submit arrays no larger than the cluster allows; fewer workers if a submit limit is reached.

        The intent is durable before sbatch is called, and the array's name contains the token: if the
        submitter is killed in between, the next launch finds and counts its array.
        """
        started, size = 0, min(wanted.workers, slurm.max_array_size() - 1)
        while started < wanted.workers:
            array = replace(wanted, workers=min(size, wanted.workers - started))
            name = job_name(array.token, array.group)
            event = Event(step=Step.INTENT, token=array.token, name=name, workers=array.workers)
            intent = replace(event, group=array.group, minutes=array.request.minutes)
            journal.write(self.study.root, intent)
            try:
                job = submit(array)
            except OrchError as error:
                journal.write(
                    self.study.root, replace(event, step=Step.REFUSED, workers=0, words=error.message)
                )
                if not isinstance(error, SubmitLimitError):
                    raise
                if array.workers == 1:
                    self._not_before = time.monotonic() + RETRY_SECONDS
                    return started
                size = array.workers // 2
                continue
            journal.write(self.study.root, replace(event, step=Step.SUBMITTED, job=job))
            started += array.workers
        return started


def stop_slurm(study: Study, tokens: Sequence[str]) -> int:
    """Cancel the workers of launches on Slurm, after marking the launches; returns how many."""
    for token in tokens:
        journal.cancel(study.root, token)
    jobs = slurm.queue(f"orch-{token}-" for token in tokens)
    names = sorted({job.name for job in jobs})
    if names:
        slurm.run("scancel", "--me", f"--name={','.join(names)}")
    return sum(job.tasks for job in jobs)


def shares_of(
    parallel: int, cells: Counter[str], seconds: Mapping[str, float], cells_per_job: Mapping[str, int]
) -> Counter[str]:
    """Workers of each resource class: `parallel` shared by the classes' expected time, at least one each."""
    parallel, total = parallel or PARALLEL, sum(seconds.values())
    parts = {group: seconds[group] / total if total else 1 / len(cells) for group in cells}
    jobs = {group: math.ceil(count / cells_per_job.get(group, 1)) for group, count in cells.items()}
    return Counter({group: max(1, min(jobs[group], round(parallel * parts[group]))) for group in cells})
