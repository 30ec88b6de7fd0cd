"""Correlations over a few tasks, with intervals and corrected p-values.

With 4 to 12 tasks an r of .5 is weak evidence. Each r therefore has a Fisher interval, a bootstrap interval,
a p by permutation, a p corrected for the whole family (Holm; Benjamini-Hochberg), and its range if one task
is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from itertools import permutations

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
EXACT = 7  # tasks up to which all n! permutations are computed
SHUFFLES = 9999
RESAMPLES = 2000
MANY = 100  # tasks above which the random orders are not kept for the next factor
PART = 1_000_000  # numbers of random orders or resamples that are held at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """Correlation of a slope with a factor over n tasks; a number is None if n is too small for it.

    pearson_lo/hi: 95% by Fisher's z (n >= 4); spearman_lo/hi: by Bonett & Wright 2000; *_boot_*: percentile
    bootstrap over tasks; p: t test of r = 0; p_permutation: two-sided, exact up to 7 tasks; p_holm, p_bh: p
    corrected over the family; loo_lo/hi: range of r if one task is left out, `loo_without` the task that
    changes it most.
    """

    group: str
    factor: str
    n: int
    pearson: float | None = None
    pearson_lo: float | None = None
    pearson_hi: float | None = None
    pearson_boot_lo: float | None = None
    pearson_boot_hi: float | None = None
    spearman: float | None = None
    spearman_lo: float | None = None
    spearman_hi: float | None = None
    p: float | None = None
    p_permutation: float | None = None
    p_spearman: float | None = None
    p_holm: float | None = None
    p_bh: float | None = None
    loo_lo: float | None = None
    loo_hi: float | None = None
    loo_without: str = ""
    note: str = ""


def correlation(
    slopes: Sequence[float],
    factor: Sequence[float],
    tasks: Sequence[str],
    *,
    group: str = "",
    name: str = "",
    level: float = 0.95,
    seed: int = 0,
) -> Correlation:
    """Correlate slopes with one factor over tasks; tasks without a slope or a factor (NaN) do not count."""
    x, y = np.asarray(factor, dtype=np.float64), np.asarray(slopes, dtype=np.float64)
    known = np.isfinite(x) & np.isfinite(y)
    x, y, names = x[known], y[known], [task for task, keep in zip(tasks, known, strict=True) if keep]
    found = Correlation(group=group, factor=name, n=len(x))
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        why = (
            f"{len(x)} tasks: a correlation needs 3" if len(x) < 3 else "the factor or the slope is constant"
        )
        return replace(found, note=why)
    from scipy import stats

    r, rho = pearson(x, y), pearson(stats.rankdata(x), stats.rankdata(y))
    lo, hi = fisher_interval(r, len(x), level)
    slo, shi = fisher_interval(rho, len(x), level, variance=1 + rho**2 / 2)
    blo, bhi = _bootstrap(x, y, level, seed)
    without = _without_one(x, y, names) if len(x) > 3 else {}
    return replace(
        found,
        pearson=r,
        pearson_lo=lo,
        pearson_hi=hi,
        pearson_boot_lo=blo,
        pearson_boot_hi=bhi,
        spearman=rho,
        spearman_lo=slo,
        spearman_hi=shi,
        p=t_test(r, len(x)),
        p_permutation=permutation_test(x, y, seed),
        p_spearman=permutation_test(stats.rankdata(x), stats.rankdata(y), seed),
        loo_lo=min(without.values(), default=None),
        loo_hi=max(without.values(), default=None),
        loo_without=max(without, key=lambda task: abs(without[task] - r), default=""),
    )


def correlate(
    slopes: pl.DataFrame, factors: pl.DataFrame, names: Sequence[str], *, seed: int = 0
) -> pl.DataFrame:
    """Correlate `slope` with every factor within every `group`, and correct p over the whole family.

    slopes: columns group, task, slope; factors: column task and one column per name, or group and task for
            factors
    that differ between groups. One row per (group, factor), columns as `Correlation`.
    """
    keys = [key for key in ("group", "task") if key in factors.columns]
    joined = slopes.join(factors, on=keys, how="left")
    rows = [
        correlation(
            part["slope"].to_list(),
            part[name].cast(pl.Float64).fill_null(math.nan).to_list(),
            part["task"].to_list(),
            group=str(group),
            name=name,
            seed=seed,
        )
        for (group,), part in joined.group_by("group", maintain_order=True)
        for name in names
    ]
    return _table(_corrected(rows))


def pearson(x: Floats, y: Floats) -> float:
    """Product-moment correlation; NaN if one of the two is constant."""
    a, b = x - x.mean(), y - y.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return min(1.0, max(-1.0, float(a @ b) / norm)) if norm else math.nan


def fisher_interval(
    r: float, n: int, level: float = 0.95, *, variance: float = 1.0
) -> tuple[float | None, float | None]:
    """Interval of a correlation by Fisher's z, atanh(r) +- q sqrt(variance / (n - 3)); None below n = 4.

    `variance` is 1 for Pearson (Fisher 1921) and 1 + rho^2 / 2 for Spearman (Bonett & Wright 2000).
    """
    if n < 4 or not abs(r) < 1:
        return None, None
    from statistics import NormalDist

    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance / (n - 3))
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def t_test(r: float, n: int) -> float:
    """Two-sided p of r = 0 for normal data: t = r sqrt((n - 2) / (1 - r^2)) with n - 2 degrees of freedom."""
    from scipy import special

    if abs(r) >= 1:
        return 0.0
    t = abs(r) * math.sqrt((n - 2) / (1 - r * r))
    return float(2 * special.stdtr(n - 2, -t))


def permutation_test(x: Floats, y: Floats, seed: int = 0) -> float:
    """Two-sided p of the absence of association: the share of reorderings of y with |r| at least as large.

    All n! reorderings up to 7 tasks, else 9,999 random ones and the observed order (Phipson & Smyth 2010).
    """
    a, b = x - x.mean(), y - y.mean()
    rounding = 1e-12 * float(np.linalg.norm(a) * np.linalg.norm(b))
    observed = abs(float(a @ b)) - rounding
    if len(x) <= EXACT:
        orders = np.array(list(permutations(range(len(x)))))
        return float(np.mean(np.abs(b[orders] @ a) >= observed))
    above = sum(int(np.sum(np.abs(part @ a) >= observed)) for part in _shuffled(b, seed))
    return (1 + above) / (1 + SHUFFLES)


def _shuffled(values: Floats, seed: int) -> Iterator[Floats]:
    """SHUFFLES random orders of the values, in parts [rows, n] that a small memory holds."""
    n = len(values)
    if n <= MANY:
        yield values[_orders(n, seed)]
        return
    stream = np.random.default_rng(seed)
    for rows in _parts(SHUFFLES, n):
        yield stream.permuted(np.tile(values, (rows, 1)), axis=1)


@lru_cache(maxsize=32)
def _orders(n: int, seed: int) -> NDArray[np.int64]:
    """SHUFFLES random orders of n tasks [SHUFFLES, n]; the same for every factor of a table."""
    return np.random.default_rng(seed).permuted(np.tile(np.arange(n), (SHUFFLES, 1)), axis=1)


def _parts(rows: int, n: int) -> Iterator[int]:
    """Numbers of rows of n numbers each, which add up to `rows` and fill `PART` numbers each at most."""
    size = max(1, PART // n)
    for first in range(0, rows, size):
        yield min(size, rows - first)


def critical_correlation(n: int, level: float = 0.95) -> float:
    """The least |r| whose Fisher interval excludes zero, tanh(q / sqrt(n - 3)) over n tasks, 1 if n < 4."""
    from statistics import NormalDist

    return math.tanh(NormalDist().inv_cdf((1 + level) / 2) / math.sqrt(n - 3)) if n > 3 else 1.0


def _without_one(x: Floats, y: Floats, names: Sequence[str]) -> dict[str, float]:
    """Pearson's r without each task in turn, unless factor or slope are then constant."""
    found = {name: pearson(np.delete(x, i), np.delete(y, i)) for i, name in enumerate(names)}
    return {name: r for name, r in found.items() if not math.isnan(r)}


