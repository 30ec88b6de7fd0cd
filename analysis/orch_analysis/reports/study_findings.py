"""What a study's records say, computed once: tables, slopes, factors and correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from orch_analysis.fitting.fit import Fit
from orch_analysis.frontiers import approaches
from orch_analysis.frontiers.approaches import Frontier
from orch_analysis.reports import study_sentences
from orch_analysis.tables import study_tables
from orch_analysis.tables.study_tables import CONTROLS, Results
from orch_analysis.tasks import correlation, factors, slopes
from orch_analysis.tasks.slopes import Slope
from orch_core.errors import OrchError
from orch_core.formatting import listed
from orch_core.study.folder import Study

FACTORS = (
    "n_train",
    "n_total",
    "classes",
    "classes_binary",
    "gzip_rgb",
    "gzip_native",
    "dbi_pixels",
    "dbi_pca50",
    "entropy",
    "headroom",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything that the page says, computed once."""

    study: Study
    results: Results
    curves: pl.DataFrame
    cells: pl.DataFrame
    scored: pl.DataFrame
    best: pl.DataFrame
    mixed: pl.DataFrame
    mixes: Mapping[str, str]
    loss: Sequence[Slope]
    joint: Sequence[Fit]
    frontiers: Mapping[str, Frontier]
    probes: Sequence[Slope]
    factors: pl.DataFrame
    grouped: pl.DataFrame
    correlations: Mapping[str, pl.DataFrame]


def findings(study: Study, *, bootstrap: int = 1000, seed: int = 0) -> Findings:
    """Tables, slopes, factors and correlations of a study; raises OrchError where no cell is finished."""
    found = study_tables.read_results(study)
    if found.pretraining.is_empty():
        causes = found.ledger["cause"].value_counts(sort=True).iter_rows()
        why = listed([f"{count} {cause}" for cause, count in causes])
        message = f"{study.root} has no finished cell{f' ({why})' if why else ''}"
        raise OrchError(
            message, hint="`orch launch` runs what is planned; `orch status` says what failed and why"
        )
    scored = slopes.with_controls(found.probes)
    mixes = study_sentences.main_mixes(found.pretraining)
    probes = slopes.probe_slopes(found)
    curves = study_tables.read_curves(study, found.pretraining)
    described = factors.task_factors({task: Path(probe["path"]) for task, probe in found.tasks.items()})
    grouped = _grouped(described, scored, mixes)
    return Findings(
        study=study,
        results=found,
        curves=curves,
        cells=study_tables.grid_cells(study, found),
        scored=scored,
        best=best_cells(scored, mixes),
        mixed=mix_rows(scored),
        mixes=mixes,
        loss=slopes.pretraining_slopes(found),
        joint=slopes.joint_laws(found, bootstrap=bootstrap, seed=seed),
        frontiers=_frontiers(curves, mixes, seed),
        probes=probes,
        factors=described,
        grouped=grouped,
        correlations={
            value: _correlations(probes, grouped, mixes, value, seed) for value in ("auc", "error_ratio")
        },
    )


def _frontiers(curves: pl.DataFrame, mixes: Mapping[str, str], seed: int) -> dict[str, Frontier]:
    """The compute-optimal size from the envelope of each algorithm's curves, where it has three sizes."""
    found = {}
    for algorithm, mix in mixes.items():
        part = curves.filter(
            pl.col("algorithm") == algorithm,
            pl.col("mix") == mix,
            pl.col("heldout_loss") > 0,
            pl.col("flops_spent") > 0,
        )
        if part["params_encoder"].n_unique() >= slopes.LEVELS:
            columns = (part[name].to_numpy() for name in ("params_encoder", "flops_spent", "heldout_loss"))
            found[algorithm] = approaches.envelope(part["cell"].to_list(), *columns, seed=seed)
    return found


