"""The scaling benefit of each task, by definition, axis and group, with its standard error.

A benefit is the slope of a score along log(axis), at fixed other axes. Its definition matters: a score
near 1 cannot rise much in log AUC and can still halve its error. Every definition is therefore computed
and none is mixed with another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from orch_analysis.tasks.slopes import HELD, between_noise, held_fixed

GROUP = ("algorithm", "mix", "protocol")
LEAST = 3  # distinct values of an axis for a benefit with a standard error


@dataclass(frozen=True, slots=True, kw_only=True)
class Benefit:
    """One definition of the scaling benefit.

    of:       a positive function of the AUC whose logarithm is the score; the benefit
              is d log(of) / d log(axis)
    per_auc:  d log(of) / d AUC, which turns the standard error of an AUC into that of the score
    """

    name: str
    label: str
    of: Callable[[pl.Expr], pl.Expr]
    per_auc: Callable[[pl.Expr], pl.Expr]


BENEFITS: Mapping[str, Benefit] = {
    one.name: one
    for one in (
        Benefit(name="log_auc", label="log AUC", of=lambda a: a, per_auc=lambda a: 1 / a),
        Benefit(
            name="log_error", label="−log(1 − AUC)", of=lambda a: 1 / (1 - a), per_auc=lambda a: 1 / (1 - a),
        ),
        Benefit(
            name="logit_auc", label="logit AUC",
            of=lambda a: a / (1 - a), per_auc=lambda a: 1 / (a * (1 - a)),
        ),
    )
}  # fmt: skip
COLUMNS = {
    **dict.fromkeys((*GROUP, "task", "benefit", "axis"), pl.String),
    "net": pl.Boolean,
    **dict.fromkeys(("effect", "se", "lo", "hi", "per_doubling"), pl.Float64),
    **dict.fromkeys(("n", "units"), pl.Int64),
}


def task_benefits(scores: pl.DataFrame, axes: Sequence[str]) -> pl.DataFrame:
    """Every benefit of every group and task along every axis: a row each, columns `COLUMNS`.

    scores: columns task, auc (between 0 and 1), the axes, and where they exist algorithm, mix, protocol,
            auc_se (standard error of the test set), control (AUC of the untrained encoder of the same shape),
            and what is to be held fixed

    effect is the slope, se its standard error: the larger of the one from the scatter of the runs (seeds
    included) and the one from the test set, so that points that happen to lie on a line do not count as
    exact. lo and hi are the t interval of the scatter alone. net is True for the benefit relative to the
    control's. A group and task without 3 values of the axis, or without scatter to estimate an error from,
    has no row.
    """
    if "auc" not in scores.columns:
        return pl.DataFrame(schema=COLUMNS)
    missing = [name for name in GROUP if name not in scores.columns]
    table = scores.with_columns(pl.lit("").alias(name) for name in missing)
    table = table.filter(pl.col("auc").is_between(0, 1, closed="none"))
    keys = [*GROUP, "task"]
    rows = []
    for key, part in table.sort(keys).group_by(keys, maintain_order=True):
        group = dict(zip(keys, (str(word or "") for word in key), strict=True))
        for axis in axes:
            for benefit in BENEFITS.values():
                for net in (False, True):
                    rows += _benefit(part, axis, benefit, group, net=net)
    return pl.DataFrame(rows, schema=COLUMNS)


def _benefit(
    part: pl.DataFrame, axis: str, benefit: Benefit, group: Mapping[str, str], *, net: bool
) -> list[dict[str, object]]:
    score = benefit.of(pl.col("auc"))
    needed = [pl.col(axis) > 0]
    if net:
        if "control" not in part.columns:
            return []
        needed.append(pl.col("control").is_between(0, 1, closed="none"))
        score = score / benefit.of(pl.col("control"))
    from scipy.special import stdtrit

    rows = part.filter(*needed).with_columns(score=score)
    if rows[axis].n_unique() < LEAST:
        return []
    others = [
        name for name in HELD.get(axis, ()) if name in rows.columns and (rows[name].fill_null(0) > 0).all()
    ]
    held = held_fixed(rows, axis, others)
    logs = np.log(rows[axis].to_numpy())
    fixed = np.log(rows.select(held).to_numpy()) if held else np.zeros((rows.height, 0))
    design = np.column_stack([np.ones(rows.height), logs - logs.mean(), fixed - fixed.mean(axis=0)])
    values = np.log(rows["score"].to_numpy())
    coefficients = np.linalg.lstsq(design, values)[0]
    units, unit = np.unique(logs, return_inverse=True)
    noise, dof = between_noise(values - design @ coefficients, unit, fixed)
    if not noise > 0:
        return []
    effect = float(coefficients[1])
    scatter = noise * math.sqrt(float(np.linalg.inv(design.T @ design)[1, 1]))
    half = float(stdtrit(dof, 0.975)) * scatter
    return [
        {
            **group,
            "benefit": benefit.name,
            "axis": axis,
            "net": net,
            "effect": effect,
            "se": max(scatter, _test_set_error(rows, axis, benefit)),
            "lo": effect - half,
            "hi": effect + half,
            "per_doubling": effect * math.log(2),
            "n": rows.height,
            "units": units.size,
        }
    ]


def _test_set_error(rows: pl.DataFrame, axis: str, benefit: Benefit) -> float:
    """The slope's standard error from the test sets' errors, independent between cells; 0 if unknown."""
    if "auc_se" not in rows.columns or rows["auc_se"].null_count():
        return 0.0
    errors = rows.select(pl.col("auc_se") * benefit.per_auc(pl.col("auc"))).to_series().to_numpy()
    logs = np.log(rows[axis].to_numpy())
    weights = (logs - logs.mean()) / float(((logs - logs.mean()) ** 2).sum())
    return float(np.sqrt(((weights * errors) ** 2).sum()))
