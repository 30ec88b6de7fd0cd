"""Which properties of a task go with its scaling benefit, and how much of that depends on its definition.

A moderator is tested by meta-regression of the benefits of one group (algorithm, mix, protocol), definition
and axis on the standardised factor. The specification curve (Simonsohn, Simmons and Nelson 2020, Nature Human
Behaviour 4:1208) repeats that over every definition, axis, group and leave-one-task-out; its joint test
compares the median score with that under permutations of the tasks. All benefits of a task move together,
because they come from the same images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orch_analysis.benefits.meta_analysis import Floats, MetaRegression, between_variance, meta_regression
from orch_analysis.benefits.task_benefits import GROUP

SHUFFLES = 1999
LEAST_TASKS = 4  # below, a line through the tasks leaves fewer than two degrees of freedom
SPECIFICATION = (*GROUP, "benefit", "axis", "net")
MODERATORS = {
    **dict.fromkeys((*GROUP, "benefit", "axis"), pl.String),
    "net": pl.Boolean,
    "factor": pl.String,
    **dict.fromkeys(("per_sd", "lo", "hi", "p", "p_permutation"), pl.Float64),
    "tasks": pl.Int64,
}
SPECIFICATIONS = {
    "factor": pl.String,
    **dict.fromkeys(("specifications", "tasks"), pl.Int64),
    **dict.fromkeys(
        ("share_positive", "share_significant", "share_significant_positive", "median_score", "p_joint"),
        pl.Float64,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification:
    """The benefits of one group, definition and axis beside one factor: effects, errors, factor, tasks [k].

    kept [k]: False for the task that is left out
    """

    key: tuple[object, ...]
    effects: Floats
    errors: Floats
    factor: Floats
    tasks: NDArray[np.str_]
    kept: NDArray[np.bool_]

    @property
    def left_out(self) -> str:
        """The task that is left out, if any."""
        return "".join(self.tasks[~self.kept])


def moderators(
    benefits: pl.DataFrame, factors: pl.DataFrame, names: Sequence[str], *, seed: int = 0
) -> pl.DataFrame:
    """The change of every benefit per standard deviation of every factor: a row each, columns `MODERATORS`.

    benefits: rows of `task_benefits`; factors: column task and `names`, and the columns of
              GROUP a factor differs by
    lo, hi, p are Knapp and Hartung's; p_permutation is that of the tasks' order, two-sided.
    """
    rows = []
    for name in names:
        for one in _specifications(benefits, factors, name):
            found = _per_sd(one)
            rows.append(
                {
                    **dict(zip(SPECIFICATION, one.key, strict=True)),
                    "factor": name,
                    "per_sd": found.beta[1],
                    "lo": found.lo[1],
                    "hi": found.hi[1],
                    "p": found.p[1],
                    "p_permutation": _permutation_p([one], seed),
                    "tasks": one.factor.size,
                }
            )
    return pl.DataFrame(rows, schema=MODERATORS)


def specification_curve(
    benefits: pl.DataFrame, factors: pl.DataFrame, names: Sequence[str], *, seed: int = 0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """How every factor fares over all specifications: a row per factor, and a row per specification of each.

    A specification is a group, definition, axis, and all tasks or all but one. share_positive: share of
    specifications in which the benefit grows with the factor; share_significant: with p < .05
    (meta-regression); p_joint: of the median score under permutations of the tasks.
    """
    summary, curve = [], []
    for name in names:
        found = [
            part for one in _specifications(benefits, factors, name) for part in (one, *_without_each(one))
        ]
        if not found:
            continue
        regressions = [_per_sd(one) for one in found]
        per_sd, p = (np.array([getattr(one, name)[1] for one in regressions]) for name in ("beta", "p"))
        scores = np.array([_score(one, one.factor[None, :])[0] for one in found])
        significant = p < 0.05
        summary.append(
            {
                "factor": name,
                "specifications": len(found),
                "tasks": max(one.factor.size for one in found),
                "share_positive": float((per_sd > 0).mean()),
                "share_significant": float(significant.mean()),
                "share_significant_positive": float((significant & (per_sd > 0)).mean()),
                "median_score": float(np.median(scores)),
                "p_joint": _permutation_p(found, seed),
            }
        )
        curve += [
            {
                **dict(zip(SPECIFICATION, one.key, strict=True)),
                "factor": name,
                "left_out": one.left_out,
                "score": float(score),
                "p": float(value),
            }
            for one, score, value in zip(found, scores, p, strict=True)
        ]
    words = dict.fromkeys((*GROUP, "benefit", "axis"), pl.String)
    rest = {"factor": pl.String, "left_out": pl.String, "score": pl.Float64, "p": pl.Float64}
    return pl.DataFrame(summary, schema=SPECIFICATIONS), pl.DataFrame(
        curve, schema={**words, "net": pl.Boolean, **rest}
    )


def _specifications(benefits: pl.DataFrame, factors: pl.DataFrame, name: str) -> Iterator[Specification]:
    """Every group, definition and axis in which enough tasks have the factor, in different values."""
    keys = [key for key in (*GROUP, "task") if key in factors.columns]
    known = factors.select(*keys, pl.col(name).cast(pl.Float64).alias("factor")).filter(
        pl.col("factor").is_finite()
    )
    joined = benefits.join(known, on=keys, how="inner").sort(*SPECIFICATION, "task")
    for key, part in joined.group_by(SPECIFICATION, maintain_order=True):
        if part.height >= LEAST_TASKS and part["factor"].n_unique() > 1:
            yield Specification(
                key=key,
                effects=part["effect"].to_numpy(),
                errors=part["se"].to_numpy(),
                factor=part["factor"].to_numpy(),
                tasks=np.array(part["task"].to_list()),
                kept=np.ones(part.height, dtype=bool),
            )


def _without_each(one: Specification) -> Iterator[Specification]:
    for index in range(one.factor.size if one.factor.size > LEAST_TASKS else 0):
        kept = np.arange(one.factor.size) != index
        if np.ptp(one.factor[kept]) > 0:
            yield replace(one, kept=kept)


def _per_sd(one: Specification) -> MetaRegression:
    """Regress on the standardised factor over the kept tasks; its effect is the second coefficient."""
    factor = one.factor[one.kept]
    scaled = (factor - factor.mean()) / float(np.std(factor, ddof=1))
    return meta_regression(
        one.effects[one.kept], one.errors[one.kept], np.column_stack([np.ones(scaled.size), scaled])
    )


def _score(one: Specification, factors: Floats) -> Floats:
    """Signed score statistics [n] of orders of the factor [n, k] beside a mean, with tau of the mean alone.

    sum_i w_i (x_i - xbar)(y_i - ybar) / sqrt(sum_i w_i (x_i - xbar)^2) with w_i = 1 / (se_i^2 + tau^2). No
    order needs a fit of its own, which is what makes permutations of hundreds of specifications cheap.
    """
    tau2 = between_variance(one.effects[one.kept], one.errors[one.kept])
    w = np.where(one.kept, 1 / (one.errors**2 + tau2), 0.0)
    y = one.effects - float(w @ one.effects) / float(w.sum())
    x = factors - (factors @ w)[:, None] / w.sum()
    norm = np.sqrt((x * x) @ w)
    return np.asarray(np.divide(x @ (w * y), norm, out=np.zeros_like(norm), where=norm > 0))


def _permutation_p(found: Sequence[Specification], seed: int) -> float:
    """Two-sided p of the median score over specifications: share of orders of the tasks at least as extreme.

    The observed order is counted in (Phipson and Smyth 2010). One order of the tasks applies to all
    specifications; one that lacks some tasks gets the order of those that it has.
    """
    tasks = np.unique(np.concatenate([one.tasks for one in found]))
    orders = np.tile(np.arange(tasks.size), (1 + SHUFFLES, 1))
    orders[1:] = np.random.default_rng(seed).permuted(orders[1:], axis=1)
    ranks: dict[tuple[str, ...], NDArray[np.intp]] = {}
    scores = []
    for one in found:
        own = tuple(one.tasks)
        if own not in ranks:
            ranks[own] = orders[:, np.searchsorted(tasks, one.tasks)].argsort(axis=1).argsort(axis=1)
        scores.append(_score(one, one.factor[ranks[own]]))
    median = np.abs(np.median(scores, axis=0))
    return float(np.mean(median >= median[0] * (1 - 1e-12)))
