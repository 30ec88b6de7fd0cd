"""What was launched: one folder a launch, and a journal that is ahead of the cluster.

journal.ndjson                       intents and what became of them, one line an event, fsynced
launches/<token>/launch.json         settings, code state and snapshot, command line
                 jobs.ndjson         the manifest: one job a line, with the attempts made before
                 launcher.json       locked by `orch launch` while it waits
                 workers/<name>.json locked by each worker while it lives, `.ended` once it has ended by itself
                 errors/             tracebacks seen, to stop a class whose code is broken
                 deaths/             workers that died, by node, to keep away from bad ones
                 cancelled           tombstone: workers stop, and nothing requeues itself
cancelled-cells/<id>                 tombstones of single cells: no launch works at them until `orch retry`
code/<hash>.zip                      the packages' sources, frozen at launch
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orch_core.cell import Job, job_from_json
from orch_core.files import dumps, write_atomic
from orch_core.study.attempts import is_held
from orch_core.study.folder import Study

DEATHS_OF_A_BAD_NODE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestEntry:
    """A line of a manifest: a job, its cell's id, its resource class, and the attempts made before the launch."""

    id: str
    job: Job
    group: str = "default"
    after: int = 0


def new_token() -> str:
    """A launch's name: when, and 32 random bits. Part of the Slurm job name, so that orphans can be found."""
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + "-" + secrets.token_hex(4)


def launch_folder(root: Path, token: str) -> Path:
    """Folder of a launch."""
    return root / "launches" / token


