"""A record as a flat row of its config, values and cost, with the column names of tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from orch_core.cell import algorithm_of
from orch_core.study.record import Record

Label = str | int | float | None
Row = dict[str, Label]
CONFIG = ("mix", "images", "resolution", "patch", "channels", "batch", "precision", "seed")
PROBE = ("kind", "protocol", "train_limit")


def config_row(config: Mapping[str, Any]) -> Row:
    """A cell's config (`cell.json`): algorithm, recipe, model and its shape, CONFIG, and `hp.<override>`."""
    model, recipe = config.get("model") or {}, str(config.get("recipe", ""))
    return {
        "algorithm": algorithm_of(recipe),
        "recipe": recipe,
        "model": model.get("name", ""),
        **{name: model.get(name) for name in ("width", "depth", "heads")},
        **{name: config.get(name) for name in CONFIG},
        **{f"hp.{name}": value for name, value in config.get("overrides", ())},
    }


def record_row(record: Record) -> Row:
    """Cell, name, status, task, probe, numbers and `seconds` of a record; kind and protocol of a probe."""
    probe = record.provenance.get("probe") or {}
    return {
        "cell": record.cell,
        "name": record.name,
        "status": record.status,
        "task": record.task,
        "probe": record.probe,
        **{name: probe.get(name) for name in PROBE if record.task},
        **numbers(record.values),
        "seconds": record.cost.get("seconds"),
    }


def reason_row(record: Record) -> dict[str, str]:
    """Cell, name and task of a record without a result, with cause, message and log."""
    reason = record.reason
    return {
        "cell": record.cell,
        "name": record.name,
        "task": record.task,
        "cause": reason.cause if reason else record.status,
        "message": reason.message if reason else "",
        "log": reason.log if reason else "",
    }


def task_labels(records: Iterable[Record]) -> dict[tuple[str, str], str]:
    """A label by (task, probe id): the task, plus the id's first digits if a task has several probes.

    Scores of two probes of one task (another file, protocol or number of training images) do not compare.
    """
    probes = {(record.task, record.probe) for record in records if record.task}
    shared = Counter(task for task, _ in probes)
    return {(task, probe): task if shared[task] == 1 else f"{task}-{probe[:8]}" for task, probe in probes}


def numbers(values: Mapping[str, object]) -> dict[str, float]:
    """The finite numbers among some values, as floats."""
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
