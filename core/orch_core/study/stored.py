"""The records of a study on disk: published ones, else those of the last attempt.

Plain strings and `os.scandir`: for a hundred thousand records, paths as objects would take longer than
                                reading them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orch_core.errors import OrchError
from orch_core.files import dumps, publish_once
from orch_core.study.record import Record, parse_record

RECORD = "record.json"
ATTEMPTS, PROBES = "attempts", "probes"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """A `record.json` and its bytes.

    cell:      id of the cell
    folder:    of the cell, or of one of its probes
    is_probe:  which of the two
    published: the result; False for the record of an attempt that failed
    """

    cell: str
    folder: str
    path: str
    is_probe: bool
    published: bool
    text: bytes

    def read(self) -> Record:
        """The record; raises OrchError that names the file if it is damaged."""
        return _parsed(self.path, self.text)


def read_record(path: Path) -> Record | None:
    """The record at `path`, None if there is none; raises OrchError naming the file if it is damaged."""
    text = read_bytes(str(path))
    return None if text is None else _parsed(str(path), text)


def _parsed(path: str, text: bytes) -> Record:
    try:
        return parse_record(text)
    except ValueError as error:
        message = f"{path} is damaged: {error}"
        raise OrchError(message, hint="`orch launch` sets it aside and makes the result again") from error


def read_bytes(path: str) -> bytes | None:
    """A file's bytes; None if there is none."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(handle, "rb", buffering=0) as file:
        return file.readall()


def stored(root: Path) -> Iterator[StoredRecord]:
    """Every record of the study at `root`: cells in the order of their ids, each before its probes."""
    for cell in subfolders(f"{root}/cells"):
        yield from stored_of(cell)


def stored_of(cell_folder: str) -> Iterator[StoredRecord]:
    """The record of one cell, then those of its probes in the order of their folders."""
    cell = os.path.basename(cell_folder)  # noqa: PTH119 - the folder's name is the id
    for folder in (cell_folder, *subfolders(f"{cell_folder}/{PROBES}")):
        found = latest(cell, folder, is_probe=folder != cell_folder)
        if found:
            yield found


def latest(cell: str, folder: str, *, is_probe: bool) -> StoredRecord | None:
    """The published record in a cell's or probe's folder, else that of the last attempt that left one."""
    text, path, published = read_bytes(f"{folder}/{RECORD}"), f"{folder}/{RECORD}", True
    if text is None:
        published = False
        for number in reversed(attempt_numbers(folder)):
            path = f"{folder}/{ATTEMPTS}/{number}/{RECORD}"
            text = read_bytes(path)
            if text is not None:
                break
    if text is None:
        return None
    return StoredRecord(
        cell=cell, folder=folder, path=path, is_probe=is_probe, published=published, text=text
    )


def attempt_numbers(folder: str) -> list[int]:
    """Numbers of the attempts at a cell or probe, in order."""
    try:
        with os.scandir(f"{folder}/{ATTEMPTS}") as entries:
            return sorted(int(entry.name) for entry in entries if entry.name.isdigit())
    except (FileNotFoundError, NotADirectoryError):
        return []


def subfolders(path: str) -> list[str]:
    """Paths of the folders in a folder, sorted; hidden ones, which are being written, are left out."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir() and entry.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_whole(path: str) -> bool:
    """Whether `path` is a complete record, judged by its last bytes, or else by parsing it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        size = os.fstat(handle).st_size
        end = os.pread(handle, 3, max(0, size - 3))
    finally:
        os.close(handle)
    return end == b"\n}\n" or _is_record(path)


def _is_record(path: str) -> bool:
    try:
        return read_record(Path(path)) is not None
    except OrchError:
        return False


def publish(folder: Path, record: Record) -> bool:
    """Publish a record in a cell's or probe's folder; the first one stays. True if this call published it."""
    path = folder / RECORD
    if path.exists() and not is_whole(str(path)):
        set_aside(path)
    return publish_once(path, dumps(record.to_json()))


def repair(root: Path) -> list[Path]:
    """Rename damaged published records, and publish their attempts' copies; returns the renamed files.

    A cell or probe without such a copy is not done any more: a launch makes it again.
    """
    moved = []
    for found in stored(root):
        if found.published and not _is_record(found.path):
            moved.append(set_aside(Path(found.path)))
            copy = latest(found.cell, found.folder, is_probe=found.is_probe)
            if copy and _is_record(copy.path) and copy.read().status != "failed":
                publish(Path(found.folder), copy.read())
    return moved


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that another can take its place; returns its new path."""
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(target)
    return target
