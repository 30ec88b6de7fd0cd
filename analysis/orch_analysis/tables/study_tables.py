"""From a study folder to tables: one row per pretraining run, one per (cell, probe), and what is left out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from orch_analysis.fitting.points import Points
from orch_analysis.tables.points_file import load_points
from orch_core.errors import OrchError
from orch_core.study.curves import read_rows
from orch_core.study.folder import DRAWS, Study, open_study
from orch_core.study.record import Cause, Record
from orch_core.study.rows import config_row, numbers, reason_row, record_row, task_labels
from orch_core.study.stored import StoredRecord

if TYPE_CHECKING:
    from orch_core.study.plan import Plan


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
    """What a study holds, as tables.

    pretraining: a row per cell that is done: CONFIG, SIZES, every other value of the record, `seconds`
    probes:      a row per (cell, probe) that is done: CONFIG, SIZES, PROBE, SCORES, every other value; `task` names the
                 task and, where there are several, the protocol; `task_name` is the task's name in the grid
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A record that could be read, and where it lies."""

    record: Record
    stored: StoredRecord


def read_results(study: Study, *, planned_only: bool = True) -> Results:
    """Every record of the study as tables.

    Records that the study's plan does not contain (any more) are left out as outdated, unless `planned_only` is False;
    what the plan asks for and no record gives enters the ledger as missing. In a study without a plan all records
    count, and cells with a folder but no record are missing.
    """
    plan, trouble = _plan(study)
    found, damaged = _readable(study, plan, study.stored())
    current, outdated = _split(found, plan if planned_only else None)
    published = [one for one in current if one.stored.published]
    failed = [one for one in current if one.record.status != "done"]
    left_out = [reason_row(one.record) for one in failed] + [
        *trouble,
        *damaged.values(),
        *map(_outdated, outdated),
    ]
    known = {(one.record.cell, one.record.probe) for one in (*published, *failed)} | damaged.keys()
    runs = [_run_row(study, one.record) for one in published if not one.stored.is_probe]
    done = [row for row in runs if row["status"] == "done"]
    return Results(
        pretraining=_frame(done, {**CONFIG, **SIZES, "seconds": pl.Float64}),
        probes=_frame(list(_probe_rows(published, runs)), {**CONFIG, **SIZES, **PROBE, **SCORES}),
        ledger=pl.DataFrame([*left_out, *_missing(study, plan, known, left_out)], schema=dict(LEDGER)),
        provenance=_provenance(one.record for one in published),
        tasks={probe.task: asdict(probe) for probe in plan.probes} if plan else {},
        digest=_digest(one.stored.text for one in published),
    )


def study_points(study: Study) -> Points:
    """The finished runs of a study as points, with its sizes as `params`, `samples` and `unique_samples`."""
    named = {"params": "params_encoder", "samples": "samples_seen", "unique_samples": "images"}
    frame = read_results(study).pretraining.with_columns(pl.col(old).alias(new) for new, old in named.items())
    return load_points(frame, name=study.name)


def _plan(study: Study) -> tuple[Plan | None, list[dict[str, str]]]:
    """The study's plan; None if there is none, or one that cannot be read, with a row of the ledger."""
    from orch_core.study.plan import (
        stored_plan,  # with the language of grids, which tables of points need not
    )

    if not study.plan_table.exists():
        return None, []
    try:
        return stored_plan(study), []
    except OrchError as error:
        why = f"{error.message.removeprefix(f'{study.root}/')}; without it nothing counts as missing or outdated"
        return None, [_row("", study.plan_table.name, "", Cause.UNREADABLE, why)]


def _readable(
    study: Study, plan: Plan | None, stored: Iterable[StoredRecord]
) -> tuple[list[_Found], dict[tuple[str, str], dict[str, str]]]:
    """The records that can be read; and by (cell, probe id) rows of the ledger for those that cannot."""
    found, damaged = [], {}
    for one in stored:
        try:
            found.append(_Found(record=one.read(), stored=one))
        except OrchError as error:
            probes = plan.probes if plan and one.is_probe else ()
            probe = next((p for p in probes if str(study.probe_folder(one.cell, p)) == one.folder), None)
            task = probe.task if probe else "a probe" if one.is_probe else ""
            row = _row(
                one.cell,
                _name(study, one.cell),
                task,
                Cause.UNREADABLE,
                error.message.removeprefix(f"{study.root}/"),
            )
            damaged[one.cell, probe.id if probe else one.folder if one.is_probe else ""] = row
    return found, damaged


