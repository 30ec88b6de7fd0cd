"""Forecast L(N, D) beyond the largest runs: the Chinchilla law fitted to the end of the table.

The law is an approximation, and the runs near the target show best which member of the family holds there:
weights (C / C_max)^tail with C = N D, as steep as leaves the law's five parameters enough runs, at most to the fourth
power. On the published tables in `tests/data/laws` (15 tables; the runs beyond a quarter, an eighth and a sixteenth of
the largest compute held back) the error is .36 of that of the usual Huber fit, geometric mean; tails 2 and 4 whatever
the number of runs give .46 (`tests/bench/bench_joint.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from orch_analysis.fitting.fit import Fit, fit
from orch_analysis.fitting.usable import ROW
from orch_analysis.forecast.one_variable import Forecast
from orch_analysis.forecast.shapes import Floats
from orch_analysis.laws import LAWS

STEEPEST = 4.0
ENOUGH = 1.5  # effective runs (Kish 1965: (sum w)^2 / sum w^2) per parameter of the law, at least


def tail_weights(compute: Floats, tail: float) -> Floats:
    """(C / C_max)^tail, for `fit(..., weights=...)`; never below 1e-12, which would be no weight at all."""
    largest = compute.max(initial=0.0) or 1.0
    return np.asarray(np.maximum((compute / largest) ** tail, 1e-12))


def tail_of(compute: Floats) -> float:
    """The steepest tail, 0 to 4, that leaves `ENOUGH` effective runs for each of the law's parameters."""
    needed = ENOUGH * len(LAWS["chinchilla"].params)
    tails = np.linspace(0.0, STEEPEST, 81)
    sizes = [weights.sum() ** 2 / (weights**2).sum() for weights in (tail_weights(compute, t) for t in tails)]
    return float(max((tail for tail, size in zip(tails, sizes, strict=True) if size >= needed), default=0.0))


def forecast(
    table: pl.DataFrame,
    *,
    value: str,
    x: Mapping[str, str],
    at: Sequence[tuple[float, float]],
    level: float = 0.9,
    bootstrap: int = 200,
    seed: int = 0,
) -> Forecast:
    """Predict the loss at pairs (params, samples); `Forecast.at` holds their compute 6 N D.

    x names the columns of params and samples, value the column of a loss or error. The band joins, in ln loss, the
    distance of the fits with half the tail and without one (which shows a law that does not hold), the spread of the
    former's bootstrap draws, and the residual noise at the end.
    """
    params, samples = (np.array([pair[i] for pair in at], dtype=np.float64) for i in (0, 1))
    tail = tail_of(_compute(table, x))
    fits = _fits(table, value, x, tail, bootstrap, seed)
    first, milder, _ = fits.values()
    asked = 6 * params * samples
    failed = next((found for found in fits.values() if not found.estimates), None)
    if failed is not None:
        return _nothing(failed, asked, level)
    logs = np.log(
        [found.law.value({"params": params, "samples": samples}, found.estimates) for found in fits.values()]
    )
    draws = _draw_spread(milder, params, samples)  # the steeper tail leaves too few rows to resample
    noise = _noise_at_the_end(first, table, x, tail)
    centre = logs[0]
    spread = ((logs[1:] - centre) ** 2).mean(axis=0)
    half = _normal(level) * np.sqrt(spread + draws**2 + noise**2)
    return Forecast(
        at=tuple(asked.tolist()),
        value=tuple(np.exp(centre).tolist()),
        lo=tuple(np.exp(centre - half).tolist()),
        hi=tuple(np.exp(centre + half).tolist()),
        level=level,
        members={name: tuple(np.exp(row).tolist()) for name, row in zip(fits, logs, strict=True)},
        weights=dict(zip(fits, (1.0, 0.0, 0.0), strict=True)),
        noise=noise,
        warnings=first.warnings,
        horizon=float(asked.max() / 6 / _compute(table, x).max()),
        n=first.n,
        dropped=_reasons(first),
    )


def tail_fit(
    table: pl.DataFrame, *, value: str, x: Mapping[str, str], tail: float, bootstrap: int = 0, seed: int = 0
) -> Fit:
    """The Chinchilla law by weighted least squares on relative errors; x names the columns of params and samples."""
    weighted = table.with_columns(pl.Series("_tail", tail_weights(_compute(table, x), tail)))
    return fit(
        "chinchilla", weighted, value=value, x=x, loss="l2", weights="_tail", bootstrap=bootstrap, seed=seed
    )


def _fits(
    table: pl.DataFrame, value: str, x: Mapping[str, str], tail: float, bootstrap: int, seed: int
) -> dict[str, Fit]:
    """The law under the tail, under half of it, with draws, and without weights."""
    half = tail_fit(table, value=value, x=x, tail=tail / 2, bootstrap=bootstrap, seed=seed)
    return {
        f"chinchilla, tail {tail:.3g}": tail_fit(table, value=value, x=x, tail=tail, seed=seed),
        "chinchilla, half the tail": half,
        "chinchilla, unweighted": fit("chinchilla", table, value=value, x=x, bootstrap=0, seed=seed),
    }


def _nothing(failed: Fit, asked: Floats, level: float) -> Forecast:
    nan = (float("nan"),) * len(asked)
    return Forecast(
        at=tuple(asked.tolist()), value=nan, lo=nan, hi=nan, level=level, horizon=float("nan"), n=failed.n,
        outcome=failed.outcome, message=failed.message, dropped=_reasons(failed),
    )  # fmt: skip


def _compute(table: pl.DataFrame, x: Mapping[str, str]) -> Floats:
    """N D of every row, 0 where one is missing or not a positive number: `fit` leaves those rows out."""
    sizes, data = (
        table[x[name]].cast(pl.Float64, strict=False).fill_null(0.0).to_numpy()
        for name in ("params", "samples")
    )
    product = sizes * data
    return np.where(np.isfinite(product) & (sizes > 0) & (data > 0), product, 0.0)


def _noise_at_the_end(found: Fit, table: pl.DataFrame, x: Mapping[str, str], tail: float) -> float:
    """Root mean square of ln residuals under the fit's own weights: far from the end the law need not hold."""
    numbers = table[ROW].to_numpy() if ROW in table.columns else np.arange(1, table.height + 1)
    kept = ~np.isin(numbers, [row.row for row in found.dropped])
    weights = tail_weights(_compute(table, x)[kept], tail)
    spare = found.n / max(found.n - len(found.law.free), 1)
    return float(np.sqrt(spare * (weights @ np.square(found.residuals)) / weights.sum()))


def _draw_spread(found: Fit, params: Floats, samples: Floats) -> Floats:
    """Standard deviation of the ln prediction over the bootstrap draws, 0 without draws."""
    if len(found.draws) < 2:
        return np.zeros(len(params))
    named = {name: found.draws[:, i : i + 1] for i, name in enumerate(found.law.free)}
    with np.errstate(all="ignore"):
        logs = np.log(found.law.value({"params": params, "samples": samples}, named))
    low, high = np.nanquantile(
        logs, [0.16, 0.84], axis=0
    )  # a few draws run off; the middle two thirds do not
    return np.asarray((high - low) / 2)


def _normal(level: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + level / 2)


def _reasons(found: Fit) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in found.dropped:
        counts[row.reason] = counts.get(row.reason, 0) + 1
    return counts
