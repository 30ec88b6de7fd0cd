"""What pretraining or a probe hands to the worker, which makes a record of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orch_core.study.record import Reason, Status


class Stopped(Exception):  # noqa: N818
    """The work was asked to stop; what there was to save is saved."""


def never() -> bool:
    """Do not stop."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """values: numbers that depend on the cell alone; cost: what they took here; reason: why there is no result.

    files: contents of files to lie beside the record, by name.
    """

    status: Status
    values: Mapping[str, float | int | str | None] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    reason: Reason | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
