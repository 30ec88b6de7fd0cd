"""Launching: a manifest, and workers that walk it, in this process, on this machine or on Slurm.

The only door to submitit, which carries a tiny entry point and strings; see `orch.worker` for what runs.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from orch import attempts, freeze, journal, show, worker
from orch.journal import Entry
from orch.process import ONE_THREAD, Stop, signals_to
from orch.status import Standing, stand, survey
from orch.waiting import Fleet, Watch, wait_for
from orch_core import provenance
from orch_core.cell import Job
from orch_core.errors import OrchError
from orch_core.record import dumps
from orch_core.study import Study

ATTEMPTS = 3  # of a cell in one launch, in a row and without progress, before it counts as failed
REGISTER_SECONDS = 60.0  # that a worker may take to start Python and be seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where and how a launch runs; nothing here enters a cell's identity.

    parallel: workers at once; 0 for one a GPU or core here, and for 32 on Slurm
    attempts: of a cell in a row without progress before it counts as failed
    """

    cluster: Literal["local", "debug", "slurm"] = "local"
    parallel: int = 0
    attempts: int = ATTEMPTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A cell, or one of its probes, that gave nothing: why, and the log's path in the study."""

    cell: str
    name: str
    task: str
    cause: str
    message: str
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a launch came to: cells by where they stand, and the failures by cause."""

    token: str
    done: int
    failed: int
    remaining: int
    diverged: int = 0
    interrupted: bool = False
    failures: tuple[Failure, ...] = ()

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 1 where a cell failed, else 0."""
        return 130 if self.interrupted else int(self.failed > 0)

    def to_json(self) -> dict[str, Any]:
        """The summary as one JSON document."""
        return {"schema_version": 1, **asdict(self)}


def launch(study: Study, jobs: Sequence[Job], settings: Settings, *, wait: bool = True) -> Summary:
    """Run what is missing of the jobs; safe to call again, or twice at once: nothing is done twice.

    Raises OrchError where nothing can be launched: a full disk, workers that cannot start, a bad Slurm option.
    """
    entries = open_entries(study, jobs)
    token = journal.new_token()
    if not entries:
        return Summary(token="", done=0, failed=0, remaining=0)
    try:
        snapshot = freeze.freeze(study)
        folder = journal.begin(study, token, entries, _about(settings, snapshot))
        lock = attempts.lock_file(folder / "launcher.json", dumps(asdict(attempts.me(token, "launcher"))))
    except OSError as error:
        message = f"cannot write the study at {study.root}: {error.strerror}"
        raise OrchError(message, hint="free some disk, or make the folder writable") from error
    stop = Stop()
    try:
        with signals_to(stop), show.live(study) as tell:
            watch = Watch(study=study, token=token, limit=settings.attempts, stop=stop, tell=tell)
            if settings.cluster == "debug":
                standings = _in_process(watch, entries)
            else:
                standings = _local(watch, entries, settings, snapshot, wait=wait)
    finally:
        os.close(lock)
    return summarise(study, token, standings, interrupted=bool(stop.reason))


def open_entries(study: Study, jobs: Sequence[Job]) -> list[Entry]:
    """The jobs that lack a record, longest first, so that workers end together."""
    entries = []
    for job in jobs:
        cell = job.cell.id
        folder = study.cell_folder(cell)
        if not folder.exists():
            entries.append(Entry(id=cell, job=job))
            continue
        taken = attempts.numbers(folder)
        ended = [number for number in taken if attempts.end_of(folder / "attempts" / str(number))]
        entry = Entry(id=cell, job=job, after=max(ended, default=0))
        if not worker.is_settled(study, entry):
            entries.append(entry)
    return sorted(entries, key=lambda entry: -entry.job.seconds)


def summarise(study: Study, token: str, standings: Sequence[Standing], *, interrupted: bool) -> Summary:
    """Count the standings, and read why the failed ones failed."""
    states = [standing.state for standing in standings]
    failed = {standing.entry.id for standing in standings if standing.state == "failed"}
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
        token=token,
        done=states.count("done"),
        diverged=states.count("diverged"),
        failed=len(failed),
        remaining=states.count("pending") + states.count("running"),
        interrupted=interrupted,
        failures=tuple(failures),
    )


def _about(settings: Settings, snapshot: Path) -> dict[str, Any]:
    return {
        "cluster": settings.cluster,
        "parallel": settings.parallel,
        "attempts": settings.attempts,
        "argv": sys.argv,
        "code": {**provenance.code_state(), "snapshot": f"code/{snapshot.name}"},
    }


