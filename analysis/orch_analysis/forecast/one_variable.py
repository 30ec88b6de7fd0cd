"""Forecast a metric at scales larger than any that was trained.

What held up on published curves (Alabdulmohsin et al. 2022; `tests/bench/bench_extrapolation.py` prints the
table): laws that trust the largest scales most, and the plain geometric mean of unlike predictions. Choosing
one law by AICc or by a backtest, or learning the shares on other curves, did worse on runs left out. Two
exceptions have evidence of their own, and both are continuous: a power law that fits the whole curve to a
fraction of a percent of its fall takes over, and a fall that is not larger than the noise is not forecast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from orch_analysis.fitting.outcome import Outcome
from orch_analysis.forecast import shapes, trend
from orch_analysis.forecast.shapes import Floats
from orch_core.errors import OrchError

TAILS = (1.0, 2.0)  # weights (x / x_last)^lambda: only the end of a curve follows the law
MEMORIES = (1.0, 2.0)  # nats over which the local trend's slope fades
RECENT = 1.4  # the last factor of x whose straight line is the "slope" member
MOST = 96  # points used; longer curves are averaged in equal steps of ln x
EXACT = 0.002  # residual of a power law, over the curve's fall, at which it takes half the weight
DOUBT = 3.0  # a fall over the next factor of two below 3 noise deviations is mostly not believed

# Band: half width Q sqrt(spread^2 + (2.5 noise)^2 + (.015 ln horizon)^2) in ln y. The noise factor covers
# single new runs; Q is conformal on the 44 development curves in five settings, at 95% for a nominal 90%
# because the same curves chose the members.
NOISE, DRIFT = 2.5, 0.015
LARGEST = 300.0  # |ln y|; horizons of many powers of ten must not overflow
WIDER = 1.5  # for curves that accelerate or turn, which no member describes
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
QUANTILES = (0.45, 1.05, 1.5, 1.9, 2.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Predictions at scales `at`, in the metric's own unit.

    lo, hi: central band at `level` for a new run; members: each member's prediction [len(at)]; weights: their
    shares in ln error; noise: standard deviation of ln error about a smooth curve; horizon: largest scale
    asked for over the largest seen; n: points used; dropped: points left out, by reason.
    outcome: OK, or what prevented a forecast (`message` gives cause and remedy; values are NaN then).
    """

    at: tuple[float, ...]
    value: tuple[float, ...]
    lo: tuple[float, ...]
    hi: tuple[float, ...]
    level: float
    members: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    noise: float = float("nan")
    warnings: tuple[str, ...] = ()
    horizon: float
    n: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    outcome: Outcome = Outcome.OK
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
    Scales below the smallest trained get NaN. Raises OrchError for lengths that differ, scales asked for that
    are not positive, a level outside (0, 1).
    """
    _check(x, y, at, level)
    xs, ys, dropped = _clean(x, y, ceiling)
    ats = np.asarray(at, dtype=np.float64)
    scales = len(np.unique(xs))
    horizon = float(ats.max() / xs[-1]) if len(xs) and len(ats) else float("nan")
    if scales < 3:
        nothing = (float("nan"),) * len(ats)
        return Forecast(
            at=tuple(ats.tolist()), value=nothing, lo=nothing, hi=nothing, level=level, horizon=horizon,
            n=len(xs), dropped=dropped, outcome=Outcome.TOO_FEW_POINTS,
            message=f"{scales} usable scales, and a forecast needs 3: train more sizes",
        )  # fmt: skip
    u, errors = _merged(np.log(xs / xs[-1]), ys)
    below = ats < xs[0] * (1 - 1e-9)
    target = np.log(np.where(below, xs[0], ats) / xs[-1])
    members = _members(u, errors, np.append(target, np.log(2.0)))
    noise = _noise(u, errors)
    exact = _exactness(u, errors)
    logs = np.array(list(members.values()))
    shares = _shares(logs[:, -1], exact, noise)
    logs = np.where(below, np.nan, np.clip(logs[:, :-1], -LARGEST, LARGEST))
    centre = shares @ logs
    spread = (1 - exact) * logs[1:].std(axis=0)
    half = _quantile(level) * np.sqrt(spread**2 + (NOISE * noise) ** 2 + (DRIFT * target) ** 2)
    odd = _odd(u, errors, ceiling)
    half = half * (WIDER if odd else 1.0)
    ends = np.sort([_metric(centre - half, ceiling), _metric(centre + half, ceiling)], axis=0)
    return Forecast(
        at=tuple(ats.tolist()),
        value=tuple(_metric(centre, ceiling).tolist()),
        lo=tuple(ends[0].tolist()),
        hi=tuple(ends[1].tolist()),
        level=level,
        members={name: tuple(_metric(v, ceiling).tolist()) for name, v in zip(members, logs, strict=True)},
        weights=dict(zip(members, shares.tolist(), strict=True)),
        noise=noise,
        warnings=(*_short(float(np.exp(-u[0])), horizon), *odd, *_below(below)),
        horizon=horizon,
        n=len(xs),
        dropped=dropped,
    )


def _check(
    x: Sequence[float] | Floats, y: Sequence[float] | Floats, at: Sequence[float] | Floats, level: float
) -> None:
    if len(x) != len(y):
        message = f"{len(x)} scales but {len(y)} values"
        raise OrchError(message, hint="give one value per scale")
    asked = np.asarray(at, dtype=np.float64)
    if not (asked > 0).all() or not np.isfinite(asked).all():
        message = f"scales to forecast must be positive numbers, got {asked.tolist()}"
        raise OrchError(message)
    if not 0 < level < 1:
        message = f"level must lie between 0 and 1, got {level}"
        raise OrchError(message, hint="0.9 is a 90% band")


def _clean(
    x: Sequence[float] | Floats, y: Sequence[float] | Floats, ceiling: float | None
) -> tuple[Floats, Floats, dict[str, int]]:
    """Usable scales (rising) and errors, and how many points were left out for which reason."""
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


def _merged(u: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Geometric means over repeats of a scale, and over equal steps of ln x if more than 96 are left."""
    labels = np.unique(u, return_inverse=True)[1]
    if labels.max() >= MOST:
        labels = np.unique(np.floor(MOST * (1 - u / u[0]) * (1 - 1e-12)), return_inverse=True)[1]
    counts = np.bincount(labels)
    means = np.bincount(labels, u) / counts
    return means - means[-1], np.exp(np.bincount(labels, np.log(errors)) / counts)


