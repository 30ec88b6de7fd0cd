"""The minimum of an isoFLOP curve, if it has one (approach 2 of Hoffmann et al. 2022).

A parabola always has a vertex, which need not be a minimum of the curve. Each result therefore has an
outcome: unbounded, off centre, asymmetric, too few points, or ok.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from orch_analysis.fitting.outcome import Outcome

Floats = NDArray[np.float64]

STEPS = 25  # interpolation points per gap between two sizes (Porian et al. 2024, analysis code)
RESOLUTION = 0.33  # smallest believable spread of ln N*, in gaps between two sizes (same source)
NEAR = 0.2  # a curve's neighbourhood of the minimum for the noise estimate: losses within 20%
SKEW = float(np.log(1.25))  # parabola and interpolation may differ by this in ln N*


@dataclass(frozen=True, slots=True, kw_only=True)
class Minimum:
    """The best model size at one compute budget.

    flops: the budget; params: N*, NaN without a minimum; log_sd: standard deviation of ln N* under the
    loss noise; lo, hi: 2.5% and 97.5% points of N*; loss: the lowest loss; n: sizes on the curve.
    draws: ln N* under resampled noise, NaN for a draw without an inner minimum.
    """

    flops: float
    params: float
    lo: float
    hi: float
    log_sd: float
    loss: float
    n: int
    outcome: Outcome
    message: str
    draws: Floats = field(repr=False, compare=False)

    @property
    def usable(self) -> bool:
        """True for a minimum, including off-centre and asymmetric ones, whose message is a warning."""
        return self.outcome in {Outcome.OK, Outcome.OFF_CENTRE, Outcome.ASYMMETRIC}


def minimum(
    params: Sequence[float] | Floats,
    losses: Sequence[float] | Floats,
    *,
    flops: float,
    noise: float | Floats,
    method: str = "parabola",
    draws: int = 1000,
    seed: int = 0,
) -> Minimum:
    """N* of one isoFLOP curve: sizes `params` trained with the same `flops` to `losses`.

    method "parabola": vertex of the loss over ln N (Hoffmann et al. 2022, section 3.2); "akima": minimum of
    Akima's interpolation of ln loss over ln N (Porian et al. 2024, section 3), which needs no symmetry.
    noise: standard deviation of a loss between seeds; its draws give the spread of N*.
    Repeated sizes keep their lowest loss.
    """
    sizes, best = _lowest(np.asarray(params, float), np.asarray(losses, float))
    if len(sizes) < 4:
        text = f"{len(sizes)} model sizes at {flops:.3g} FLOPs; a minimum needs at least 4"
        return _none(flops, best, Outcome.TOO_FEW_POINTS, text)
    logs = np.log(sizes)
    noisy = best[:, None] + noise * np.random.default_rng(seed).standard_normal((len(best), draws))
    noisy = np.maximum(noisy, best.min() * 1e-3)
    find = {"parabola": _vertices, "akima": _interpolated}[method]
    point = float(find(logs, best[:, None])[0])
    sample = find(logs, noisy)
    inner = np.isfinite(sample).mean() if draws else 1.0
    if not np.isfinite(point) or inner < 0.5:
        edge = "smallest" if best.argmin() < len(best) / 2 else "largest"
        text = (
            f"the minimum is not inside the sizes trained at {flops:.3g} FLOPs: the loss is lowest towards "
            f"the {edge} ({sizes[best.argmin()]:.3g}); train {'smaller' if edge == 'smallest' else 'larger'} "
            "models"
        )
        return _none(flops, best, Outcome.UNBOUNDED, text, n=len(sizes))
    floor = RESOLUTION * float(logs[-1] - logs[0]) / (len(logs) - 1) if method == "akima" else 0.0
    spread = max(float(np.nanstd(sample)), floor) / inner if draws else floor
    outcome, text = _verdict(logs, best, point, spread, method)
    lo, hi = np.exp(point + np.array([-1.96, 1.96]) * spread)
    centre = float(np.nanmedian(sample)) if method == "akima" and draws else point
    return Minimum(
        flops=flops, params=float(np.exp(centre)), lo=float(lo), hi=float(hi), log_sd=spread,
        loss=float(best.min()), n=len(sizes), outcome=outcome, message=text, draws=sample,
    )  # fmt: skip


def loss_noise(curves: Sequence[tuple[Floats, Floats]]) -> float:
    """Standard deviation of a loss about smooth isoFLOP curves, pooled over `curves` (sizes, losses).

    Residuals of a cubic in ln N over the points within 20% of each curve's minimum; .005, the seed noise
    that Porian et al. 2024 measured, if no curve has six such points.
    """
    total, freedom = 0.0, 0
    for params, losses in curves:
        sizes, best = _lowest(params, losses)
        near = best <= best.min() * (1 + NEAR)
        if near.sum() >= 6:
            logs = np.log(sizes[near])
            residuals = best[near] - np.polyval(
                np.polyfit(logs - logs.mean(), best[near], 3), logs - logs.mean()
            )
            total, freedom = total + float(residuals @ residuals), freedom + int(near.sum()) - 4
    return float(np.sqrt(total / freedom)) if freedom else 0.005


def _lowest(params: Floats, losses: Floats) -> tuple[Floats, Floats]:
    sizes, place = np.unique(params, return_inverse=True)
    best = np.full(len(sizes), np.inf)
    np.minimum.at(best, place, losses)
    return sizes, best


def _vertices(logs: Floats, losses: Floats) -> Floats:
    """Vertex of the parabola through every column of losses [n, k]; NaN if it opens down or lies outside."""
    middle = logs.mean()
    square, slope, _ = np.polyfit(logs - middle, losses, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = middle - slope / (2 * square)
    return np.where((square > 0) & (vertex > logs[0]) & (vertex < logs[-1]), vertex, np.nan)


def _interpolated(logs: Floats, losses: Floats) -> Floats:
    from scipy.interpolate import Akima1DInterpolator

    fine = np.linspace(logs[0], logs[-1], (len(logs) - 1) * STEPS)
    lowest = Akima1DInterpolator(logs, np.log(losses))(fine).argmin(axis=0)
    return np.where((lowest > 0) & (lowest < len(fine) - 1), fine[lowest], np.nan)


def _verdict(logs: Floats, losses: Floats, point: float, spread: float, method: str) -> tuple[Outcome, str]:
    other = float((_interpolated if method == "parabola" else _vertices)(logs, losses[:, None])[0])
    quarter = float(logs[-1] - logs[0]) / 4
    if abs(other - point) > max(SKEW, 2 * spread) or not np.isfinite(other):
        names = ("the parabola", "interpolation") if method == "parabola" else ("interpolation", "a parabola")
        there = f"{np.exp(other):.3g}" if np.isfinite(other) else "no inner minimum"
        remedy = "use method 'akima', or train sizes nearer to the minimum" if method == "parabola" else (
            "use this one, and train sizes nearer to the minimum")  # fmt: skip
        return (
            Outcome.ASYMMETRIC,
            f"{names[0]} puts N* at {np.exp(point):.3g}, {names[1]} at {there}: {remedy}",
        )
    if not logs[0] + quarter <= point <= logs[-1] - quarter:
        side = "smaller" if point < logs.mean() else "larger"
        return (
            Outcome.OFF_CENTRE,
            f"N* = {np.exp(point):.3g} lies near the end of the sizes trained; add {side} models",
        )
    return Outcome.OK, ""


def _none(flops: float, losses: Floats, outcome: Outcome, message: str, n: int | None = None) -> Minimum:
    nan = float("nan")
    return Minimum(
        flops=flops, params=nan, lo=nan, hi=nan, log_sd=nan, n=len(losses) if n is None else n,
        loss=float(losses.min()) if len(losses) else nan, outcome=outcome, message=message, draws=np.empty(0),
    )  # fmt: skip
