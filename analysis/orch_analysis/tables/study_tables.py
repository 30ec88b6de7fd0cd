"""From a study folder to tables: one row per pretraining run, one per (cell, task), and what is left out.

The folder is read directly, one `json.loads` per record: 10,000 records take about 0.3 CPU seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from orch_core.study.folder import Study

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
CURVE: Mapping[str, Any] = dict.fromkeys(("step", "samples_seen", "loss", "heldout_loss"), pl.Float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What a study holds, as tables.

    pretraining: a row per cell that is done: CONFIG, SIZES, every other value of the record, `seconds`
    probes:      a row per (cell, task) that is done: CONFIG, SIZES, `task`, SCORES, every other value
    ledger:      a row per cell or (cell, task) that gave nothing, with cause, message and log
    provenance:  per part (`versions`, `code`, ...) the distinct JSON texts and how many records carry each
    tasks:       per task, the probe's description in the study's plan (path, kind, classes, ...)
    digest:      blake2b-128 of all records in the order of their paths: the data that a report is made from
    """

    pretraining: pl.DataFrame
    probes: pl.DataFrame
    ledger: pl.DataFrame
    provenance: Mapping[str, Mapping[str, int]]
    tasks: Mapping[str, Mapping[str, Any]]
    digest: str


def study_table(study: Study) -> pl.DataFrame:
    """The study's long table: one row per (cell, task) that is done; see `Results.probes`."""
    return read_results(study).probes


def read_results(study: Study) -> Results:
    """Every record of the study as tables.

    What the study's plan asks for and no record gives enters the ledger as missing; in a study without a plan, every
    cell with a folder but no record does.
    """
    texts, failed = _scan(study.root)
    documents = [json.loads(text) for text in texts]
    runs = [_run_row(document) for document in documents if not document["task"]]
    config = {row["cell"]: row for row in runs}
    probes = [
        {
            **_shared(config.get(document["cell"], {})),
            **_probe_row(document),
            "draws": _draws_path(study, document),
        }
        for document in documents
        if document["task"] and document["status"] == "done"
    ]
    done = [row for row in runs if row["status"] == "done"]
    plan = read_plan(study.root)
    return Results(
        pretraining=_frame(done, {**CONFIG, **SIZES, "seconds": pl.Float64}),
        probes=_frame(probes, {**CONFIG, **SIZES, "task": pl.String, "draws": pl.String, **SCORES}),
        ledger=_ledger(study, documents, [json.loads(text) for text in failed], plan),
        provenance=_provenance(documents),
        tasks={probe["task"]: probe for probe in plan.get("probes", [])},
        digest=_digest(texts),
    )


