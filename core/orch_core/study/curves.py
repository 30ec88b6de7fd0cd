"""`metrics.ndjson`: one JSON object per line, appended while a cell trains."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from orch_core.files import write_atomic

TAIL_BYTES = 4096
Row = dict[str, float | int]


def append_row(path: Path, row: Row) -> None:
    """Append a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def read_rows(path: Path) -> list[Row]:
    """All rows; incomplete lines, such as one that a crash cut short, are skipped."""
    return _rows(path, 0)


def last_row(path: Path) -> Row:
    """The last row, read from the file's end; empty before the first."""
    return next(reversed(_rows(path, -TAIL_BYTES)), {})


def write_rows(path: Path, rows: list[Row]) -> None:
    """Replace all rows."""
    write_atomic(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def cut_after(path: Path, step: int) -> None:
    """Drop the rows beyond `step`, because a resumed run writes them again."""
    if path.exists():
        write_rows(path, [row for row in read_rows(path) if row.get("step", 0) <= step])


def _rows(path: Path, start: int) -> list[Row]:
    """The rows from byte `start` on, from the end if negative; none if the file cannot be read."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(start if start >= 0 else max(0, end + start))
            lines = file.read().splitlines()
    except OSError:
        return []
    return [row for row in map(_row, _documents(lines)) if row]


def _documents(lines: list[bytes]) -> Iterable[object]:
    """The lines parsed as one document, which is several times faster; one by one if a line is not whole."""
    try:
        documents: list[object] = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        return map(_document, lines)
    return documents


def _document(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _row(document: object) -> Row:
    """The numbers of a line; empty if it is not a JSON object."""
    pairs = document.items() if isinstance(document, dict) else ()
    return {key: value for key, value in pairs if isinstance(value, (int, float))}
