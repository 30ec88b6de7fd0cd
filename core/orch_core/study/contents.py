"""The contents of a study: the records that its plan contains, and the results left out, with causes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orch_core.errors import OrchError
from orch_core.study.folder import Study
from orch_core.study.record import Cause, Record
from orch_core.study.rows import reason_row
from orch_core.study.stored import StoredRecord

if TYPE_CHECKING:
    from orch_core.study.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRecord:
    """A record that could be read, and where it is stored."""

    record: Record
    stored: StoredRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The records of a study, divided by its plan.

    plan:      the study's plan, None if it is missing or damaged
    published: records of cells and probes that the plan contains (of all without a plan)
    left_out:  rows of `reason_row` for failed, damaged, outdated and missing results
    """

    plan: Plan | None
    published: Sequence[ReadRecord]
    left_out: Sequence[Mapping[str, str]]


def read_contents(study: Study, *, planned_only: bool = True) -> Contents:
    """Read every record of a study.

    Records that the study's plan does not contain are left out as outdated, unless `planned_only` is False;
    cells and probes of the plan without a record are missing. In a study without a plan all records count,
    and cells with a folder but without a record are missing.
    """
    plan, trouble = readable_plan(study)
    found, damaged = _readable(study, plan, study.stored())
    current, outdated = _split(found, plan if planned_only else None)
    published = [one for one in current if one.stored.published]
    failed = [one for one in current if one.record.status != "done"]
    left_out = [reason_row(one.record) for one in failed]
    left_out += [*trouble, *damaged.values(), *map(_outdated, outdated)]
    known = {(one.record.cell, one.record.probe) for one in (*published, *failed)} | damaged.keys()
    left_out += list(_missing(study, plan, known, left_out))
    return Contents(plan=plan, published=published, left_out=left_out)


def readable_plan(study: Study) -> tuple[Plan | None, list[dict[str, str]]]:
    """The plan of a study, or None if it is missing or damaged, with a row for a damaged one."""
    from orch_core.study.plan import (
        stored_plan,  # it imports the grid language, which `fit-laws TABLE` need not
    )

    if not study.plan_table.exists():
        return None, []
    try:
        return stored_plan(study), []
    except OrchError as error:
        message = error.message.removeprefix(f"{study.root}/")
        why = f"{message}; results cannot be marked as missing or outdated without it"
        return None, [_row("", study.plan_table.name, "", Cause.UNREADABLE, why)]


def _readable(
    study: Study, plan: Plan | None, stored: Iterable[StoredRecord]
) -> tuple[list[ReadRecord], dict[tuple[str, str], dict[str, str]]]:
    """The records that can be read, and rows for those that cannot, by cell and id of the probe."""
    found, damaged = [], {}
    for one in stored:
        try:
            found.append(ReadRecord(record=one.read(), stored=one))
        except OrchError as error:
            probes = plan.probes if plan and one.is_probe else ()
            probe = next((p for p in probes if str(study.probe_folder(one.cell, p)) == one.folder), None)
            task = probe.task if probe else "a probe" if one.is_probe else ""
            message = error.message.removeprefix(f"{study.root}/")
            row = _row(one.cell, _name(study, one.cell), task, Cause.UNREADABLE, message)
            damaged[one.cell, probe.id if probe else one.folder if one.is_probe else ""] = row
    return found, damaged


def _split(found: Sequence[ReadRecord], plan: Plan | None) -> tuple[list[ReadRecord], list[ReadRecord]]:
    """The records that a plan contains and the outdated ones; without a plan every record is current."""
    if plan is None:
        return list(found), []
    cells, probes = set(plan.frame["id"]), {probe.id for probe in plan.probes}
    current: list[ReadRecord] = []
    outdated: list[ReadRecord] = []
    for one in found:
        kept = one.record.cell in cells and (not one.stored.is_probe or one.record.probe in probes)
        (current if kept else outdated).append(one)
    return current, outdated


def _outdated(one: ReadRecord) -> dict[str, str]:
    record = one.record
    what = f"its probe {record.probe[:8]}" if record.task else "it"
    message = f"recorded, but the current plan does not contain {what}"
    return _row(record.cell, record.name, record.task, Cause.OUTDATED, message)


def _row(cell: str, name: str, task: str, cause: Cause, message: str) -> dict[str, str]:
    """A row of a result without a record that can be read."""
    return {"cell": cell, "name": name, "task": task, "cause": cause.value, "message": message, "log": ""}


def _missing(
    study: Study,
    plan: Plan | None,
    known: Collection[tuple[str, str]],
    left_out: Iterable[Mapping[str, str]],
) -> Iterator[dict[str, str]]:
    """Rows for cells and probes of the plan (without a plan: cells with a folder) that have no record.

    known: (cell, probe id, or "" for pretraining) of every record. A cell without a result has one row,
    without rows for its probes.
    """
    lost = {row["cell"] for row in left_out if not row["task"]}
    message = "neither the cell nor its probes have a record"
    if plan is None:
        for cell in study.cells():
            if (cell, "") not in known and cell not in lost:
                yield _row(cell, _name(study, cell), "", Cause.MISSING, message)
        return
    for cell, name in zip(plan.frame["id"], plan.names(), strict=True):
        if cell in lost:
            continue
        if (cell, "") not in known:
            yield _row(cell, name, "", Cause.MISSING, message)
            continue
        for probe in plan.probes:
            if (cell, probe.id) not in known:
                yield _row(cell, name, probe.task, Cause.MISSING, "the probe has no record")


def _name(study: Study, cell: str) -> str:
    """A launched cell's name; empty if its config is missing or damaged."""
    try:
        return study.cell(cell).name
    except OrchError:
        return ""
