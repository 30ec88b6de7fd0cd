"""The numbers of a study's report: tables, slopes, contrasts, factors and correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from orch_analysis.benefits.pooled import BenefitAnalysis, benefit_analysis
from orch_analysis.fitting.estimates import Fit
from orch_analysis.frontiers import approaches
from orch_analysis.frontiers.approaches import Frontier
from orch_analysis.tables import CONTROLS, study_tables
from orch_analysis.tables.study_tables import Results
from orch_analysis.tasks import across_protocols, correlation, slopes
from orch_analysis.tasks.across_protocols import AcrossProtocols
from orch_analysis.tasks.contrasts import Contrast, contrasts
from orch_analysis.tasks.factors import FACTORS, chosen_factors, task_factors, varying_factors
from orch_analysis.tasks.slopes import Slope
from orch_core.errors import OrchError
from orch_core.formatting import listed
from orch_core.study.folder import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTime:
    """Hours that the finished cells took, pretraining and probes apart."""

    pretraining: float
    probes: float

    @property
    def total(self) -> float:
        """Hours of both."""
        return self.pretraining + self.probes


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFindings:
    """Every number of a study's report.

    With several probing protocols, all but `protocols` are of one of them.

    curves: logged points of training; cells: the grid with states and minutes; scored: probes with their
    controls (`with_controls`); best, mixed: rows of `best_cells` and `mix_rows`; mixes: the main mix of each
    algorithm; tied: axes that repeat another axis, with that axis; loss, probes: power laws of the held-out
    loss and of the tasks; joint: laws of size and data; factors: a row per task; grouped: factors per
    algorithm and task; correlations: of the slopes of `auc` and `error_ratio` in encoder size, by value;
    benefits: of every task along every axis that does not repeat another.
    """

    study: Study
    results: Results
    device_time: DeviceTime
    curves: pl.DataFrame
    cells: pl.DataFrame
    scored: pl.DataFrame
    best: pl.DataFrame
    mixed: pl.DataFrame
    mixes: Mapping[str, str]
    tied: Mapping[str, str]
    loss: Sequence[Slope]
    joint: Sequence[Fit]
    frontiers: Mapping[str, Frontier]
    probes: Sequence[Slope]
    contrasts: Sequence[Contrast]
    protocols: Sequence[AcrossProtocols]
    factors: pl.DataFrame
    grouped: pl.DataFrame
    factor_names: Sequence[str]
    correlations: Mapping[str, pl.DataFrame]
    benefits: BenefitAnalysis

    def main_slopes(self, value: str) -> pl.DataFrame:
        """Slopes of `value` in encoder size for main mixes, as rows of `slope_table` with `group`."""
        return _main_slopes(self.probes, self.mixes, value)


def study_findings(
    study: Study, *, factors: Sequence[str] = (), bootstrap: int = 1000, seed: int = 0
) -> StudyFindings:
    """Compute everything that the study's report prints.

    factors: those that the slopes are correlated with; all by default. Raises OrchError if no cell is
             finished, and for
    an unknown factor.
    """
    everything = study_tables.read_results(study)
    found = across_protocols.by_main_protocol(everything)
    if found.pretraining.is_empty():
        causes = found.ledger["cause"].value_counts(sort=True).iter_rows()
        why = listed([f"{count} {cause}" for cause, count in causes])
        message = f"{study.root} has no finished cell{f' ({why})' if why else ''}"
        raise OrchError(message, hint="run `orch launch`; `orch status` prints the causes of failures")
    scored, mixes = slopes.with_controls(found.probes), main_mixes(found.pretraining)
    probes = slopes.probe_slopes(found)
    curves = study_tables.read_curves(study, found.pretraining)
    described = task_factors(
        {task: (Path(probe["path"]), probe["fingerprint"]) for task, probe in found.tasks.items()}
    )
    grouped = _grouped(described, scored, mixes)
    correlated = [factor.name for factor in FACTORS if factor.correlated]
    names = varying_factors(grouped, chosen_factors(factors, [one.name for one in FACTORS]) or correlated)
    return StudyFindings(
        study=study,
        results=found,
        device_time=_device_time(everything),
        curves=curves,
        cells=study_tables.grid_cells(study, found),
        scored=scored,
        best=best_cells(scored, mixes),
        mixed=mix_rows(scored),
        mixes=mixes,
        tied=_tied(found.pretraining),
        loss=slopes.pretraining_slopes(found),
        joint=slopes.joint_laws(found, bootstrap=bootstrap, seed=seed),
        frontiers=_frontiers(curves, _one_unit(found.pretraining, mixes), seed),
        probes=probes,
        contrasts=contrasts(scored),
        protocols=across_protocols.across_protocols(everything),
        factors=described,
        grouped=grouped,
        factor_names=names,
        correlations={
            value: correlation.correlate(_main_slopes(probes, mixes, value), grouped, names, seed=seed)
            for value in ("auc", "error_ratio")
        },
        benefits=_benefits(scored, grouped, names, seed),
    )


def _benefits(
    scored: pl.DataFrame, grouped: pl.DataFrame, names: Sequence[str], seed: int
) -> BenefitAnalysis:
    """Benefits of trained encoders along axes that do not repeat another, beside the factors of the tasks."""
    trained = scored.filter(~pl.col("algorithm").is_in(CONTROLS))
    axes = [axis for axis in slopes.AXES if not slopes.same_axis(trained, axis)]
    return benefit_analysis(
        trained.with_columns(auc_se=pl.col("se")),
        axes,
        grouped.rename({"group": "algorithm"}),
        names,
        seed=seed,
    )


def main_mixes(runs: pl.DataFrame) -> dict[str, str]:
    """The mix with most cells of each trained algorithm; the answers at the top of the page are about it."""
    trained = runs.filter(~pl.col("algorithm").is_in(CONTROLS))
    counts = (
        trained.group_by("algorithm", "mix")
        .len()
        .sort(["algorithm", "len", "mix"], descending=[False, True, False])
    )
    return dict(
        counts.unique("algorithm", keep="first", maintain_order=True).select("algorithm", "mix").iter_rows()
    )


def _device_time(results: Results) -> DeviceTime:
    seconds = [
        float(table[name].fill_null(0).sum()) if name in table.columns else 0.0
        for table, name in ((results.pretraining, "seconds"), (results.probes, "probe_seconds"))
    ]
    return DeviceTime(pretraining=seconds[0] / 3600, probes=seconds[1] / 3600)


def _tied(runs: pl.DataFrame) -> dict[str, str]:
    """Axes that vary among the trained cells and repeat an earlier axis, with that axis."""
    trained = runs.filter(~pl.col("algorithm").is_in(CONTROLS))
    varying = [axis for axis in slopes.AXES if trained[axis].n_unique() > 1]
    return {axis: same for axis in varying if (same := slopes.same_axis(trained, axis))}


def _one_unit(runs: pl.DataFrame, mixes: Mapping[str, str]) -> dict[str, str]:
    """The algorithms (with their main mix) whose losses can be compared between encoder sizes."""
    return {
        algorithm: mix
        for algorithm, mix in mixes.items()
        if not slopes.loss_obstacle(
            runs.filter(pl.col("algorithm") == algorithm, pl.col("mix") == mix), "params_encoder"
        )
    }


def _frontiers(curves: pl.DataFrame, mixes: Mapping[str, str], seed: int) -> dict[str, Frontier]:
    """The compute-optimal size from the envelope of each algorithm's curves, if it has three sizes."""
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
    """Scores of the largest encoder on most images of the main mix by algorithm and task, mean over seeds."""
    rows = scored.join(_pairs(mixes), on=["algorithm", "mix"], how="semi")
    key = ["algorithm", "task"]
    for size in ("images", "params_encoder"):
        rows = rows.filter(pl.col(size) == pl.col(size).max().over(key))
    numbers = [name for name, kind in rows.schema.items() if kind.is_numeric() and name not in key]
    return rows.group_by(*key, "mix", "model").agg(pl.col(numbers).mean()).sort("task", "algorithm")


