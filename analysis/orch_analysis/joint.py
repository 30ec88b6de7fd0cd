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
from orch_analysis.shapes import Floats

TAILS = (2.0, 4.0)


def tail_weights(compute: Floats, tail: float) -> Floats:
    """(C / C_max)^tail, for `fit(..., weights=...)`; never below 1e-12, which would be no weight at all."""
    return np.asarray(np.maximum((compute / compute.max()) ** tail, 1e-12))


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
    spread of the tails, that of the bootstrap draws and the residual noise near the largest runs.
    """
    params, samples = (np.array([pair[i] for pair in at], dtype=np.float64) for i in (0, 1))
    fits = {f"chinchilla, tail {tail:g}": tail_fit(table, value=value, x=x, tail=tail, bootstrap=bootstrap, seed=seed)
            for tail in TAILS}  # fmt: skip
    first = next(iter(fits.values()))
    asked = 6 * params * samples
    failed = next((found for found in fits.values() if not found.estimates), None)
    if failed is not None:
        nothing = (float("nan"),) * len(at)
        return Forecast(
            at=tuple(asked.tolist()), value=nothing, lo=nothing, hi=nothing, level=level, horizon=float("nan"),
            n=failed.n, outcome=str(failed.outcome), message=failed.message, dropped=_reasons(failed),
        )  # fmt: skip
    largest = float((table[x["params"]].cast(pl.Float64) * table[x["samples"]].cast(pl.Float64)).max())  # type: ignore[arg-type]
    logs = np.log(
        [found.law.value({"params": params, "samples": samples}, found.estimates) for found in fits.values()]
    )
    draws = np.array([_draw_spread(found, params, samples) for found in fits.values()])
    noise = float(np.mean([found.sd or 0.0 for found in fits.values()]))
    centre = logs.mean(axis=0)
    half = _normal(level) * np.sqrt(logs.var(axis=0) + (draws**2).mean(axis=0) + noise**2)
    return Forecast(
        at=tuple(asked.tolist()),
        value=tuple(np.exp(centre).tolist()),
        lo=tuple(np.exp(centre - half).tolist()),
        hi=tuple(np.exp(centre + half).tolist()),
        level=level,
        members={name: tuple(np.exp(row).tolist()) for name, row in zip(fits, logs, strict=True)},
        weights=dict.fromkeys(fits, 1 / len(fits)),
        noise=noise,
        warnings=first.warnings,
        horizon=float(asked.max() / 6 / largest),
        n=first.n,
        dropped=_reasons(first),
    )


def tail_fit(
    table: pl.DataFrame, *, value: str, x: Mapping[str, str], tail: float, bootstrap: int = 0, seed: int = 0
) -> Fit:
    """The Chinchilla law by weighted least squares on relative errors; x names the columns of params and samples."""
    sizes, data = (
        table[x[name]].cast(pl.Float64, strict=False).fill_null(0.0) for name in ("params", "samples")
    )
    compute = np.nan_to_num(
        (sizes * data).to_numpy(), posinf=0.0
    )  # rows that `fit` leaves out need no weight
    weighted = table.with_columns(pl.Series("_tail", tail_weights(compute, tail)))
    return fit(
        "chinchilla", weighted, value=value, x=x, loss="l2", weights="_tail", bootstrap=bootstrap, seed=seed
    )


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