def _members(u: Floats, y: Floats, target: Floats) -> dict[str, Floats]:
    """Ln prediction of every member at `target` [m]; the first fits the whole curve, the rest its end."""
    whole = np.ones(len(u))
    members = {"power, whole curve": shapes.power_law(u, y, target, whole)[0]}
    broken = shapes.broken_grid(float(-u[0]))
    for tail in TAILS:
        end = u, y, target, np.exp(tail * u)
        members[f"power, tail {tail:g}"] = shapes.power_law(*end)[0]
        members[f"power averaged, tail {tail:g}"] = shapes.averaged(
            shapes.power_shapes, shapes.EXPONENTS, *end
        )
        members[f"broken, tail {tail:g}"] = shapes.averaged(shapes.broken_shapes, broken, *end)
    members["twice broken, whole curve"] = shapes.averaged(
        shapes.twice_broken_shapes, shapes.twice_broken(float(-u[0])), u, y, target, whole
    )
    recent = u >= min(-np.log(RECENT), u[-2])
    slope, level = np.polyfit(u[recent], np.log(y[recent]), 1)
    members["slope"] = level + slope * target
    levels, slopes, shares = trend.level_and_slope(u, y)
    for memory in MEMORIES:
        far = trend.damped(target, memory)
        members[f"trend, memory {memory:g}"] = shares @ (levels[:, None] + np.outer(slopes, far))
    members["level"] = np.full(len(target), shares @ levels)
    return members


def _exactness(u: Floats, y: Floats) -> float:
    """How far the power law through the whole curve may be believed, from 0 to 1.

    It is half at a residual of EXACT falls. Its three parameters need five points to be put to a test at all.
    """
    fall = float(np.log(y.max() / y.min()))
    if len(u) < 5 or fall == 0:
        return 0.0
    rest = shapes.power_law(u, y, u, np.ones(len(u)))[1]
    return float(1 / (1 + (np.sqrt(rest / (len(u) - 3)) / fall / EXACT) ** 4))


