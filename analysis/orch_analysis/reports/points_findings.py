"""The numbers of the report of a table of points: slopes along one or two axes, and task factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from orch_analysis.benefits.pooled import BenefitAnalysis, benefit_analysis
from orch_analysis.fitting.estimates import Fit
from orch_analysis.fitting.fit import fit as fit_law
from orch_analysis.fitting.options import FitOptions
from orch_analysis.fitting.points import ROW, Points
from orch_analysis.fitting.used_rows.variables import as_numbers, with_derived
from orch_analysis.forecast.groups import groups
from orch_analysis.tasks import correlation
from orch_analysis.tasks.factors import chosen_factors, in_order, varying_factors
from orch_analysis.tasks.slopes import TASK_KEYS, Slope, group_labels, slope_table

SCORES = ("auc", "accuracy")  # values with a ceiling of 1
OTHER = {"params": "params_encoder", "params_encoder": "params"}  # the axis that a slope is compared with
HEADROOM = "headroom"


@dataclass(frozen=True, slots=True, kw_only=True)
class PointsFindings:
    """Every number of the report of a table of points.

    frame: the rows that the fits used; axes: per x axis the fits' slopes, the axis asked for first; slopes:
    those of the first axis as a table with their `group`; factors: columns group, task and `names`;
    correlations: of slopes and factors; benefits: of a score out of 1 in tasks, else None.
    """

    points: Points
    frame: pl.DataFrame
    fits: Sequence[Fit]
    value: str
    axes: Mapping[str, Sequence[Slope]]
    slopes: pl.DataFrame
    factors: pl.DataFrame
    names: Sequence[str]
    correlations: pl.DataFrame
    benefits: BenefitAnalysis | None

    @property
    def benefit_axis(self) -> str:
        """The axis of the benefits in the answers: what is probed where the table has it, else the first."""
        return "params_encoder" if "params_encoder" in self.axes else next(iter(self.axes), "")


def points_findings(points: Points, fits: Sequence[Fit], wanted: Sequence[str], seed: int) -> PointsFindings:
    """Slopes along the axis asked for and its alternative, and their correlations with factors in the table.

    wanted: names of the factors to use; without any, every numeric column with one value per task is a
            factor.
    Raises OrchError for a wanted factor that the table does not have.
    """
    frame = _used(points.frame, fits)
    first = _slopes(fits)
    axes = {first[0].axis: first} if first else {}
    if first and (other := OTHER.get(first[0].axis)) in frame.columns:
        axes[str(other)] = _slopes(_refits(frame, [row.fit for row in first], first[0].value, str(other)))
    table = _grouped_slopes(first)
    factors = _factors(frame, table, fits, wanted) if first and any(row.task for row in first) else table
    names = varying_factors(
        factors, [name for name in in_order(factors.columns) if name not in table.columns]
    )
    return PointsFindings(
        points=points,
        frame=frame,
        fits=fits,
        value=fits[0].value,
        axes=axes,
        slopes=table,
        factors=factors,
        names=names,
        correlations=correlation.correlate(table, factors, names, seed=seed),
        benefits=_benefits(frame, fits, list(axes), factors, names, seed) if first else None,
    )


def _benefits(
    frame: pl.DataFrame,
    fits: Sequence[Fit],
    axes: Sequence[str],
    factors: pl.DataFrame,
    names: Sequence[str],
    seed: int,
) -> BenefitAnalysis | None:
    """The scaling benefits of the tasks of a table whose value is a score out of 1; None for other tables."""
    value, group = fits[0].value, fits[0].group
    tasks = [key for key in TASK_KEYS if key in group and key in frame.columns]
    if value not in SCORES or not tasks or frame[value].max() > 1:  # type: ignore[operator]
        return None
    others = [key for key in group if key not in {*TASK_KEYS, "mix"} and key in frame.columns]
    scores = frame.with_columns(
        auc=pl.col(value),
        task=pl.concat_str(pl.col(tasks).cast(pl.String), separator=" · "),
        algorithm=pl.concat_str(pl.col(others).cast(pl.String), separator=" · ") if others else pl.lit(""),
    )
    found = benefit_analysis(scores, axes, factors, names, seed=seed)
    return found if found.pooled.height else None


def _used(frame: pl.DataFrame, fits: Sequence[Fit]) -> pl.DataFrame:
    """The rows that the fits used, with derived columns, and with numbers in the columns that they read."""
    distinct: list[FitOptions] = []
    for fit in fits:
        if fit.options not in distinct:
            distinct.append(fit.options)
            frame = with_derived(frame, fit.options)
    if ROW in frame.columns:
        left_out = sorted({item.row for fit in fits for item in fit.dropped})
        frame = frame.filter(~pl.col(ROW).is_in(left_out)).drop(ROW)
    read = {str(name) for fit in fits for name in (fit.value, *fit.x.values())} & set(frame.columns)
    return frame.with_columns(pl.Series(name, as_numbers(frame, name)) for name in sorted(read))


def _factors(
    frame: pl.DataFrame, slopes: pl.DataFrame, fits: Sequence[Fit], wanted: Sequence[str]
) -> pl.DataFrame:
    """The factors of every group and task: columns of the table, and the headroom of a score."""
    keys = [key for key in TASK_KEYS if key in fits[0].group and key in frame.columns]
    tasks = frame.with_columns(task=pl.concat_str(pl.col(keys).cast(pl.String), separator=" · "))
    names = factor_columns(tasks, fits)
    headroom = _headroom(tasks, fits[0])
    available = [*names, *([HEADROOM] if headroom is not None else [])]
    chosen = chosen_factors(wanted, available) or available
    per_task = tasks.group_by("task", maintain_order=True).agg(
        pl.col(name).drop_nulls().first() for name in names if name in chosen
    )
    found = slopes.select("group", "algorithm", "mix", "task").join(per_task, on="task", how="left")
    if headroom is None or HEADROOM not in chosen:
        return found
    return found.join(headroom, on=[key for key in headroom.columns if key != HEADROOM], how="left")


def factor_columns(tasks: pl.DataFrame, fits: Sequence[Fit]) -> list[str]:
    """Numeric columns with one value per `task` that differ between tasks and that no fit reads."""
    read = {str(name) for fit in fits for name in (fit.value, *fit.x.values(), *fit.group)}
    asked = [fit.options for fit in fits]
    read |= {name for one in asked for name in (one.value, one.weights, one.stderr, one.cluster) if name}
    numeric = [
        name for name, kind in tasks.schema.items() if kind.is_numeric() and name not in {*read, "task", ROW}
    ]
    counts = tasks.group_by("task").agg(pl.col(name).drop_nulls().n_unique() for name in numeric)
    return [name for name in numeric if counts[name].max() == 1 and tasks[name].drop_nulls().n_unique() > 1]


def _headroom(tasks: pl.DataFrame, fit: Fit) -> pl.DataFrame | None:
    """1 - the score at the smallest scale, per algorithm, mix and task; None if `value` is not a score."""
    axis, value = str(next(iter(fit.x.values()))), fit.value
    if value not in SCORES or not ((tasks[value] > 0) & (tasks[value] <= 1)).all():
        return None
    keys = ["task", *(key for key in ("algorithm", "mix") if key in fit.group and key in tasks.columns)]
    return tasks.sort(axis).group_by(keys, maintain_order=True).agg(headroom=1 - pl.col(value).first())


def _grouped_slopes(rows: Sequence[Slope]) -> pl.DataFrame:
    """Slopes with the group that correlations are taken in: algorithm and mix."""
    mix = pl.when(pl.col("mix") != "").then(pl.concat_str(pl.lit(" · "), "mix")).otherwise(pl.lit(""))
    known = slope_table(rows).filter(pl.col("slope").is_not_null())
    return known.with_columns(group=pl.concat_str("algorithm", mix))


def _slopes(fits: Sequence[Fit]) -> list[Slope]:
    """The power laws among the fits as slopes; their column is the axis."""
    return [
        Slope(
            **group_labels(fit.group),
            value=fit.value,
            axis=str(next(iter(fit.x.values()))),
            held=(),
            units=fit.n,
            fit=fit,
        )
        for fit in fits
        if fit.law.name == "power" and len(fit.x) == 1
    ]


def _refits(frame: pl.DataFrame, fits: Sequence[Fit], value: str, axis: str) -> list[Fit]:
    """The power laws of the same groups along another axis."""
    options, by = (
        FitOptions(value=value, x={axis: axis}),
        [key for key in fits[0].group if key in frame.columns],
    )
    parts = {tuple(group.values()): part.frame for group, part in groups(Points(frame=frame), by)}
    rows = (parts.get(tuple(one.group[key] for key in by), frame.clear()) for one in fits)
    return [fit_law("power", part, options, group=one.group) for one, part in zip(fits, rows, strict=True)]