def _split(found: Sequence[_Found], plan: Plan | None) -> tuple[list[_Found], list[_Found]]:
    """The records that a plan contains, and the outdated ones; all and none without a plan."""
    if plan is None:
        return list(found), []
    cells, probes = set(plan.frame["id"]), {probe.id for probe in plan.probes}
    current: list[_Found] = []
    outdated: list[_Found] = []
    for one in found:
        kept = one.record.cell in cells and (not one.stored.is_probe or one.record.probe in probes)
        (current if kept else outdated).append(one)
    return current, outdated


def _outdated(one: _Found) -> dict[str, str]:
    record = one.record
    what = f"its probe {record.probe[:8]}" if record.task else "it"
    message = f"recorded, but the current plan does not contain {what}"
    return _row(record.cell, record.name, record.task, Cause.OUTDATED, message)


def _row(cell: str, name: str, task: str, cause: Cause, message: str) -> dict[str, str]:
    """A row of the ledger that no record gives."""
    return {"cell": cell, "name": name, "task": task, "cause": cause.value, "message": message, "log": ""}


def _missing(
    study: Study,
    plan: Plan | None,
    known: Collection[tuple[str, str]],
    left_out: Iterable[Mapping[str, str]],
) -> Iterator[dict[str, str]]:
    """Rows of the ledger for what the plan asks for (else: for cells with a folder) and no record gives.

    known: (cell, probe id, or "" for pretraining) of everything that has a record.
    A cell without a result counts once, not once per probe.
    """
    lost = {row["cell"] for row in left_out if not row["task"]}
    message = "no record yet, and none of its probes"
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
                yield _row(cell, name, probe.task, Cause.MISSING, "no record yet")


def _name(study: Study, cell: str) -> str:
    """A launched cell's name; empty if its config is missing or damaged."""
    try:
        return study.cell(cell).name
    except OrchError:
        return ""


def _run_row(study: Study, record: Record) -> dict[str, Any]:
    config = record.provenance.get("config") or study.config(record.cell)
    found = {**record_row(record), **config_row(config)}
    return {key: found.get(key) for key in (*CONFIG, "status", "seconds")} | numbers(record.values)


def _probe_rows(found: Iterable[_Found], runs: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of the probes that are done, with the labels and sizes of their cells."""
    cells = {row["cell"]: {key: row.get(key) for key in (*CONFIG, *SIZES)} for row in runs}
    done = [one for one in found if one.stored.is_probe and one.record.status == "done"]
    tasks = task_labels(one.record for one in done)
    for one in done:
        row: dict[str, Any] = record_row(one.record)
        yield {
            **cells.get(one.record.cell, {}),
            **{key: row.get(key) for key in ("cell", "name", *PROBE)},
            **numbers(one.record.values),
            "task": tasks[one.record.task, one.record.probe],
            "task_name": one.record.task,
            "probe_seconds": row["seconds"],
            "draws": f"{one.stored.folder}/{DRAWS}",
        }


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
    """Every cell that the study planned or began, with its state ("done", else the cause in the ledger) and minutes.

    Columns: cell, algorithm, model, params_encoder, mix, images, state, minutes (training and probes).
    """
    labels = ("cell", "algorithm", "model", "params_encoder", "mix", "images")
    types = {key: {**CONFIG, **SIZES}[key] for key in labels}
    done, (plan, _) = results.pretraining, _plan(study)
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
    """A study as frames: `runs`, `probes` and points of `curves` that are done, and what is `left_out` and why."""

    runs: pl.DataFrame
    probes: pl.DataFrame
    curves: pl.DataFrame
    left_out: pl.DataFrame


def load_study(root: str | Path) -> StudyFrames:
    """The results of the study in a folder, as `read_results` reads them; raises OrchError if it is no study."""
    study = open_study(Path(root))
    results = read_results(study)
    return StudyFrames(
        runs=results.pretraining,
        probes=results.probes,
        curves=read_curves(study, results.pretraining),
        left_out=results.ledger,
    )


def read_curves(study: Study, pretraining: pl.DataFrame) -> pl.DataFrame:
    """A row per logged point of the runs' `metrics.ndjson`: `step`, `loss`, `heldout_loss`, `samples_seen` so far.

    Beside them the cell's labels and `params_encoder`, and `flops_spent`: the run's FLOPs for the share of its samples
    seen so far.
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
