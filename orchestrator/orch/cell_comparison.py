"""`orch compare`: two cells of a study on every task, image by image."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orch.answer import Answer
from orch_analysis.tasks.paired import Paired, holm, paired
from orch_core.errors import OrchError
from orch_core.formatting import columns, interval, number, p_value, plural
from orch_core.study.folder import Study
from orch_core.study.predictions import PREDICTIONS, read_predictions
from orch_core.study.record import Record
from orch_core.study.stored import StoredRecord

Probed = tuple[StoredRecord, Record]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """Options of `orch compare`: names of metrics, and of the tasks to compare (all if empty)."""

    metric: tuple[str, ...] = ("auc", "accuracy")
    task: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskComparison:
    """One metric of one probe of both cells; `adjusted` is its p value by Holm's method over all tests."""

    task: str
    protocol: str
    images: int
    found: Paired
    adjusted: float | None = None


@dataclass(frozen=True, slots=True)
class CellComparison(Answer):
    """Two cells' names, their comparisons, and sentences about the probes that were left out."""

    first: str
    second: str
    rows: tuple[TaskComparison, ...]
    left_out: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The comparison as one JSON document."""
        return {"schema_version": 1, **asdict(self)}

    @property
    def text(self) -> str:
        """A table with a row per task, protocol and metric."""
        head = (
            "task",
            "protocol",
            "metric",
            self.first,
            self.second,
            "difference [95%]",
            "p",
            "p, Holm",
            "test",
        )
        body = [
            (
                row.task, row.protocol, row.found.metric,
                number(row.found.first, 4), number(row.found.second, 4),
                interval(row.found.difference, row.found.lo, row.found.hi, 4, signed=True),
                "" if row.found.p_value is None else p_value(row.found.p_value),
                "" if row.adjusted is None else p_value(row.adjusted), row.found.test,
            )
            for row in self.rows
        ]  # fmt: skip
        return "\n".join([columns([head, *body], left=3), *self.left_out])


def compare_cells(study: Study, first: str, second: str, options: CompareOptions) -> CellComparison:
    """Compare two cells, by their ids, on every probe that both have.

    Raises OrchError if they share no probe with predictions, for an unknown metric, and for a damaged file.
    """
    ours, theirs = _probes(study, first), _probes(study, second)
    shared = [
        key for key in ours if key in theirs and (not options.task or ours[key][1].task in options.task)
    ]
    rows: list[TaskComparison] = []
    left_out: list[str] = []
    for key in shared:
        stored, record = ours[key]
        protocol = str(record.provenance.get("probe", {}).get("protocol", ""))
        paths = [Path(one.folder) / PREDICTIONS for one in (stored, theirs[key][0])]
        try:
            before, after = (read_predictions(path) for path in paths)
        except OrchError as error:
            left_out.append(
                f"left out: {record.task} by {protocol}: {error.message.removeprefix(f'{study.root}/')}"
            )
            continue
        rows += [
            TaskComparison(
                task=record.task,
                protocol=protocol,
                images=len(before.ids),
                found=paired(before, after, metric),
            )
            for metric in options.metric
        ]
    if not rows:
        message = f"the two cells share {plural(len(shared), 'probe')}, and none with predictions of both"
        raise OrchError(
            message,
            hint="`orch why CELL` prints the probes of a cell; `orch launch` runs those that are missing",
        )
    names = (study.cell(first).name, study.cell(second).name)
    return CellComparison(*names, rows=_adjusted(rows), left_out=tuple(left_out))


def _probes(study: Study, cell: str) -> dict[str, Probed]:
    """Published probes of a cell that are done, by the probe's id."""
    found: dict[str, Probed] = {}
    for stored in study.stored_of(cell):
        if stored.is_probe and stored.published:
            record = stored.read()
            if record.status == "done":
                found[record.probe] = (stored, record)
    return found


def _adjusted(rows: list[TaskComparison]) -> tuple[TaskComparison, ...]:
    tested = {
        str(place): row.found.p_value for place, row in enumerate(rows) if row.found.p_value is not None
    }
    adjusted = holm(tested)
    return tuple(replace(row, adjusted=adjusted.get(str(place))) for place, row in enumerate(rows))
