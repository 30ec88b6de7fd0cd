"""`metrics.ndjson`: one JSON object a line, appended while a cell trains."""

from __future__ import annotations

import json
from pathlib import Path

from orch_core.files import write_atomic


def append_row(path: Path, row: dict[str, float | int]) -> None:
    """Add a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def read_rows(path: Path) -> list[dict[str, float | int]]:
    """All rows; a line cut short by a crash is none."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def write_rows(path: Path, rows: list[dict[str, float | int]]) -> None:
    """Replace all rows."""
    write_atomic(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def cut_after(path: Path, step: int) -> None:
    """Drop the rows beyond `step`, which a resumed run writes again."""
    if path.exists():
        write_rows(path, [row for row in read_rows(path) if row["step"] <= step])
