"""Tables of a study: one row per pretraining run, one per (cell, probe), and the results left out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from orch_analysis.fitting.points import Points
from orch_analysis.tables.points_file import load_points
from orch_core.study.contents import ReadRecord, read_contents, readable_plan
from orch_core.study.curves import read_rows
from orch_core.study.folder import DRAWS, Study, open_study
from orch_core.study.record import Record
from orch_core.study.rows import Row, config_row, numbers, probe_rows, record_row

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
PROBE: Mapping[str, Any] = {
    "task": pl.String,
    "task_name": pl.String,
    "probe": pl.String,
    "protocol": pl.String,
    "train_limit": pl.Int64,
    "draws": pl.String,
}
SCORES: Mapping[str, Any] = dict.fromkeys(
    ("auc", "auc_lo", "auc_hi", "auc_se", "accuracy", "n_train", "n_val", "n_test", "classes"), pl.Float64
)
LEDGER: Mapping[str, Any] = dict.fromkeys(("cell", "name", "task", "cause", "message", "log"), pl.String)
CURVE: Mapping[str, Any] = dict.fromkeys(("step", "samples_seen", "loss", "heldout_loss"), pl.Float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The results of a study as tables.

    pretraining: a row per cell that is done: CONFIG, SIZES, every other value of the record, `seconds`
    probes:      a row per (cell, probe) that is done: CONFIG, SIZES, PROBE, SCORES, every other
                 value; `task` names the task and, where there are several, the protocol; `task_name`
                 is the task's name in the grid
    ledger:      a row per cell or probe that is left out, with cause, message and log
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


def read_results(study: Study, *, planned_only: bool = True) -> Results:
    """Every record of the study as tables; `planned_only` as in `read_contents`."""
    contents = read_contents(study, planned_only=planned_only)
    published, plan = contents.published, contents.plan
    runs: list[dict[str, Any]] = []
    for record in (one.record for one in published if not one.stored.is_probe):
        row = record_row(record) | config_row(record.provenance.get("config") or study.config(record.cell))
        labels = (*CONFIG, "status", "seconds")
        runs.append({key: row.get(key) for key in labels} | numbers(record.values))
    done = [row for row in runs if row["status"] == "done"]
    scored = [one for one in published if one.stored.is_probe and one.record.status == "done"]
    scores = probe_rows([one.record for one in scored])
    return Results(
        provenance=_provenance(one.record for one in published),
        tasks={probe.task: asdict(probe) for probe in plan.probes} if plan else {},
        digest=_digest(one.stored.text for one in published),
        pretraining=_frame(done, {**CONFIG, **SIZES, "seconds": pl.Float64}),
        probes=_frame(list(_with_cells(scores, scored, runs)), {**CONFIG, **SIZES, **PROBE, **SCORES}),
        ledger=pl.DataFrame(contents.left_out, schema=dict(LEDGER)),
    )


def study_points(study: Study) -> Points:
    """The finished runs of a study as points, with its sizes as `params`, `samples` and `unique_samples`."""
    named = {"params": "params_encoder", "samples": "samples_seen", "unique_samples": "images"}
    frame = read_results(study).pretraining.with_columns(pl.col(old).alias(new) for new, old in named.items())
    return load_points(frame, name=study.name)


def _with_cells(
    scores: Iterable[Row], scored: Iterable[ReadRecord], runs: Iterable[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Rows of probes with the labels and sizes of their cells, and the paths of their resampled scores."""
    cells = {row["cell"]: {key: row.get(key) for key in (*CONFIG, *SIZES)} for row in runs}
    for row, one in zip(scores, scored, strict=True):
        kept = {key: value for key, value in row.items() if key not in {"kind", "status", "seconds"}}
        paths = {"probe_seconds": row["seconds"], "draws": f"{one.stored.folder}/{DRAWS}"}
        yield {**cells.get(one.record.cell, {}), **kept, "task_name": one.record.task, **paths}


def _provenance(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    parts: dict[str, Counter[str]] = {}
    for record in records:
        for part in ("versions", "code", "hardware"):
            if part in record.provenance:
                text = json.dumps(record.provenance[part], sort_keys=True)
                parts.setdefault(part, Counter())[text] += 1
    return {part: dict(counts.most_common()) for part, counts in sorted(parts.items())}


def _digest(texts: Iterable[bytes]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for text in texts:
        state.update(len(text).to_bytes(8, "big") + text)
    return state.hexdigest()


def grid_cells(study: Study, results: Results) -> pl.DataFrame:
    """Every cell that the study planned or began, with its state and minutes.

    Columns: cell, algorithm, model, params_encoder, mix, images, state ("done", else the cause in the
    ledger), minutes (training and probes).
    """
    labels = ("cell", "algorithm", "model", "params_encoder", "mix", "images")
    types = {key: {**CONFIG, **SIZES}[key] for key in labels}
    done, (plan, _) = results.pretraining, readable_plan(study)
    if plan:
        cells = plan.frame.rename({"id": "cell"}).select(labels).cast(types)  # type: ignore[arg-type]
        cells = pl.concat([cells, done.select(labels)]).unique("cell", keep="first", maintain_order=True)
    else:
        lost = results.ledger.filter(pl.col("task") == "", ~pl.col("cell").is_in(done["cell"].implode()))
        begun = [config_row(study.config(cell)) | {"cell": cell} for cell in lost["cell"].unique()]
        rows = [{key: row.get(key) for key in labels} for row in begun]
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


def _frame(rows: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> pl.DataFrame:
    """Rows as a frame: the columns of `schema` first and always, then every other number, sorted by name."""
    extra = sorted({key for row in rows for key in row} - {*schema, "status"})
    types = {**schema, **dict.fromkeys(extra, pl.Float64)}
    return pl.DataFrame(
        {key: pl.Series(key, [row.get(key) for row in rows], dtype=kind) for key, kind in types.items()}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFrames:
    """A study as frames: `runs`, `probes` and points of `curves` that are done; `left_out` with reasons."""

    runs: pl.DataFrame
    probes: pl.DataFrame
    curves: pl.DataFrame
    left_out: pl.DataFrame


def load_study(root: str | Path) -> StudyFrames:
    """The results of the study in a folder, by `read_results`; raises OrchError if it is no study."""
    study = open_study(Path(root))
    results = read_results(study)
    return StudyFrames(
        runs=results.pretraining,
        probes=results.probes,
        curves=read_curves(study, results.pretraining),
        left_out=results.ledger,
    )


def read_curves(study: Study, pretraining: pl.DataFrame) -> pl.DataFrame:
    """A row per logged point of the runs' `metrics.ndjson`.

    It has `step`, `loss`, `heldout_loss`, `samples_seen` so far, the cell's labels and `params_encoder`, and
    `flops_spent`: the run's FLOPs for the share of its samples seen so far.
    """
    labels = ("cell", "algorithm", "model", "mix", "images", "seed", "params_encoder")
    points = [
        {
            **{key: run[key] for key in labels},
            **{key: point.get(key) for key in CURVE},
            "flops_spent": _share(point.get("samples_seen"), run),
        }
        for run in pretraining.iter_rows(named=True)
        for point in read_rows(study.curves_file(run["cell"]))
    ]
    types = {key: {**CONFIG, **SIZES}[key] for key in labels}
    return _frame(points, {**types, **CURVE, "flops_spent": pl.Float64})


def _share(seen: float | None, run: Mapping[str, Any]) -> float | None:
    if not seen or not run["samples_seen"] or not run["flops_train"]:
        return None
    return float(run["flops_train"] * seen / run["samples_seen"])