def read_plan(root: Path) -> dict[str, Any]:
    """The study's `plan.json`, empty where there is none."""
    try:
        document = json.loads((root / "plan.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _scan(root: Path) -> tuple[list[bytes], list[bytes]]:
    """Texts of all published records, and of the last attempt's record of what has failed and is not published.

    Cells in the order of their ids, each before its probes. Plain strings and `os.scandir`: paths as objects would take
    longer than reading the files.
    """
    published: list[bytes] = []
    failed: list[bytes] = []
    for cell in _folders(f"{root}/cells"):
        for folder in (cell, *_folders(f"{cell}/probes")):
            text = _read(f"{folder}/record.json")
            if text is not None:
                published.append(text)
                continue
            attempts = max(
                _folders(f"{folder}/attempts"), default=None, key=lambda path: int(path.rpartition("/")[2])
            )
            last = _read(f"{attempts}/record.json") if attempts else None
            failed += [] if last is None else [last]
    return published, failed


def _folders(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir())
    except FileNotFoundError:
        return []


def _read(path: str) -> bytes | None:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with os.fdopen(handle, "rb", buffering=0) as file:
        return file.readall()


def _digest(texts: Iterable[bytes]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for text in texts:
        state.update(len(text).to_bytes(8, "big") + text)
    return state.hexdigest()


def grid_cells(study: Study, results: Results) -> pl.DataFrame:
    """Every cell that the study planned or began, with its state ("done", else the cause in the ledger) and minutes.

    Columns: cell, algorithm, model, params_encoder, mix, images, state, minutes (training and probes).
    """
    labels = ("cell", "algorithm", "model", "params_encoder", "mix", "images")
    types = {key: {**CONFIG, **SIZES}[key] for key in labels}
    done = results.pretraining
    path = study.root / "plan.parquet"
    if path.exists():
        cells = pl.read_parquet(path).rename({"id": "cell"}).select(labels).cast(types)  # type: ignore[arg-type]
        cells = pl.concat([cells, done.select(labels)]).unique("cell", keep="first", maintain_order=True)
    else:
        lost = results.ledger.filter(pl.col("task") == "", ~pl.col("cell").is_in(done["cell"].implode()))
        begun = [
            study.cell(cell) for cell in lost["cell"] if (study.cell_folder(cell) / "cell.json").exists()
        ]
        rows = [
            {
                "cell": c.id,
                "algorithm": c.algorithm,
                "model": c.model and c.model.name,
                "mix": c.mix,
                "images": c.images,
            }
            for c in begun
        ]
        cells = pl.concat([done.select(labels), _frame(rows, types)])
    causes = results.ledger.filter(pl.col("task") == "").unique("cell", keep="first").select("cell", "cause")
    spent = done.select("cell", "seconds")
    if "probe_seconds" in results.probes.columns:
        probing = results.probes.group_by("cell").agg(pl.col("probe_seconds").sum())
        spent = spent.join(probing, on="cell", how="left").select(
            "cell", seconds=pl.col("seconds").fill_null(0) + pl.col("probe_seconds").fill_null(0)
        )
    return (
        cells.with_columns(pl.col("model").fill_null(""), pl.col("mix").fill_null(""))
        .join(spent, on="cell", how="left")
        .join(causes, on="cell", how="left")
        .with_columns(state=pl.col("cause").fill_null("done"), minutes=pl.col("seconds") / 60)
        .drop("cause", "seconds")
    )


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


def _draws_path(study: Study, document: Mapping[str, Any]) -> str:
    """Where the bootstrap's AUCs lie, whether or not they are there."""
    folder = study.cell_folder(document["cell"]) / "probes" / f"{document['task']}-{document['probe'][:8]}"
    return str(folder / "auc_draws.npy")


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


def read_curves(study: Study, pretraining: pl.DataFrame) -> pl.DataFrame:
    """A row per logged point of the runs' `metrics.ndjson`: `step`, `loss`, `heldout_loss`, `samples_seen` so far.

    Beside them the cell's labels and `params_encoder`, and `flops_spent`: the run's FLOPs for the share of its samples
    seen so far.
    """
    labels = ("cell", "algorithm", "model", "mix", "images", "seed", "params_encoder")
    rows = [
        {
            **{key: run[key] for key in labels},
            **{key: point.get(key) for key in CURVE},
            "flops_spent": _share(point.get("samples_seen"), run),
        }
        for run in pretraining.iter_rows(named=True)
        for point in _points(study.cell_folder(run["cell"]) / "metrics.ndjson")
    ]
    types = {key: {**CONFIG, **SIZES}[key] for key in labels}
    return _frame(rows, {**types, **CURVE, "flops_spent": pl.Float64})


def _share(seen: float | None, run: Mapping[str, Any]) -> float | None:
    if not seen or not run["samples_seen"] or not run["flops_train"]:
        return None
    return float(run["flops_train"] * seen / run["samples_seen"])


def _points(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # the line that a kill cut short
                continue


def _ledger(
    study: Study,
    documents: Sequence[Mapping[str, Any]],
    failed: Sequence[Mapping[str, Any]],
    plan: Mapping[str, Any],
) -> pl.DataFrame:
    rows = [_left_out(document) for document in documents if document["status"] != "done"]
    rows += [_left_out(document) for document in failed]
    known = {(document["cell"], document["task"]) for document in documents}
    known |= {(row["cell"], row["task"]) for row in rows}
    lost = {row["cell"] for row in rows if not row["task"]}
    for cell, name, task in _planned(study.root, plan) if plan else _begun(study):
        if (cell, task) not in known and cell not in lost:
            message = "no record yet" if task else "no record yet, and none of its probes"
            rows.append(
                {"cell": cell, "name": name, "task": task, "cause": "missing", "message": message, "log": ""}
            )
            lost |= set() if task else {cell}  # a cell that is not there counts once, not once per probe
    return pl.DataFrame(rows, schema=dict(LEDGER))


def _planned(root: Path, plan: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Cell, name and task ("" for pretraining) of everything that the plan asks for."""
    columns = ("id", "algorithm", "model", "mix", "images", "seed")
    for cell, algorithm, model, mix, images, seed in (
        pl.read_parquet(root / "plan.parquet", columns=list(columns)).select(columns).iter_rows()
    ):
        size = str(images) if images else ""
        name = "-".join(part for part in (algorithm, model, mix, size, f"s{seed}") if part)
        for task in ("", *(probe["task"] for probe in plan["probes"])):
            yield cell, name, task


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
