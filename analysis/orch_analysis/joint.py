"""Forecast L(N, D) beyond the largest runs: the Chinchilla law fitted to the end of the table.

The law is an approximation, and the runs near the target show best which member of the family holds there:
weights (C / C_max)^lambda with C = N D. On the published tables in `tests/data/laws` (largest eighth of the
compute held back) lambda 2 leaves .08-.67 of the error of the unweighted Huber fit, lambda 4 .14-.65,
and neither wins everywhere, so the forecast is their geometric mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from orch_analysis.extrapolate import Forecast
from orch_analysis.fit import Fit, fit
from orch_analysis.points import ROW
from orch_analysis.shapes import Floats

TAILS = (2.0, 4.0)


def tail_weights(compute: Floats, tail: float) -> Floats:
    """(C / C_max)^tail, for `fit(..., weights=...)`; never below 1e-12, which would be no weight at all."""
    largest = compute.max(initial=0.0) or 1.0
    return np.asarray(np.maximum((compute / largest) ** tail, 1e-12))


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
    spread of the tails and of the unweighted fit about it (their distance is what shows a law that does not hold),
    that of the milder tail's bootstrap draws, and the residual noise at the end.
    """
    params, samples = (np.array([pair[i] for pair in at], dtype=np.float64) for i in (0, 1))
    fits = _fits(table, value, x, bootstrap, seed)
    first = next(iter(fits.values()))
    asked = 6 * params * samples
    failed = next((found for found in fits.values() if not found.estimates), None)
    if failed is not None:
        return _nothing(failed, asked, level)
    logs = np.log(
        [found.law.value({"params": params, "samples": samples}, found.estimates) for found in fits.values()]
    )
    draws = _draw_spread(first, params, samples)  # a steeper tail leaves too few rows to resample
    noise = _noise_at_the_end(first, table, x)
    shares = np.array([1.0, 1.0, 0.0]) / len(TAILS)
    centre = shares @ logs
    spread = ((logs - centre) ** 2).mean(axis=0)
    half = _normal(level) * np.sqrt(spread + draws**2 + noise**2)
    return Forecast(
        at=tuple(asked.tolist()),
        value=tuple(np.exp(centre).tolist()),
        lo=tuple(np.exp(centre - half).tolist()),
        hi=tuple(np.exp(centre + half).tolist()),
        level=level,
        members={name: tuple(np.exp(row).tolist()) for name, row in zip(fits, logs, strict=True)},
        weights=dict(zip(fits, shares.tolist(), strict=True)),
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


def _fits(table: pl.DataFrame, value: str, x: Mapping[str, str], bootstrap: int, seed: int) -> dict[str, Fit]:
    """The law under each tail, the mildest with draws, and last without weights."""
    fits = {
        f"chinchilla, tail {tail:g}": tail_fit(
            table, value=value, x=x, tail=tail, bootstrap=bootstrap if tail == TAILS[0] else 0, seed=seed
        )
        for tail in TAILS
    }
    fits["chinchilla, unweighted"] = fit("chinchilla", table, value=value, x=x, bootstrap=0, seed=seed)
    return fits


def _nothing(failed: Fit, asked: Floats, level: float) -> Forecast:
    nan = (float("nan"),) * len(asked)
    return Forecast(
        at=tuple(asked.tolist()), value=nan, lo=nan, hi=nan, level=level, horizon=float("nan"), n=failed.n,
        outcome=str(failed.outcome), message=failed.message, dropped=_reasons(failed),
    )  # fmt: skip


def _compute(table: pl.DataFrame, x: Mapping[str, str]) -> Floats:
    """N D of every row, 0 where one is missing or not a positive number: `fit` leaves those rows out."""
    sizes, data = (
        table[x[name]].cast(pl.Float64, strict=False).fill_null(0.0).to_numpy()
        for name in ("params", "samples")
    )
    product = sizes * data
    return np.where(np.isfinite(product) & (sizes > 0) & (data > 0), product, 0.0)


def _noise_at_the_end(found: Fit, table: pl.DataFrame, x: Mapping[str, str]) -> float:
    """Root mean square of ln residuals under the fit's own weights: far from the end the law need not hold."""
    numbers = table[ROW].to_numpy() if ROW in table.columns else np.arange(1, table.height + 1)
    kept = ~np.isin(numbers, [row.row for row in found.dropped])
    weights = tail_weights(_compute(table, x)[kept], TAILS[0])
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
