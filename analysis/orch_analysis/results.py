"""From a study folder to tables: one row per pretraining run, one per (cell, task), and what is left out.

The folder is read directly, one `json.loads` per record: 10,000 records take about 0.3 CPU seconds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from orch_core.study import Study

CONTROLS = ("random", "pixels")  # cells without training: the floors that every gain is measured from

CONFIG: Mapping[str, Any] = {
    "cell": pl.String,
    "name": pl.String,
    "algorithm": pl.String,
    "recipe": pl.String,
    "model": pl.String,
    "mix": pl.String,
    "images": pl.Float64,
    "resolution": pl.Int64,
    "patch": pl.Int64,
    "batch": pl.Int64,
    "seed": pl.Int64,
}
SIZES: Mapping[str, Any] = dict.fromkeys(
    (
        "params_encoder",
        "params_head",
        "params_total",
        "samples_seen",
        "flops_train",
        "heldout_loss",
        "train_loss",
    ),
    pl.Float64,
)
SCORES: Mapping[str, Any] = dict.fromkeys(
    ("auc", "auc_lo", "auc_hi", "auc_se", "accuracy", "n_train", "n_val", "n_test", "classes"), pl.Float64
)
LEDGER: Mapping[str, Any] = dict.fromkeys(("cell", "name", "task", "cause", "message", "log"), pl.String)
CURVE: Mapping[str, Any] = {
    "cell": pl.String,
    **dict.fromkeys(("step", "samples_seen", "loss", "heldout_loss"), pl.Float64),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What a study holds, as tables.

    pretraining: a row per cell that is done: CONFIG, SIZES, every other value of the record, `seconds`
    probes:      a row per (cell, task) that is done: CONFIG, SIZES, `task`, SCORES, every other value
    curves:      a row per logged point of `metrics.ndjson`: CONFIG, SIZES of the cell; `step`, `loss`, ...
    ledger:      a row per cell or (cell, task) that gave nothing, with cause, message and log
    provenance:  per part (`versions`, `code`, ...) the distinct JSON texts and how many records carry each
    tasks:       per task, the probe's own description where its records carry one (path, kind, classes)
    """

    pretraining: pl.DataFrame
    probes: pl.DataFrame
    curves: pl.DataFrame
    ledger: pl.DataFrame
    provenance: Mapping[str, Mapping[str, int]]
    tasks: Mapping[str, Mapping[str, Any]]


def study_table(study: Study) -> pl.DataFrame:
    """The study's long table: one row per (cell, task) that is done; see `Results.probes`."""
    return read_results(study).probes


def read_results(study: Study, *, planned: pl.DataFrame | None = None) -> Results:
    """Every record of the study as tables.

    planned: rows of what the grid asks for with columns `cell`, `name` and `task` ("" for pretraining); those
    without a record enter the ledger as missing. None: what has a folder but no record counts as missing.
    """
    documents = list(_documents(study.root))
    runs = [_run_row(document) for document in documents if not document["task"]]
    config = {row["cell"]: row for row in runs}
    probes = [
        {**_shared(config.get(document["cell"], {})), **_probe_row(document)}
        for document in documents
        if document["task"] and document["status"] == "done"
    ]
    done = [row for row in runs if row["status"] == "done"]
    return Results(
        pretraining=_frame(done, {**CONFIG, **SIZES, "seconds": pl.Float64}),
        probes=_frame(probes, {**CONFIG, **SIZES, "task": pl.String, **SCORES}),
        curves=_curves(study, done),
        ledger=_ledger(study, documents, planned),
        provenance=_provenance(documents),
        tasks=_tasks(documents),
    )


def _documents(root: Path) -> Iterator[dict[str, Any]]:
    for folder in sorted((root / "cells").glob("*")):
        paths = [folder / "record.json", *sorted(folder.glob("probes/*/record.json"))]
        for path in paths:
            try:
                yield json.loads(path.read_bytes())
            except FileNotFoundError:
                continue


def _run_row(document: Mapping[str, Any]) -> dict[str, Any]:
    config = document["provenance"].get("config", {})
    model = config.get("model") or {}
    recipe = config.get("recipe", "")
    labels = {key: config.get(key) for key in ("mix", "images", "resolution", "patch", "batch", "seed")}
    return {
        "cell": document["cell"],
        "name": document["name"],
        "status": document["status"],
        "algorithm": recipe.partition("@")[0],
        "recipe": recipe,
        "model": model.get("name", ""),
        **labels,
        **_numbers(document["values"]),
        "seconds": document["cost"].get("seconds"),
    }


def _probe_row(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "cell": document["cell"],
        "name": document["name"],
        "task": document["task"],
        **_numbers(document["values"]),
        "probe_seconds": document["cost"].get("seconds"),
    }


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if isinstance(value, int | float)}


def _shared(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row.get(key) for key in (*CONFIG, *SIZES)}


def _frame(rows: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> pl.DataFrame:
    """Rows as a frame: the columns of `schema` first and always, then every other number, sorted by name."""
    extra = sorted({key for row in rows for key in row} - {*schema, "status"})
    types = {**schema, **dict.fromkeys(extra, pl.Float64)}
    return pl.DataFrame(
        {key: pl.Series(key, [row.get(key) for row in rows], dtype=kind) for key, kind in types.items()}
    )


def _curves(study: Study, runs: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    rows = [
        {**_shared(row), **{key: point.get(key) for key in CURVE if key != "cell"}}
        for row in runs
        for point in _points(study.cell_folder(row["cell"]) / "metrics.ndjson")
    ]
    return _frame(rows, {**CONFIG, **SIZES, **CURVE})


def _points(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # the line that a kill cut short
                continue


def _ledger(
    study: Study, documents: Sequence[Mapping[str, Any]], planned: pl.DataFrame | None
) -> pl.DataFrame:
    rows = [_left_out(document) for document in documents if document["status"] != "done"]
    rows += [_left_out(record.to_json()) for record in study.failures()]
    known = {(document["cell"], document["task"]) for document in documents}
    known |= {(row["cell"], row["task"]) for row in rows}
    wanted = planned.select("cell", "name", "task").iter_rows() if planned is not None else _begun(study)
    rows += [
        {"cell": cell, "name": name, "task": task, "cause": "missing", "message": "no record yet", "log": ""}
        for cell, name, task in wanted
        if (cell, task) not in known
    ]
    return pl.DataFrame(rows, schema=dict(LEDGER))


def _left_out(document: Mapping[str, Any]) -> dict[str, str]:
    reason = document["reason"] or {"cause": document["status"], "message": "", "log": ""}
    return {
        "cell": document["cell"],
        "name": document["name"],
        "task": document["task"],
        **{key: reason[key] for key in ("cause", "message", "log")},
    }


def _begun(study: Study) -> Iterator[tuple[str, str, str]]:
    for path in sorted((study.root / "cells").glob("*/cell.json")):
        cell = study.cell(path.parent.name)
        yield cell.id, cell.name, ""


def _provenance(documents: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    parts: dict[str, Counter[str]] = {}
    for document in documents:
        for part, value in document["provenance"].items():
            if part in {"versions", "code", "hardware"}:
                text = json.dumps(value, sort_keys=True)
                parts.setdefault(part, Counter())[text] += 1
    return {part: dict(counts.most_common()) for part, counts in sorted(parts.items())}


def _tasks(documents: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for document in documents:
        probe = document["provenance"].get("probe")
        if document["task"] and isinstance(probe, Mapping):
            found.setdefault(document["task"], dict(probe))
    return dict(sorted(found.items()))
