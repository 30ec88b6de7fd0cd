"""The record of launches: a folder per launch, and a journal that is written before the cluster is called.

journal.ndjson                       intents and their outcomes, one line per event, fsynced
launches/<token>/launch.json         settings, code state and snapshot, command line
                 jobs.ndjson         the manifest: one job per line, with the number of earlier attempts
                 launcher.json       locked by `orch launch` while it waits
                 workers/<name>.json locked by each worker while it lives; renamed to `.ended` when it ends
                 spent/<name>        device-seconds of each worker, which workers add up to obey a limit
                 errors/             tracebacks seen, to stop a recipe whose code fails
                 deaths/             workers that died, by node, to avoid bad nodes
                 cancelled           mark of `orch cancel`: workers stop, and do not requeue themselves
cancelled-cells/<id>                 marks of single cells: no launch runs them until `orch retry`
code/<hash>.zip                      the packages' sources, frozen at launch
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from orch.launching.settings import ATTEMPTS, Where
from orch_core.cell import Job, job_from_json
from orch_core.files import dumps, write_atomic
from orch_core.grid.resources import DEFAULT, NodeEnvironment, Option, environment_of
from orch_core.study.attempts import is_held
from orch_core.study.folder import Study

DEATHS_OF_A_BAD_NODE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestEntry:
    """A line of a manifest: a job, its cell's id and resource class, and the number of earlier attempts."""

    id: str
    job: Job
    group: str = DEFAULT
    after: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """The Slurm jobs of one resource class.

    options: of sbatch, without the time limit
    minutes: their time limit
    longest: the highest time limit, in minutes, for cells that reached theirs
    cells:   number of cells that share a job
    environment: how the nodes are prepared
    """

    options: Mapping[str, Option] = field(default_factory=dict)
    minutes: float = 0.0
    longest: float = 0.0
    cells: int = 1
    environment: NodeEnvironment = field(default_factory=NodeEnvironment)

    def minutes_after(self, timeouts: int) -> float:
        """The time limit for a cell that reached its limit that often: doubled each time, up to `longest`."""
        return min(self.longest, self.minutes * 2.0**timeouts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A launch, as `launch.json` records it.

    code:     state of the code, and `snapshot`, the path in the study of its frozen sources
    argv:     the command line
    requests: resources of the jobs on Slurm, by resource class; empty on a local machine
    max_gpu_hours: device-hours after which its workers save and end; 0 for no limit
    """

    token: str
    created: float
    cluster: Where = "local"
    parallel: int = 0
    attempts: int = ATTEMPTS
    gpus: int = 1
    code: Mapping[str, Any] = field(default_factory=dict)
    argv: tuple[str, ...] = ()
    requests: Mapping[str, JobRequest] = field(default_factory=dict)
    max_gpu_hours: float = 0.0

    def request(self, group: str) -> JobRequest:
        """The resources of a resource class's jobs."""
        return self.requests.get(group, JobRequest())

    def to_json(self) -> dict[str, Any]:
        """The document `launch.json`."""
        requests = {
            group: asdict(request) | {"environment": environment_of(request.environment)}
            for group, request in self.requests.items()
        }
        return asdict(self) | {"requests": requests}


def launch_from_json(document: Mapping[str, Any]) -> Launch:
    """The launch that `to_json`, or orch before 0.2, wrote; raises KeyError or TypeError for other data."""
    names = ("token", "created", "cluster", "parallel", "attempts", "gpus", "code")
    requests = document["requests"] if "requests" in document else _old_requests(document)
    return Launch(
        **{name: document[name] for name in names},
        argv=tuple(document["argv"]),
        requests={group: _request(request) for group, request in requests.items()},
        max_gpu_hours=float(document.get("max_gpu_hours", 0.0)),
    )


def _request(document: Mapping[str, Any]) -> JobRequest:
    environment = NodeEnvironment.model_validate(document.get("environment", {}))
    return JobRequest(**{**document, "environment": environment})


def _old_requests(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The requests of a launch by orch before 0.2, which listed each setting by resource class."""
    return {
        group: {
            "options": {name: value for name, value in options.items() if name != "time"},
            "minutes": document["minutes"][group][0],
            "longest": document["minutes"][group][1],
            "cells": document["cells_per_job"].get(group, 1),
        }
        for group, options in document["options"].items()
    }


class Step(StrEnum):
    """An event of an array of workers; if INTENT is the last one, the outcome of sbatch is unknown."""

    INTENT = "intent"
    SUBMITTED = "submitted"
    REFUSED = "refused"
    ADOPTED = "adopted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A line of the journal.

    name:    the Slurm job name of the array
    group:   its resource class; workers: tasks; minutes: their time limit
    job:     its Slurm job id, once it is known
    words:   sbatch's message if it refused
    """

    step: Step
    token: str
    name: str
    group: str = ""
    workers: int = 0
    minutes: float = 0.0
    job: str = ""
    words: str = ""
    time: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The line as a document, without empty fields."""
        rest = {name: value for name, value in asdict(self).items() if value and name != "step"}
        return {"event": self.step, **rest}


def event_from_json(document: Mapping[str, Any]) -> Event:
    """The event that `to_json` wrote; raises KeyError, TypeError or ValueError for another document."""
    step = Step(document["event"])
    known = {one.name for one in fields(Event)}  # a newer orch may write more
    rest = {name: value for name, value in document.items() if name in known}
    return Event(step=step, **rest)


def new_token() -> str:
    """A launch's name: the time, and 32 random bits. It is part of the Slurm job name, to find orphans."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + "-" + secrets.token_hex(4)


def launch_folder(root: Path, token: str) -> Path:
    """Folder of a launch."""
    return Study(root).launches / token


def begin(study: Study, launch: Launch, entries: Iterable[ManifestEntry]) -> Path:
    """Create a launch's folder with its manifest and settings; nothing is submitted yet."""
    folder = launch_folder(study.root, launch.token)
    for part in ("workers", "errors"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    lines = (
        json.dumps({"id": entry.id, "group": entry.group, "after": entry.after, "job": entry.job.to_json()})
        for entry in entries
    )
    write_atomic(folder / "jobs.ndjson", "".join(line + "\n" for line in lines))
    write_atomic(folder / "launch.json", dumps(launch.to_json()))
    return folder


def read_launch(root: Path, token: str) -> Launch:
    """A launch, from its folder."""
    text = (launch_folder(root, token) / "launch.json").read_text(encoding="utf-8")
    return launch_from_json(json.loads(text))


def manifest(root: Path, token: str, group: str = "") -> list[ManifestEntry]:
    """The entries of a launch, those of one resource class if `group` is given."""
    return [
        _entry(document, job_from_json(document["job"]))
        for document in _manifest_lines(root, token)
        if not group or document["group"] == group
    ]


def entries_of(root: Path, token: str, jobs: Mapping[str, Job]) -> dict[str, ManifestEntry]:
    """By cell id, the entries of a launch for these jobs, without parsing the jobs of the manifest."""
    return {
        document["id"]: _entry(document, jobs[document["id"]])
        for document in _manifest_lines(root, token)
        if document["id"] in jobs
    }


def _entry(document: Mapping[str, Any], job: Job) -> ManifestEntry:
    return ManifestEntry(id=document["id"], job=job, group=document["group"], after=document["after"])


def cell_ids(root: Path, token: str) -> set[str]:
    """The cells of a launch; none if its manifest was not written."""
    return {document["id"] for document in _manifest_lines(root, token)}


def _manifest_lines(root: Path, token: str) -> Iterator[dict[str, Any]]:
    """The lines of a manifest; those that a crash or a full disk cut short are skipped."""
    path = launch_folder(root, token) / "jobs.ndjson"
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            document = json.loads(line)
            if isinstance(document, dict) and {"id", "job", "group", "after"} <= document.keys():
                yield document


def used_slurm(root: Path) -> bool:
    """Whether any launch of the study went to Slurm."""
    return any(event.step == Step.INTENT for event in events(root))


def tokens(root: Path) -> list[str]:
    """Every launch of the study, oldest first."""
    try:
        return sorted(entry.name for entry in os.scandir(Study(root).launches) if entry.is_dir())
    except FileNotFoundError:
        return []


def live_workers(root: Path, token: str) -> list[Path]:
    """Lock files of the workers of a launch that live on this machine."""
    return [path for path in sorted((launch_folder(root, token) / "workers").glob("*.json")) if is_held(path)]


def worker_ended(root: Path, job: str) -> bool:
    """Whether every worker that ran as a Slurm job has ended by itself, and was not killed."""
    files = [path.suffix for path in Study(root).launches.glob(f"*/workers/{job}-*")]
    return bool(files) and set(files) == {".ended"}


def launcher_lives(root: Path, token: str) -> bool:
    """Whether the `orch launch` of a token still waits on this machine."""
    return is_held(launch_folder(root, token) / "launcher.json")


def errors_folder(root: Path, token: str, entry: ManifestEntry) -> Path:
    """Folder of the tracebacks of an entry's recipe: a folder for each, with a file for each cell."""
    return launch_folder(root, token) / "errors" / entry.job.cell.recipe


def note_death(root: Path, token: str, node: str, cell: str) -> None:
    """Record that a worker died on a node for a reason that is not the cell's."""
    folder = launch_folder(root, token) / "deaths" / node
    folder.mkdir(parents=True, exist_ok=True)
    (folder / cell).touch()


def bad_nodes(root: Path, token: str) -> list[str]:
    """Nodes on which workers died at two or more cells, and at least half of all deaths in this launch.

    New workers avoid them. If workers die everywhere, no node is excluded.
    """
    nodes = sorted((launch_folder(root, token) / "deaths").glob("*"))
    deaths = {node.name: len(list(node.iterdir())) for node in nodes}
    total = sum(deaths.values())
    return [node for node, count in deaths.items() if count >= DEATHS_OF_A_BAD_NODE and 2 * count >= total]


def is_cancelled(root: Path, token: str) -> bool:
    """Whether a launch has the mark of `orch cancel`."""
    return _tombstone(root, token).exists()


def cancel(root: Path, token: str) -> None:
    """Mark a launch as cancelled: its workers stop, and do not requeue themselves."""
    _tombstone(root, token).touch()


def _tombstone(root: Path, token: str) -> Path:
    return launch_folder(root, token) / "cancelled"


def is_cell_cancelled(root: Path, cell: str) -> bool:
    """Whether a single cell was cancelled, for all launches until it is retried."""
    return (Study(root).cancelled_cells / cell).exists()


def cancel_cells(root: Path, cells: Iterable[str]) -> None:
    """Mark cells as cancelled."""
    Study(root).cancelled_cells.mkdir(exist_ok=True)
    for cell in cells:
        (Study(root).cancelled_cells / cell).touch()


def cancelled_cells(root: Path) -> set[str]:
    """The cells that are marked as cancelled."""
    try:
        return {entry.name for entry in os.scandir(Study(root).cancelled_cells)}
    except FileNotFoundError:
        return set()


def revive_cells(root: Path, cells: Iterable[str]) -> None:
    """Remove the marks of cancelled cells."""
    for cell in cells:
        (Study(root).cancelled_cells / cell).unlink(missing_ok=True)


def write(root: Path, event: Event) -> None:
    """Append an event to the journal; it is durable on return (one write, O_APPEND, fsync)."""
    line = json.dumps({**event.to_json(), "time": time.time()}) + "\n"
    descriptor = os.open(Study(root).journal_file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a crash cut the last line short
            line = "\n" + line
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def events(root: Path) -> Iterator[Event]:
    """The journal's events in order; a line cut short by a crash is skipped."""
    try:
        lines = Study(root).journal_file.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            yield event_from_json(json.loads(line))


def open_intents(root: Path) -> list[Event]:
    """Intents without an outcome in the journal: their submitter was killed, or is submitting just now."""
    waiting: dict[str, Event] = {}
    for event in events(root):
        if event.step == Step.INTENT:
            waiting[event.name] = event
        else:
            waiting.pop(event.name, None)
    return [event for event in waiting.values() if not launcher_lives(root, event.token)]
