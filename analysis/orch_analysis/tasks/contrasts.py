"""Differences in test AUC between two values of one axis, over cells that are equal in everything else.

A slope needs an ordered axis of three values or more. Algorithms, mixes, resolutions, and sizes with two
values are therefore compared pair by pair. The interval is Student's t over the mean differences of the
tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import polars as pl

from orch_analysis.tables import CONTROLS
from orch_analysis.tasks.slopes import AXES, LEVELS, tied
from orch_core.formatting import count

CELL = ("algorithm", "mix", "model", "images", "samples_seen", "resolution", "patch", "seed")
CATEGORIES = ("algorithm", "mix", "resolution")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """AUC at `second` minus AUC at `first`, two values of `axis`.

    tasks: mean difference of each task; pairs: number of pairs of cells per task that differ in this axis
           alone; mean:
    over tasks, with its 95% t interval (None for one task).
    """

    axis: str
    first: str
    second: str
    tasks: Mapping[str, float]
    pairs: int
    mean: float
    interval: tuple[float, float] | None

    @property
    def differs(self) -> bool:
        """True if the interval excludes zero."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def contrasts(scored: pl.DataFrame) -> list[Contrast]:
    """Contrasts between all values of algorithm, mix and resolution, and of sizes that take only two values.

    scored: rows of `slopes.with_controls`. Pairs of values without a pair of cells give no contrast.
    """
    trained = scored.filter(~pl.col("algorithm").is_in(CONTROLS), pl.col("auc").is_not_null())
    sizes = [axis for axis in AXES if axis != "flops_train" and 1 < trained[axis].n_unique() < LEVELS]
    found = []
    for axis in (*CATEGORIES, *sizes):
        levels = trained[axis].drop_nulls().unique().sort().to_list()
        found += [_contrast(trained, axis, *pair) for pair in combinations(levels, 2)]
    return [one for one in found if one is not None]


def contrast_table(rows: Sequence[Contrast]) -> pl.DataFrame:
    """One row per contrast and task: axis, first, second, task, difference, mean and interval, pairs."""
    found = [
        {
            "axis": row.axis,
            "first": row.first,
            "second": row.second,
            "task": task,
            "difference": difference,
            "mean": row.mean,
            "lo": row.interval and row.interval[0],
            "hi": row.interval and row.interval[1],
            "pairs": row.pairs,
        }
        for row in rows
        for task, difference in row.tasks.items()
    ]
    words = dict.fromkeys(("axis", "first", "second", "task"), pl.String)
    numbers = dict.fromkeys(("difference", "mean", "lo", "hi"), pl.Float64)
    return pl.DataFrame(found, schema={**words, **numbers, "pairs": pl.Int64})


def _contrast(table: pl.DataFrame, axis: str, first: object, second: object) -> Contrast | None:
    varying = {axis, "model"} if axis == "params_encoder" else {axis}
    if axis == "images" and tied(table):
        varying.add("samples_seen")
    keys = ["task", *(name for name in CELL if name not in varying)]
    sides = (table.filter(pl.col(axis) == level).select(*keys, "auc") for level in (first, second))
    pairs = next(sides).join(next(sides), on=keys, suffix="_second", nulls_equal=True)
    if pairs.is_empty():
        return None
    means = pairs.group_by("task").agg(difference=(pl.col("auc_second") - pl.col("auc")).mean()).sort("task")
    differences = means["difference"].to_list()
    names = (f"{level}" if isinstance(level, str) else count(float(str(level))) for level in (first, second))
    return Contrast(
        axis=axis, first=next(names), second=next(names), tasks=dict(means.iter_rows()),
        pairs=pairs.height // means.height, mean=sum(differences) / len(differences),
        interval=_t_interval(differences),
    )  # fmt: skip


def _t_interval(values: list[float]) -> tuple[float, float] | None:
    from scipy.special import stdtrit

    n, mean = len(values), sum(values) / len(values)
    if n < 2:
        return None
    sd = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)
    return mean - half, mean + half
