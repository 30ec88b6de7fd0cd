"""The report on one cell: config, result or reason, cost, code, attempts, and the end of its log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orch.answer import Answer
from orch.launching.operations import cells_of, log_path
from orch_core.cell import cell_from_json
from orch_core.errors import OrchError
from orch_core.formatting import duration, quantity
from orch_core.study import attempts
from orch_core.study.attempts import End, Owner
from orch_core.study.folder import Study
from orch_core.study.record import Record
from orch_core.study.rows import task_labels
from orch_core.study.stored import StoredRecord

LOG_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSummary:
    """One attempt at a cell: its owner, its end (None while it runs), and the path of its log."""

    number: int
    owner: Owner | None
    end: End | None
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellReport(Answer):
    """The origin of one cell's numbers.

    status:  of its record; `running` or `not done` without one
    reason:  why there is no result
    probes:  values of its published probes by task
    damaged: files of the cell that cannot be read
    """

    id: str
    name: str
    status: str
    reason: str
    config: dict[str, Any]
    values: dict[str, Any]
    probes: dict[str, dict[str, Any]]
    cost: dict[str, float]
    provenance: dict[str, Any]
    attempts: tuple[AttemptSummary, ...]
    log_tail: str
    damaged: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The report as one JSON document."""
        return {"schema_version": 1, **asdict(self)}

    @property
    def text(self) -> str:
        """Everything behind one cell, for the terminal."""
        model = self.config.get("model") or {}
        lines = [f"{self.name}  {self.id}", f"{self.status}{': ' + self.reason if self.reason else ''}"]
        lines += [*(f"damaged   {text}" for text in self.damaged), ""]
        shape = (
            f"width {model['width']} depth {model['depth']} heads {model['heads']}" if model else "no encoder"
        )
        if self.config:
            lines += [f"config    {self.config['recipe']} {shape}, {_data(self.config)}"]
        lines += [f"value     {name} {_shown(value)}" for name, value in self.values.items()]
        lines += [f"probe     {task} auc {_shown(values.get('auc'))}" for task, values in self.probes.items()]
        lines += [f"cost      {name} {_shown(value)}" for name, value in self.cost.items()]
        code = self.provenance.get("code", {})
        lines += [f"code      {name} {value}" for name, value in code.items()]
        for one in self.attempts:
            place = f"{one.owner.host} job {one.owner.job or one.owner.pid}" if one.owner else "unknown place"
            end = (
                f"{one.end.how} {one.end.cause} after {duration(one.end.seconds / 3600)}"
                if one.end
                else "running"
            )
            lines.append(f"attempt {one.number} on {place}: {end} ({one.log})")
        return "\n".join([*lines, *(["", self.log_tail] if self.log_tail else [])])


def report(study: Study, cell: str) -> CellReport:
    """The report on a cell: config, result or reason, cost, code, attempts, end of the log."""
    folder = study.cell_folder(cell)
    taken = attempts.numbers(folder)
    made = tuple(_attempt(study, attempts.folder_of(folder, number), number) for number in taken)
    found, damaged = _readable(study, study.stored_of(cell))
    runs = [one for one in found if not one[0].is_probe]
    shown = runs[0][1] if runs else None
    record = shown if runs and runs[0][0].published else None
    probes = [probe for stored, probe in found if stored.is_probe and stored.published]
    tasks = task_labels(probes)
    tail = log_path(study, cell).read_text(encoding="utf-8", errors="replace") if made else ""
    config = study.config(cell)
    if not config:  # not launched yet, or its config is damaged
        known = cells_of(study).get(cell)
        config = known.to_json() if known else {}
    return CellReport(
        id=cell,
        name=shown.name if shown else _name(config),
        status=record.status if record else "running" if made and made[-1].end is None else "not done",
        reason=f"{shown.reason.cause}: {shown.reason.message}" if shown and shown.reason else "",
        config=config,
        values=dict(record.values) if record else {},
        probes={tasks[probe.task, probe.probe]: dict(probe.values) for probe in probes},
        cost=dict(record.cost) if record else {},
        provenance=dict(shown.provenance) if shown else {},
        attempts=made,
        log_tail="\n".join(tail.splitlines()[-LOG_LINES:]),
        damaged=tuple(damaged),
    )


def _name(config: dict[str, Any]) -> str:
    try:
        return cell_from_json(config).name
    except (KeyError, TypeError, ValueError):
        return ""


def _readable(
    study: Study, stored: Iterable[StoredRecord]
) -> tuple[list[tuple[StoredRecord, Record]], list[str]]:
    """The records that can be read, and a line for each that cannot."""
    found, damaged = [], []
    for one in stored:
        try:
            found.append((one, one.read()))
        except OrchError as error:
            damaged.append(error.message.removeprefix(f"{study.root}/"))
    return found, damaged


def _attempt(study: Study, folder: Path, number: int) -> AttemptSummary:
    return AttemptSummary(
        number=number,
        owner=attempts.owner_of(folder),
        end=attempts.end_of(folder),
        log=study.relative(attempts.log_of(folder)),
    )


def _data(config: dict[str, Any]) -> str:
    portions = ", ".join(f"{portion['source']} {portion['images']:,}" for portion in config["data"])
    return f"{config['samples_seen']:,} samples of {portions or 'no images'}, seed {config['seed']}"


def _shown(value: object) -> str:
    return quantity(value) if isinstance(value, float | int) and abs(value) >= 1e4 else f"{value}"
