"""Records: what a cell, or a (cell, task), gave, or the reason it gave nothing.

A record is one JSON document with five parts. `values` are the numbers that a fit may use: the same
cell on the same machine gives the same bits. `cost` and `provenance` say what they took and where
they come from. `reason` is None unless the status is not `done`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

SCHEMA_VERSION = 1

Status = Literal["done", "diverged", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a record holds no result.

    cause: one word to group by (`diverged`, `collapsed`, `out_of_memory`, `timeout`, `bad_data`, `code_error`,
           `killed`, `disk_full`); message: one line; log: path of the attempt's log, relative to the study.
    """

    cause: str
    message: str
    log: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One result. `cell` is the cell's id; `task` and `probe` are empty for pretraining.

    values:     deterministic numbers (losses, AUCs, params, FLOPs, samples seen)
    cost:       seconds, started and ended (Unix seconds), images_per_second, peak_memory_bytes
    provenance: resolved config, versions, code state, hardware, attempt, parents
    """

    cell: str
    name: str
    status: Status
    task: str = ""
    probe: str = ""
    values: Mapping[str, float | int | str | None] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    reason: Reason | None = None
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """The record as written to `record.json`."""
        return asdict(self)


def record_from_json(document: Mapping[str, Any]) -> Record:
    """The record that `to_json` wrote; raises KeyError or TypeError on another document."""
    reason = document["reason"]
    return Record(**{**document, "reason": Reason(**reason) if reason else None})


def read_record(path: Path) -> Record | None:
    """The record at `path`, or None where there is none yet."""
    try:
        return record_from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
