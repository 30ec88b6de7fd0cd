"""Forecast a metric at scales larger than any that was trained.

What held up on published curves (Alabdulmohsin et al. 2022): fits that trust the largest scales most, and the
plain geometric mean of a few unlike predictions. Choosing one law by AICc or by a backtest did worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from orch_analysis import shapes
from orch_analysis.shapes import Floats

TAILS = (1.0, 2.0)  # weights (x / x_last)^lambda: only the end of a curve follows the law
WIDTH = 1.59  # conformal factor of the 90% band on the development curves


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Predictions at scales `at`, in the metric's own unit.

    lo, hi: central band at `level`; members: each member's prediction [len(at)]; weights: their shares;
    horizon: largest scale asked for over the largest scale seen; dropped: points left out, by reason.
    outcome: "ok", or what kept it from predicting (`message` says cause and remedy; values are NaN then).
    """

    at: tuple[float, ...]
    value: tuple[float, ...]
    lo: tuple[float, ...]
    hi: tuple[float, ...]
    level: float
    members: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    horizon: float
    n: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    outcome: str = "ok"
    message: str = ""


def forecast(
    x: Sequence[float] | Floats,
    y: Sequence[float] | Floats,
    at: Sequence[float] | Floats,
    *,
    level: float = 0.9,
    ceiling: float | None = None,
) -> Forecast:
    """Predict y at scales `at` from the points (x, y).

    x: scale (samples, parameters, FLOPs), > 0; y: an error or a loss, > 0, that falls with x. A metric that
    grows (accuracy, AUC) is forecast as `ceiling - y`, so give its ceiling (1.0, or 100.0 for percent).
    """
    xs, ys, dropped = _clean(x, y, ceiling)
    ats = np.asarray(at, dtype=np.float64)
    horizon = float(ats.max() / xs.max()) if len(xs) and len(ats) else float("nan")
    if len(np.unique(xs)) < 3:
        nothing = (float("nan"),) * len(ats)
        return Forecast(
            at=tuple(ats.tolist()), value=nothing, lo=nothing, hi=nothing, level=level, horizon=horizon,
            n=len(xs), dropped=dropped, outcome="too_few_points",
            message=f"{len(np.unique(xs))} usable scales; a forecast needs at least 3: train more sizes",
        )  # fmt: skip
    u, target = np.log(xs / xs[-1]), np.log(ats / xs[-1])
    members = _members(u, ys, target)
    logs = np.array(list(members.values()))
    centre = logs.mean(axis=0)
    half = WIDTH * np.sqrt(logs.var(axis=0) + _noise(u, ys) ** 2)
    back = (lambda v: ceiling - np.exp(v)) if ceiling is not None else np.exp
    low, high = back(centre - half), back(centre + half)
    return Forecast(
        at=tuple(ats.tolist()),
        value=tuple(back(centre).tolist()),
        lo=tuple(np.minimum(low, high).tolist()),
        hi=tuple(np.maximum(low, high).tolist()),
        level=level,
        members={name: tuple(back(v).tolist()) for name, v in members.items()},
        weights=dict.fromkeys(members, 1 / len(members)),
        horizon=horizon,
        n=len(xs),
        dropped=dropped,
    )


def _clean(
    x: Sequence[float] | Floats, y: Sequence[float] | Floats, ceiling: float | None
) -> tuple[Floats, Floats, dict[str, int]]:
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    ys = ys if ceiling is None else ceiling - ys
    reasons = {
        "not a finite number": ~(np.isfinite(xs) & np.isfinite(ys)),
        "scale not positive": xs <= 0,
        "value not positive" if ceiling is None else "value at or above the ceiling": ys <= 0,
    }
    keep, dropped = np.ones(len(xs), dtype=bool), {}
    for reason, bad in reasons.items():
        if count := int((bad & keep).sum()):
            dropped[reason] = count
        keep &= ~bad
    order = np.argsort(xs[keep], kind="stable")
    return xs[keep][order], ys[keep][order], dropped


def _members(u: Floats, y: Floats, target: Floats) -> dict[str, Floats]:
    """Ln prediction of every member at `target` [m]."""
    members: dict[str, Floats] = {}
    broken = shapes.broken_grid(float(-u[0]))
    for tail in TAILS:
        weights = np.exp(tail * u)
        members[f"power, tail {tail:g}"] = _average(
            shapes.power_shapes(shapes.EXPONENTS, u),
            shapes.power_shapes(shapes.EXPONENTS, target),
            y,
            weights,
        )
        members[f"broken, tail {tail:g}"] = _average(
            shapes.broken_shapes(broken, u), shapes.broken_shapes(broken, target), y, weights
        )
    members["last"] = np.full(len(target), np.log(y[-1]))
    return members


def _average(shape: Floats, ahead: Floats, y: Floats, weights: Floats) -> Floats:
    limit, size, residuals = shapes.amplitudes(shape, y, weights)
    shares = shapes.posterior(residuals, weights, 2)
    return np.asarray(shares @ np.log(limit[:, None] + size[:, None] * ahead))


def _noise(u: Floats, y: Floats) -> float:
    """Standard deviation of ln y about a smooth curve: from second differences (Gasser et al. 1986)."""
    if len(u) < 3:
        return 0.0
    logs = np.log(y)
    left, right = np.diff(u)[:-1], np.diff(u)[1:]
    span = np.maximum(left + right, 1e-12)
    bend = (right * logs[:-2] + left * logs[2:]) / span - logs[1:-1]
    scale = (right**2 + left**2) / span**2 + 1
    return float(np.sqrt(np.mean(bend**2 / scale)))
