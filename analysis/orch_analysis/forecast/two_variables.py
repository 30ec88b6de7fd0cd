"""Forecast L(N, D) beyond the largest runs: the Chinchilla law and the discrepancy that it leaves.

Both are estimated by `forecast.kriging`. On the published tables in `tests/data/laws` (15 tables; the runs
beyond a quarter, an eighth and a sixteenth of the largest compute held back) the error is .26 of that of the
usual Huber fit, geometric mean (`tests/bench/bench_joint.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
import polars as pl

from orch_analysis.fitting.used_rows.usable import blocking_outcome, usable
from orch_analysis.forecast.kriging import calibration, krige
from orch_analysis.forecast.one_variable import Forecast
from orch_analysis.laws import LAWS
from orch_core.errors import OrchError

LAW = LAWS["chinchilla"]


def forecast(
    table: pl.DataFrame,
    *,
    value: str,
    x: Mapping[str, str | float],
    at: Sequence[tuple[float, float]],
    level: float = 0.9,
) -> Forecast:
    """Predict the loss at pairs (params, samples); `Forecast.at` holds their compute 6 N D.

    x names the columns of params and samples, value the column of a loss or error. The band, for one more
    run, joins the doubt of law and discrepancy with the noise, scaled by what the same band was worth on the
    largest runs. Raises OrchError for unknown columns and for pairs that are not positive.
    """
    asked = np.array(at, dtype=np.float64).reshape(-1, 2)
    if not (asked > 0).all() or not np.isfinite(asked).all():
        message = f"params and samples to forecast must be positive numbers, got {asked.tolist()}"
        raise OrchError(message)
    rows = usable(LAW, table, value=value, x=x, link="log")
    dropped = Counter(row.reason for row in rows.dropped)
    compute = 6 * asked.prod(axis=1)
    blocked = blocking_outcome(LAW, rows, value)
    if blocked is not None:
        nan = (float("nan"),) * len(asked)
        return Forecast(
            at=tuple(compute.tolist()), value=nan, lo=nan, hi=nan, level=level, horizon=float("nan"),
            n=rows.y.size, outcome=blocked[0], message=blocked[1], dropped=dropped,
        )  # fmt: skip
    done, y = np.log(np.stack([rows.x["params"], rows.x["samples"]], axis=1)), np.log(rows.y)
    found, points = krige(done, y), np.log(asked)
    mean, spread = found.predict(points)
    quantile = NormalDist().inv_cdf(0.5 + level / 2) * calibration(done, y)
    half = quantile * np.hypot(spread, found.noise)
    members = {"law": found.law(points), "law and discrepancy": mean}
    return Forecast(
        at=tuple(compute.tolist()),
        value=tuple(np.exp(mean).tolist()),
        lo=tuple(np.exp(mean - half).tolist()),
        hi=tuple(np.exp(mean + half).tolist()),
        level=level,
        members={name: tuple(np.exp(logs).tolist()) for name, logs in members.items()},
        weights={"law": 0.0, "law and discrepancy": 1.0},
        noise=found.noise,
        horizon=float(compute.max(initial=0.0) / 6 / np.exp(done.sum(axis=1).max())),
        n=rows.y.size,
        dropped=dropped,
    )
