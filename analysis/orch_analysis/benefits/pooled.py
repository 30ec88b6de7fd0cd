"""The scaling benefits of a set of tasks as a whole: pooled, for a new task, and beside the factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from orch_analysis.benefits.meta_analysis import meta_regression
from orch_analysis.benefits.moderators import SPECIFICATION, moderators, specification_curve
from orch_analysis.benefits.task_benefits import GROUP, task_benefits

LEAST_TASKS = 3
POOLED = {
    **dict.fromkeys((*GROUP, "benefit", "axis"), pl.String),
    "net": pl.Boolean,
    "tasks": pl.Int64,
    **dict.fromkeys(
        ("mean", "se", "lo", "hi", "p", "tau", "i2", "q", "q_p", "prediction_lo", "prediction_hi"), pl.Float64
    ),
}  # fmt: skip
MODERATOR_KEYS = ("factor", "per_sd", "lo", "hi", "p", "p_permutation", "share_of_specifications")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenefitAnalysis:
    """Scaling benefits with everything that they support.

    tasks:          `task_benefits`, with `shrunken`, `shrunken_lo`, `shrunken_hi` (95%)
                    pulled to the group's mean
    pooled:         a row per group, definition and axis, columns `POOLED`
    moderators:     columns `MODERATORS`, and `share_of_specifications`: the share of all specifications of
                    the factor in which its effect has the same sign and p < .05
    specifications: a row per factor; curve: a row per factor and specification
    """

    tasks: pl.DataFrame
    pooled: pl.DataFrame
    moderators: pl.DataFrame
    specifications: pl.DataFrame
    curve: pl.DataFrame

    def tables(self) -> dict[str, pl.DataFrame]:
        """The tables of a report by name."""
        return {
            "benefits": self.pooled,
            "task_benefits": self.tasks,
            "moderators": self.moderators,
            "specifications": self.specifications,
        }

    def along(self, axis: str) -> BenefitAnalysis:
        """The benefits along one axis, relative to the control where that is known; specifications stay."""
        net = bool(self.pooled.filter(pl.col("axis") == axis)["net"].any())
        same = (pl.col("axis") == axis) & (pl.col("net") == net)
        kept = {name: getattr(self, name).filter(same) for name in ("tasks", "pooled", "moderators")}
        return replace(self, **kept)

    def of_mixes(self, mixes: Mapping[str, str]) -> BenefitAnalysis:
        """The benefits of one mix of each algorithm; specifications stay."""
        pairs = pl.DataFrame(
            list(mixes.items()), schema={"algorithm": pl.String, "mix": pl.String}, orient="row"
        )
        kept = {
            name: getattr(self, name).join(pairs, on=["algorithm", "mix"], how="semi", maintain_order="left")
            for name in ("tasks", "pooled", "moderators")
        }
        return replace(self, **kept)

    def to_json(self) -> list[dict[str, Any]]:
        """One entry per group, definition and axis with its moderators (`benefits` of laws.schema.json)."""
        entries = []
        for row in self.pooled.iter_rows(named=True):
            same = [pl.col(key) == row[key] for key in SPECIFICATION]
            beside = self.moderators.filter(*same).select(MODERATOR_KEYS).to_dicts()
            entries.append({**row, "moderators": beside})
        return entries


def benefit_analysis(
    scores: pl.DataFrame, axes: Sequence[str], factors: pl.DataFrame, names: Sequence[str], *, seed: int = 0
) -> BenefitAnalysis:
    """Benefits of every task, pooled over tasks, beside the factors `names` (columns of `factors`, by task).

    scores: as in `task_benefits`. Groups with fewer than 3 tasks are not pooled, with
    fewer than 4 not moderated.
    """
    tasks = task_benefits(scores, axes)
    pooled, shrunken = _pool(tasks)
    beside = moderators(tasks, factors, names, seed=seed)
    specifications, curve = specification_curve(tasks, factors, names, seed=seed)
    share = specifications.select("factor", "share_significant", "share_significant_positive")
    positive = pl.col("share_significant_positive")
    joined = beside.join(share, on="factor", how="left").with_columns(
        share_of_specifications=pl.when(pl.col("per_sd") > 0)
        .then(positive)
        .otherwise(pl.col("share_significant") - positive)
    )
    return BenefitAnalysis(
        tasks=shrunken,
        pooled=pooled,
        moderators=joined.drop("share_significant", "share_significant_positive"),
        specifications=specifications,
        curve=curve,
    )


def _pool(tasks: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows `POOLED`, and the tasks' benefits with shrunken values (null in groups that are not pooled)."""
    rows, parts = [], []
    for key, part in tasks.group_by(SPECIFICATION, maintain_order=True):
        if part.height < LEAST_TASKS:
            parts.append(part)
            continue
        found = meta_regression(part["effect"].to_numpy(), part["se"].to_numpy())
        low, high = found.prediction([1.0])
        rows.append(
            {
                **dict(zip(SPECIFICATION, key, strict=True)),
                "tasks": part.height,
                **{name: float(getattr(found, name)[0]) for name in ("se", "lo", "hi", "p")},
                **{name: getattr(found, name) for name in ("tau", "i2", "q", "q_p")},
                "mean": float(found.beta[0]),
                "prediction_lo": low,
                "prediction_hi": high,
            }
        )
        half = _quantile(found.level) * found.shrunken_se
        ends = {
            "shrunken": found.shrunken,
            "shrunken_lo": found.shrunken - half,
            "shrunken_hi": found.shrunken + half,
        }
        parts.append(part.with_columns(pl.Series(name, np.asarray(values)) for name, values in ends.items()))
    empty = tasks.clear().with_columns(
        pl.lit(None, pl.Float64).alias(name) for name in ("shrunken", "shrunken_lo", "shrunken_hi")
    )
    return pl.DataFrame(rows, schema=POOLED), pl.concat([empty, *parts], how="diagonal")


def _quantile(level: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + level / 2)
