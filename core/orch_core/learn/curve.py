"""`metrics.ndjson`: one JSON object a line, appended while a cell trains."""

from __future__ import annotations

import json
from pathlib import Path

from orch_core.record import write_atomic


def append_row(path: Path, row: dict[str, float | int]) -> None:
    """Add a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def cut_after(path: Path, step: int) -> None:
    """Drop the rows beyond `step`, which a resumed run writes again, and a line cut short by a crash."""
    if not path.exists():
        return
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["step"] <= step:
            rows.append(line + "\n")
    write_atomic(path, "".join(rows))