def begin(study: Study, token: str, entries: Iterable[ManifestEntry], about: Mapping[str, Any]) -> Path:
    """Make a launch's folder with its manifest and settings; nothing is submitted yet."""
    folder = launch_folder(study.root, token)
    for part in ("workers", "errors"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    lines = (
        json.dumps({"id": entry.id, "group": entry.group, "after": entry.after, "job": entry.job.to_json()})
        for entry in entries
    )
    write_atomic(folder / "jobs.ndjson", "".join(line + "\n" for line in lines))
    write_atomic(folder / "launch.json", dumps({"token": token, "created": time.time(), **about}))
    return folder


def about(root: Path, token: str) -> dict[str, Any]:
    """Settings and code state of a launch."""
    document: dict[str, Any] = json.loads(
        (launch_folder(root, token) / "launch.json").read_text(encoding="utf-8")
    )
    return document


def manifest(root: Path, token: str, group: str = "") -> list[ManifestEntry]:
    """The entries of a launch, those of one resource class where `group` is given."""
    return [
        ManifestEntry(
            id=document["id"],
            job=job_from_json(document["job"]),
            group=document["group"],
            after=document["after"],
        )
        for document in _manifest_lines(root, token)
        if not group or document["group"] == group
    ]


def entries_of(root: Path, token: str, jobs: Mapping[str, Job]) -> dict[str, ManifestEntry]:
    """By cell id, the entries of a launch for these jobs, read without the jobs of the manifest."""
    return {
        document["id"]: ManifestEntry(
            id=document["id"],
            job=jobs[document["id"]],
            group=document["group"],
            after=document["after"],
        )
        for document in _manifest_lines(root, token)
        if document["id"] in jobs
    }


def cell_ids(root: Path, token: str) -> set[str]:
    """The cells of a launch; none if its manifest was not written."""
    return {document["id"] for document in _manifest_lines(root, token)}


def _manifest_lines(root: Path, token: str) -> Iterator[dict[str, Any]]:
    path = launch_folder(root, token) / "jobs.ndjson"
    return map(json.loads, path.read_text(encoding="utf-8").splitlines() if path.exists() else ())


def used_slurm(root: Path) -> bool:
    """Whether any launch of the study went to Slurm."""
    return any(event["event"] == "intent" for event in events(root))


def tokens(root: Path) -> list[str]:
    """Every launch of the study, oldest first."""
    try:
        return sorted(entry.name for entry in os.scandir(root / "launches") if entry.is_dir())
    except FileNotFoundError:
        return []


def live_workers(root: Path, token: str) -> list[Path]:
    """Lock files of the workers of a launch that live on this machine."""
    return [path for path in sorted((launch_folder(root, token) / "workers").glob("*.json")) if is_held(path)]


def worker_ended(root: Path, job: str) -> bool:
    """Whether every worker that ran as a Slurm job has said that it ended; one that was killed has not."""
    files = [path.suffix for path in (root / "launches").glob(f"*/workers/{job}-*")]
    return bool(files) and set(files) == {".ended"}


def launcher_lives(root: Path, token: str) -> bool:
    """Whether the `orch launch` of a token still waits on this machine."""
    return is_held(launch_folder(root, token) / "launcher.json")


def errors_folder(root: Path, token: str, entry: ManifestEntry) -> Path:
    """Where the tracebacks of an entry's class, its recipe, are counted: a folder for each, a file for each cell."""
    return launch_folder(root, token) / "errors" / entry.job.cell.recipe


def note_death(root: Path, token: str, node: str, cell: str) -> None:
    """Remember that a worker died on a node, for reasons that are not the cell's."""
    folder = launch_folder(root, token) / "deaths" / node
    folder.mkdir(parents=True, exist_ok=True)
    (folder / cell).touch()


def bad_nodes(root: Path, token: str) -> list[str]:
    """Nodes on which workers died at two cells or more, and at least half of all that died in this launch.

    New workers stay away from them. Deaths everywhere are no node's fault, and exclude none.
    """
    nodes = sorted((launch_folder(root, token) / "deaths").glob("*"))
    deaths = {node.name: len(list(node.iterdir())) for node in nodes}
    total = sum(deaths.values())
    return [node for node, count in deaths.items() if count >= DEATHS_OF_A_BAD_NODE and 2 * count >= total]


def is_cancelled(root: Path, token: str) -> bool:
    """Whether a launch carries the tombstone of `orch cancel`."""
    return (launch_folder(root, token) / "cancelled").exists()


def is_cell_cancelled(root: Path, cell: str) -> bool:
    """Whether a single cell was cancelled, for all launches until it is retried."""
    return (root / "cancelled-cells" / cell).exists()


def cancel_cells(root: Path, cells: Iterable[str]) -> None:
    """Give cells their tombstones."""
    (root / "cancelled-cells").mkdir(exist_ok=True)
    for cell in cells:
        (root / "cancelled-cells" / cell).touch()


def cancelled_cells(root: Path) -> set[str]:
    """The cells that carry them."""
    try:
        return {entry.name for entry in os.scandir(root / "cancelled-cells")}
    except FileNotFoundError:
        return set()


def revive_cells(root: Path, cells: Iterable[str]) -> None:
    """Take the tombstones of cells away."""
    for cell in cells:
        (root / "cancelled-cells" / cell).unlink(missing_ok=True)


def write(root: Path, event: str, token: str, **more: object) -> None:
    """Append an event to the journal, durable before this returns (one write, O_APPEND, fsync)."""
    line = json.dumps({"event": event, "token": token, "time": time.time(), **more}) + "\n"
    descriptor = os.open(root / "journal.ndjson", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a crash cut the last line short
            line = "\n" + line
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def events(root: Path) -> Iterator[dict[str, Any]]:
    """The journal's events in order; a line cut short by a crash is left out."""
    try:
        lines = (root / "journal.ndjson").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def open_intents(root: Path) -> list[dict[str, Any]]:
    """Intents whose outcome the journal does not know: their submitter was killed, or is at it just now."""
    waiting: dict[str, dict[str, Any]] = {}
    for event in events(root):
        if event["event"] == "intent":
            waiting[event["name"]] = event
        else:
            waiting.pop(event.get("name", ""), None)
    return [event for event in waiting.values() if not launcher_lives(root, event["token"])]