def best_cells(scored: pl.DataFrame, mixes: Mapping[str, str]) -> pl.DataFrame:
    """Per trained algorithm and task: the largest encoder on most images of its main mix, mean over seeds."""
    pairs = pl.DataFrame(list(mixes.items()), schema={"algorithm": pl.String, "mix": pl.String}, orient="row")
    rows = scored.join(pairs, on=["algorithm", "mix"], how="semi")
    key = ["algorithm", "task"]
    for size in ("images", "params_encoder"):
        rows = rows.filter(pl.col(size) == pl.col(size).max().over(key))
    numbers = [name for name, kind in rows.schema.items() if kind.is_numeric() and name not in key]
    return rows.group_by(*key, "mix", "model").agg(pl.col(numbers).mean()).sort("task", "algorithm")


def mix_rows(scored: pl.DataFrame) -> pl.DataFrame:
    """Scores that compare mixes: one encoder and one number of images with which two or more mixes were run.

    Of such pairs the one with most mixes, then the largest; mean over seeds. Empty where no pair has two mixes.
    """
    rows = scored.filter(~pl.col("algorithm").is_in(CONTROLS))
    pairs = rows.group_by("model", "params_encoder", "images").agg(mixes=pl.col("mix").n_unique())
    pairs = (
        pairs.filter(pl.col("mixes") > 1).sort("mixes", "images", "params_encoder", descending=True).head(1)
    )
    key = ["algorithm", "task", "mix", "model"]
    numbers = [name for name, kind in rows.schema.items() if kind.is_numeric()]
    chosen = rows.join(pairs.select("model", "images"), on=["model", "images"], how="semi")
    return chosen.group_by(key).agg(pl.col(numbers).mean()).sort("task", "algorithm", "mix")


def _grouped(described: pl.DataFrame, scored: pl.DataFrame, mixes: Mapping[str, str]) -> pl.DataFrame:
    """Factors per (algorithm, task): those of the task, and headroom, 1 - AUC of the smallest encoder on most images."""
    parts = []
    for algorithm, mix in mixes.items():
        rows = scored.filter(pl.col("algorithm") == algorithm, pl.col("mix") == mix)
        rows = rows.filter(pl.col("images") == pl.col("images").max())
        rows = rows.filter(pl.col("params_encoder") == pl.col("params_encoder").min())
        headroom = rows.group_by("task").agg(headroom=1 - pl.col("auc").mean())
        parts.append(
            described.join(headroom, on="task", how="full", coalesce=True).with_columns(
                group=pl.lit(algorithm)
            )
        )
    empty = described.clear().with_columns(headroom=pl.lit(None, pl.Float64), group=pl.lit("", pl.String))
    return pl.concat(parts, how="diagonal").sort("group", "task") if parts else empty


def _correlations(
    rows: Sequence[Slope], grouped: pl.DataFrame, mixes: Mapping[str, str], value: str, seed: int
) -> pl.DataFrame:
    table = _main(slopes.slope_table(rows), mixes, value)
    return correlation.correlate_all(table, grouped, varying_factors(grouped, FACTORS), seed=seed)


def _main(table: pl.DataFrame, mixes: Mapping[str, str], value: str) -> pl.DataFrame:
    pairs = pl.DataFrame(list(mixes.items()), schema={"algorithm": pl.String, "mix": pl.String}, orient="row")
    size = table.filter(pl.col("value") == value, pl.col("axis") == "params_encoder")
    return size.join(pairs, on=["algorithm", "mix"], how="semi").with_columns(group=pl.col("algorithm"))


def varying_factors(table: pl.DataFrame, names: Sequence[str]) -> list[str]:
    """Those factors that differ between tasks, each coding once where two agree on every task."""
    kept: list[str] = []
    for name in names:
        if name in table.columns and table[name].drop_nulls().n_unique() > 1:
            same = any(table[name].cast(pl.Float64).equals(table[other].cast(pl.Float64)) for other in kept)
            if not same:
                kept.append(name)
    return kept