def _bootstrap(x: Floats, y: Floats, level: float, seed: int) -> tuple[float | None, float | None]:
    if len(x) < 5:  # too few distinct resamples for a tail
        return None, None
    stream, products, norms = np.random.default_rng(seed), [], []
    for rows in _parts(RESAMPLES, len(x)):
        picks = stream.integers(len(x), size=(rows, len(x)))
        a, b = x[picks], y[picks]
        a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        products.append((a * b).sum(1))
        norms.append(np.sqrt((a * a).sum(1) * (b * b).sum(1)))
    product, norm = np.concatenate(products), np.concatenate(norms)
    good = norm > 1e-12 * norm.max()
    draws = product[good] / norm[good]
    lo, hi = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(lo), float(hi)


def _corrected(rows: Sequence[Correlation]) -> list[Correlation]:
    """Holm's family-wise p and Benjamini-Hochberg's false-discovery p over all tests with a p."""
    tested = [i for i, row in enumerate(rows) if row.p is not None]
    if not tested:
        return list(rows)
    from statsmodels.stats.multitest import multipletests

    raw = [rows[i].p for i in tested]
    holm, bh = (multipletests(raw, method=method)[1] for method in ("holm", "fdr_bh"))
    result = list(rows)
    for at, i in enumerate(tested):
        result[i] = replace(rows[i], p_holm=float(holm[at]), p_bh=float(bh[at]))
    return result


def _table(rows: Sequence[Correlation]) -> pl.DataFrame:
    words = {"group", "factor", "loo_without", "note"}
    types: Mapping[str, type[pl.DataType]] = {
        field.name: pl.String if field.name in words else pl.Int64 if field.name == "n" else pl.Float64
        for field in fields(Correlation)
    }
    return pl.DataFrame([asdict(row) for row in rows], schema=dict(types))
