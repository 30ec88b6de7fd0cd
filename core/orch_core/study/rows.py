"""A record as a flat row of its config, values and cost, with the column names of tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orch_core.cell import algorithm_of
from orch_core.study.record import Record

Label = str | int | float | None
Row = dict[str, Label]
CONFIG = ("mix", "images", "resolution", "patch", "channels", "batch", "precision", "seed")
FIRST_PROTOCOL = "linear@1"
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
        **(
            {**{name: probe.get(name) for name in PROBE}, "protocol": _protocol(record)}
            if record.task
            else {}
        ),
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
    """A label by (task, probe id): the task, and where others share it the protocol and digits of the id.

    Scores of two probes of one task (another file, protocol or number of training images) do not compare. The
    protocol that laws are fitted to (`main_protocol`) is left out of the label, so that one added later does
    not change it.
    """
    probes = {(record.task, record.probe): _protocol(record) for record in records if record.task}
    main, shared = main_protocol(probes.values()), Counter(task for task, _ in probes)
    labels = {
        (task, probe): task if shared[task] == 1 or protocol == main else f"{task} ({protocol})"
        for (task, probe), protocol in probes.items()
    }
    used = Counter(labels.values())
    return {key: label if used[label] == 1 else f"{label}-{key[1][:8]}" for key, label in labels.items()}


def main_protocol(protocols: Iterable[str]) -> str:
    """The protocol of laws and comparisons: `linear@1`, or the first by name if no probe has it."""
    found = set(protocols)
    return FIRST_PROTOCOL if FIRST_PROTOCOL in found or not found else min(found)


def _protocol(record: Record) -> str:
    probe = record.provenance.get("probe") or {}
    return str(probe.get("protocol", FIRST_PROTOCOL))


def probe_rows(records: Sequence[Record]) -> list[Row]:
    """Rows of the records of probes, with their `task_labels` as tasks."""
    tasks = task_labels(records)
    return [record_row(one) | {"task": tasks[one.task, one.probe]} for one in records]


def numbers(values: Mapping[str, object]) -> dict[str, float]:
    """The finite numbers among some values, as floats."""
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