def _noise(u: Floats, y: Floats) -> float:
    """Standard deviation of ln y about the best once-broken law, recent points first (tail 1)."""
    weights = np.exp(u)
    shape = shapes.broken_shapes(shapes.broken_grid(float(-u[0])), u)
    rest = float(shapes.amplitudes(shape, y, weights)[2].min()) / float(weights.sum())
    return float(np.sqrt(rest * len(u) / max(len(u) - 4, 1)))


def _shares(doubled: Floats, exact: float, noise: float) -> Floats:
    """Share of every member: `exact` for the first; the others equal, less what noise moves to the last.

    doubled [k]: ln predictions at twice the last scale. A fall D from the level there is believed by
    `1 - (n / (D^2 + n))^3` with n = (3 noise)^2: fully when it stands out, hardly when it does not.
    """
    count = len(doubled) - 1
    fall = float(doubled[1:].mean() - doubled[-1])
    doubt = (DOUBT * noise) ** 2
    stay = (doubt / (fall**2 + doubt)) ** 3 if doubt > 0 else 0.0
    shares = np.full(len(doubled), (1 - exact) * (1 - stay) / count)
    shares[0] = exact
    shares[-1] += (1 - exact) * stay
    return shares


def _quantile(level: float) -> float:
    """Band factor of `level`, linear between the calibrated levels and through 0 at 0."""
    return float(np.interp(level, (0.0, *LEVELS), (0.0, *QUANTILES)))


def _metric(logs: Floats, ceiling: float | None) -> Floats:
    return np.asarray(np.exp(logs) if ceiling is None else ceiling - np.exp(logs))


def _short(reach: float, horizon: float) -> tuple[str, ...]:
    """A warning where the horizon exceeds the pilots' range, both factors of x."""
    if horizon <= reach:
        return ()
    text = (
        f"the forecast reaches {horizon:.3g} times the largest scale, but the pilots span only a factor of"
        f" {reach:.3g}: train smaller or larger pilots"
    )
    return (text,)


def _below(below: NDArray[np.bool_]) -> tuple[str, ...]:
    count = int(below.sum())
    return (f"{count} scales lie below the smallest trained: no forecast for them",) if count else ()


def _odd(u: Floats, y: Floats, ceiling: float | None) -> tuple[str, ...]:
    """Warnings about the curve's form: it rises, turns, or accelerates."""
    found = []
    logs = np.log(y)
    rough = _roughness(u, logs)
    if logs[-1] - logs[0] > 4 * rough:
        hint = (
            "" if ceiling is not None else "; a metric that grows needs `ceiling` (1.0 for AUC or accuracy)"
        )
        found.append(f"the error rises with scale{hint}")
    elif (rise := float((logs - np.minimum.accumulate(logs)).max())) > 4 * rough + 0.01:
        found.append(f"the curve is not monotone: the error rises by {np.expm1(rise):.1%} on the way")
    early, late = _slopes(u, logs)
    if late[0] < early[0] - 2 * np.hypot(early[1], late[1]) and late[0] < 1.2 * early[0]:
        found.append(
            f"the curve accelerates (ln-ln slope {early[0]:.2f}, then {late[0]:.2f}): such curves are "
            "forecast worst; the band is widened by half"
        )
    return tuple(found)


def _roughness(u: Floats, logs: Floats) -> float:
    """Robust standard deviation of ln y about the line through its neighbours, blind to slow bends."""
    inside = (u[1:-1] - u[:-2]) / (u[2:] - u[:-2])
    rest = logs[1:-1] - (logs[:-2] * (1 - inside) + logs[2:] * inside)
    return float(np.median(np.abs(rest) / np.sqrt(1 + inside**2 + (1 - inside) ** 2)) / 0.6745)


def _slopes(u: Floats, logs: Floats) -> tuple[tuple[float, float], tuple[float, float]]:
    """Slope and its standard error in the first and second half of the range; error 0 for two points."""
    halves = []
    middle, slack = u[0] / 2, 1e-9 * abs(u[0])
    for part in (u <= middle + slack, u >= middle - slack):
        x, y = u[part], logs[part]
        if len(x) < 2:
            halves.append((0.0, float("inf")))
            continue
        x = x - x.mean()
        slope = float(x @ y / (x @ x))
        rest = y - y.mean() - slope * x
        halves.append((slope, float(np.sqrt(rest @ rest / max(len(x) - 2, 1) / (x @ x)))))
    return halves[0], halves[1]
