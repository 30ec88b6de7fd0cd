"""The result of pretraining or of a probe, of which the worker makes a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orch_core.study.record import Reason, Status


class Stopped(Exception):  # noqa: N818
    """The work was asked to stop, and has saved its state."""


class NotDefined(Exception):  # noqa: N818
    """The protocol of a probe is not defined for what is probed; the message says why."""


def never() -> bool:
    """Return False: the default of `should_stop`."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """values: numbers that depend on the cell only; cost: seconds, memory and the like of this execution.

    reason: why there is no result; files: contents of files to write beside the record, by name.
    """

    status: Status
    values: Mapping[str, float | int | str | None] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    reason: Reason | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
