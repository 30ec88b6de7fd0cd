"""Records: the result of a cell, or of a probe of a cell, or the reason why there is none.

A record is one JSON document with five parts. `values` are the numbers that a fit may use: the same cell on
the same machine gives the same bits. `cost` and `provenance` are what the result took and where it comes
from. `reason` is None if the status is `done`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal, get_args

SCHEMA_VERSION = 1

Status = Literal["done", "diverged", "failed"]


class Cause(StrEnum):
    """Why a cell, a probe or an attempt gave no result: one word to group by."""

    DIVERGED = "diverged"
    """The training loss is NaN or infinite, or ran away."""
    COLLAPSED = "collapsed"
    """The features collapsed to a point or a line; such a run has the status `diverged`."""
    BAD_DATA = "bad_data"
    """An input file is missing, damaged, or not what the grid says; the message names it."""
    NOT_DEFINED = "not_defined"
    """The probe's protocol is not defined for the cell, as fine-tuning is not for raw pixels."""
    CODE_ERROR = "code_error"
    """An exception that none of the other causes explains."""
    OUT_OF_MEMORY = "out_of_memory"
    """The GPU or the machine had too little memory."""
    DISK_FULL = "disk_full"
    """The study's disk or quota is full, or it is read-only."""
    NETWORK = "network"
    """The processes of one cell lost each other."""
    TIMEOUT = "timeout"
    """The job reached its time limit before it could save."""
    KILLED = "killed"
    """The process ended without recording a result, for an unknown reason."""
    NODE_FAILURE = "node_failure"
    """Slurm reports that the node failed."""
    PREEMPTED = "preempted"
    """Slurm took the job's resources before it could save."""
    CANCELLED = "cancelled"
    """`orch cancel`, or scancel."""
    CLASS_STOPPED = "class_stopped"
    """Not tried: three cells of its recipe failed with the same traceback."""
    SIGNAL = "signal"
    """Stopped by a signal after saving; a later attempt continues."""
    DEADLINE = "deadline"
    """Saved and stopped shortly before the job's time limit; a later attempt continues."""
    BUDGET = "budget"
    """Saved and stopped because the launch has spent its device-hours."""
    MISSING = "missing"
    """Planned, but nothing has been recorded yet."""
    UNREADABLE = "unreadable"
    """Its record is damaged: `orch launch` makes it again."""
    OUTDATED = "outdated"
    """Recorded, but the current plan does not contain it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a record contains no result.

    cause: a `Cause`, or a word of another version; message: one line; log: the attempt's log, relative to the
           study.
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


FIELDS = frozenset(entry.name for entry in fields(Record))
TEXTS, MAPPINGS = ("cell", "name", "task", "probe"), ("values", "cost", "provenance")


def parse_record(text: bytes) -> Record:
    """The record in the bytes of a `record.json`; fields that this version does not know are left out.

    Raises ValueError with the reason, in one line, if it is not a record.
    """
    document = json.loads(text)
    if not isinstance(document, dict) or not {"cell", "name", "status"} <= document.keys():
        message = "it is not a record"
        raise ValueError(message)
    if document["status"] not in get_args(Status):
        message = f"its status is {document['status']!r}"
        raise ValueError(message)
    for names, kind in ((TEXTS, str), (MAPPINGS, dict)):
        bad = [name for name in names if not isinstance(document.get(name, kind()), kind)]
        if bad:
            message = f"its {bad[0]} is not a {'text' if kind is str else 'mapping'}"
            raise ValueError(message)
    known = {key: value for key, value in document.items() if key in FIELDS}
    return Record(**{**known, "reason": _reason(document.get("reason"))})


def _reason(document: object) -> Reason | None:
    if not isinstance(document, dict):
        return None
    words = {name: str(document.get(name, "")) for name in ("cause", "message", "log")}
    return Reason(**words)