def mix_rows(scored: pl.DataFrame) -> pl.DataFrame:
    """Scores of two or more mixes at one pair of encoder and number of images, mean over seeds.

    The pair is the one with most mixes, then the largest. Empty if every pair has a single mix.
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
    """Factors of each algorithm and task; headroom is 1 - AUC of the smallest encoder on most images."""
    parts = []
    for algorithm, mix in mixes.items():
        rows = scored.filter(pl.col("algorithm") == algorithm, pl.col("mix") == mix)
        rows = rows.filter(pl.col("images") == pl.col("images").max())
        rows = rows.filter(pl.col("params_encoder") == pl.col("params_encoder").min())
        headroom = rows.group_by("task").agg(headroom=1 - pl.col("auc").mean())
        joined = described.join(headroom, on="task", how="full", coalesce=True)
        parts.append(joined.with_columns(group=pl.lit(algorithm)))
    empty = described.clear().with_columns(headroom=pl.lit(None, pl.Float64), group=pl.lit("", pl.String))
    return pl.concat(parts, how="diagonal").sort("group", "task") if parts else empty


def _main_slopes(rows: Sequence[Slope], mixes: Mapping[str, str], value: str) -> pl.DataFrame:
    table = slopes.slope_table(rows).filter(pl.col("value") == value, pl.col("axis") == "params_encoder")
    return table.join(_pairs(mixes), on=["algorithm", "mix"], how="semi").with_columns(
        group=pl.col("algorithm")
    )


def _pairs(mixes: Mapping[str, str]) -> pl.DataFrame:
    return pl.DataFrame(list(mixes.items()), schema={"algorithm": pl.String, "mix": pl.String}, orient="row")