def _in_process(watch: Watch, entries: list[Entry]) -> list[Standing]:
    """Walk the manifest here, one cell after another, output on the terminal."""
    os.environ.update(ONE_THREAD)
    about = journal.about(watch.study.root, watch.token)
    walk = worker.Walk(
        study=watch.study,
        token=watch.token,
        owner=attempts.me(watch.token, "debug"),
        stop=watch.stop,
        limit=watch.limit,
        code=about["code"],
        redirect=False,
    )

    def look() -> list[Standing]:
        return survey(watch.study, entries, token=watch.token, limit=watch.limit)

    worker.walk_manifest(walk, entries, tell=lambda: watch.tell(look(), 1))
    return look()


def _local(
    watch: Watch, entries: list[Entry], settings: Settings, snapshot: Path, *, wait: bool
) -> list[Standing]:
    """Workers on this machine, in processes that outlive this one."""
    fleet = local_fleet(watch.study, watch.token, settings, snapshot)
    if wait:
        return wait_for(watch, entries, fleet)
    fleet.spawn(max(0, min(fleet.wanted, len(entries)) - fleet.alive()))
    return [stand(watch.study, entry) for entry in entries]


def local_fleet(study: Study, token: str, settings: Settings, snapshot: Path) -> Fleet:
    """Workers of this machine: those of this launch, and those that a killed launch left behind."""
    jobs: list[Any] = []
    logs = study.root / "logs" / token

    def alive() -> int:
        for job in jobs:
            job.done()  # reaps the ended
        return len(_workers(study))

    def spawn(count: int) -> None:
        # two launches at once would each start as many as there are cores
        with attempts.exclusive(study.root / "launches" / ".spawning"):
            for _ in range(min(count, parallel - alive())):
                jobs.append(_submit_local(study, token, f"w{len(jobs)}", logs, snapshot))
            _until_registered(study, token, jobs)

    def stop() -> None:
        for path in _workers(study, token):
            owner = attempts.read_owner(path)
            if owner:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(owner.pid, signal.SIGTERM)

    def explain() -> str:
        last = max(logs.glob("*_log.out"), key=lambda path: path.stat().st_mtime, default=None)
        if not last:
            return f"nothing in {logs}"
        return f"{last} ends with:\n" + "\n".join(
            last.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
        )

    gpus = provenance.gpus()
    parallel = settings.parallel or len(gpus) or provenance.hardware()["cores"]
    return Fleet(wanted=parallel, spawn=spawn, alive=alive, stop=stop, explain=explain)


def _workers(study: Study, token: str = "") -> list[Path]:
    """Lock files of live workers: all of the study, or those of `token` and of launches whose launcher is gone."""
    return [
        path
        for other in journal.tokens(study.root)
        if not token or other == token or not journal.launcher_lives(study.root, other)
        for path in journal.live_workers(study.root, other)
    ]


def _submit_local(study: Study, token: str, name: str, logs: Path, snapshot: Path) -> Any:
    import submitit

    gpus = provenance.gpus()
    executor = submitit.LocalExecutor(logs, python=f"{shlex.quote(sys.executable)} -P")
    executor.update_parameters(
        timeout_min=60 * 24 * 365,
        stderr_to_stdout=True,
        gpus_per_node=1 if gpus else 0,
        visible_gpus=(int(name[1:]) % len(gpus),) if gpus else (),
    )
    # Ctrl-C in a terminal reaches every process of its group: submitit's controller would kill its
    # worker after a second. Children inherit that the signal is ignored; workers then set their own flag.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _environment(snapshot):
            return executor.submit(worker.run, str(study.root.resolve()), token, name)
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGHUP, before[1])


def _until_registered(study: Study, token: str, jobs: Sequence[Any]) -> None:
    """Wait until each new worker is seen alive, or has ended already."""
    folder = journal.launch_folder(study.root, token) / "workers"
    end = time.monotonic() + REGISTER_SECONDS
    while time.monotonic() < end:
        waiting = [k for k, job in enumerate(jobs) if not (folder / f"w{k}.json").exists() and not job.done()]
        if not waiting:
            return
        time.sleep(0.05)


@contextlib.contextmanager
def _environment(snapshot: Path) -> Iterator[None]:
    """What workers inherit: the frozen code first on their path, nothing of the launch directory, one thread."""
    wanted = worker_environment(snapshot)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def worker_environment(snapshot: Path) -> Mapping[str, str]:
    """The environment of a worker: `python -P` for its children too, the snapshot, and one thread a process."""
    return {"PYTHONPATH": str(snapshot.resolve()), "PYTHONSAFEPATH": "1", **ONE_THREAD}
