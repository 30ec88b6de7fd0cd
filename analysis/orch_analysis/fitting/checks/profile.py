"""Which parameters the data determine, in words: profiles of the objective (Venzon & Moolgavkar 1988).

A parameter is held at values ever farther from its estimate and all others are fitted again. Its likelihood
interval holds the values that an F test at the noise of the points does not reject, whatever the others
are. A parameter is called identified when its likelihood profile closes on both sides, inside its bounds,
and within a factor of 20.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orch_analysis.fitting.estimates import Identifiability
from orch_analysis.fitting.newton import minimise
from orch_analysis.fitting.problem import ROUGH, Problem, predict, stages
from orch_analysis.laws.law import Array
from orch_core.formatting import percent

FEW = 3  # parameters up to which a curved law is profiled from every minimum known and finely
ENOUGH = 2e-5  # tolerance of a profile point, a hundredth of what it is compared to
WIDE = 20.0  # a 95% range wider than this factor determines no positive parameter
REACH = np.array(
    [0.003, 0.01, 0.03, 0.07, 0.15, 0.3, 0.5, 0.75, 1.0, 1.3, 1.6, 1.9, 2.3, 3.0, 4.0, 6.0, 10.0, 20.0]
)
SIDES = np.array([-1.0, 1.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """An optimum to look around: its coordinates (p,), objective, other minima (m, p), weights and delta."""

    problem: Problem
    theta: Array
    objective: float
    minima: Array
    weights: Array
    delta: float

    def rises(self, reach: Array) -> Array:
        """Relative rise (points, p, 2) of the best objective, each parameter held `reach` away both ways."""
        p, m = self.theta.size, len(self.minima)
        moved = self.theta[:, None] + SIDES * self._scale()[:, None] * reach
        held_at = np.clip(moved, self.problem.lower[:, None], self.problem.upper[:, None])
        starts = np.broadcast_to(self.minima, (*reach.shape, m, p)).copy()
        held = np.zeros(starts.shape, dtype=bool)
        for k in range(p):
            starts[:, k, :, :, k] = held_at[:, k, :, None]
            held[:, k, :, :, k] = True
        reached = self._minimise(starts.reshape(-1, p), held.reshape(-1, p))
        return np.asarray(reached.reshape(*reach.shape, m).min(axis=-1) / max(self.objective, 1e-300) - 1.0)

    def ends(self, rises: Array, levels: Array, limit: float, *, refine: int) -> Array:
        """Outermost coordinates (p, 2) whose rise is below `limit`, infinite where it never exceeds it.

        `levels` are the objectives of the minima, which count where they lie farther out.
        """
        p = self.theta.size
        below = np.concatenate([np.ones((1, p, 2), dtype=bool), rises <= limit])
        reach = np.concatenate([[0.0], REACH, [np.inf]])
        last = below.shape[0] - 1 - below[::-1].argmax(axis=0)
        inside = np.maximum(reach[last], self._known(levels, limit))
        outside = reach[np.searchsorted(reach, inside, side="right")]
        for _ in range(refine):
            middle = np.where(np.isinf(outside), inside, 0.5 * (inside + outside))
            above = self.rises(middle[None])[0] > limit
            inside = np.where(above, inside, middle)
            outside = np.where(above & ~np.isinf(outside), middle, outside)
        middle = np.where(np.isinf(outside), np.inf, 0.5 * (inside + outside))
        return np.asarray(self.theta[:, None] + SIDES * self._scale()[:, None] * middle)

    def levels(self) -> Array:
        """Objectives (m,) of the minima, as a profile would find them."""
        return self._minimise(self.minima, np.zeros(self.minima.shape, dtype=bool))

    def _known(self, levels: Array, limit: float) -> Array:
        """How far (p, 2) the other minima lie that are below `limit` themselves."""
        near = self.minima[levels <= (1.0 + limit) * self.objective]
        away = (near - self.theta)[:, :, None] * SIDES / self._scale()[:, None]
        return np.asarray(np.max(away, axis=0, initial=0.0))

    def _minimise(self, starts: Array, held: NDArray[np.bool_]) -> Array:
        """Objectives reached from `starts`, least squares first: Huber's loss is not curved far from data."""
        rows, target, weights = (
            np.zeros(len(starts), dtype=np.intp),
            self.problem.target[None],
            self.weights[None],
        )
        reached = np.zeros(len(starts))
        own = stages(self.problem, self.theta[None], target, self.delta)
        costly = self.problem.terms is None and self.theta.size > FEW
        plan = [(float("inf"), ROUGH if costly else ENOUGH, False), *own]
        for delta, tolerance, exact in plan:
            if exact and self.problem.terms is None and len(own) == 2:
                break  # without wider deltas Gauss-Newton steps are good enough for a profile
            starts, reached = minimise(
                self.problem,
                starts,
                target,
                weights,
                delta,
                rows=rows,
                held=held,
                tolerance=max(tolerance, ENOUGH),
                exact=exact,
                brief=costly,
            )
        return reached

    def _scale(self) -> Array:
        return np.where(self.problem.logs, 1.0, np.maximum(np.abs(self.theta), 0.05))


def identifiability(profile: Profile, level: float = 0.95) -> dict[str, Identifiability]:
    """Identifiability of each free parameter around an optimum, with its likelihood interval at `level`."""
    p = profile.theta.size
    costly = profile.problem.terms is None and p > FEW
    if costly:
        profile = replace(profile, minima=profile.theta[None])
    rises = profile.rises(np.broadcast_to(REACH[:, None, None], (REACH.size, p, 2)))
    likely = 3.841 / max(
        profile.problem.y.size - p, 1
    )  # 95% point of chi2 with one degree of freedom over n - p
    levels = profile.levels()
    wide = profile.ends(rises, levels, likely, refine=0)
    near = profile.ends(rises, levels, _cut(profile, level), refine=3 if costly else 5)
    return {
        name: _judge(profile.problem, k, name, level, (near[k, 0], near[k, 1]), (wide[k, 0], wide[k, 1]))
        for k, name in enumerate(profile.problem.law.free)
    }


def _cut(profile: Profile, level: float) -> float:
    """Relative rise of the objective at the ends of a likelihood interval.

    The rise times 2 over the noise's variance is F distributed, exactly for least squares and a linear
    law. Huber's loss has the variance of its derivative over the share of points where it is quadratic
    (Huber & Ronchetti 2009, ch. 13).
    """
    from scipy.special import stdtrit

    problem, weights = profile.problem, profile.weights
    residuals = predict(problem, profile.theta[None])[0] - problem.target
    clipped = np.clip(residuals, -profile.delta, profile.delta)
    freedom = max(residuals.size - profile.theta.size, 1)
    quadratic = max(float(weights @ (clipped == residuals) / weights.sum()), 1.0 / residuals.size)
    variance = float(weights @ clipped**2) / freedom / quadratic
    quantile = float(stdtrit(freedom, 0.5 + level / 2))
    return float(0.5 * variance * quantile**2 / max(profile.objective, 1e-300))


def _judge(
    problem: Problem, k: int, name: str, level: float, near: tuple[float, float], wide: tuple[float, float]
) -> Identifiability:
    def value(coordinate: float) -> float:
        coordinate = float(np.clip(coordinate, problem.lower[k], problem.upper[k]))
        return float(np.exp(coordinate)) if problem.logs[k] else coordinate

    low, high = value(near[0]), value(near[1])
    closed = wide[0] > problem.lower[k] and wide[1] < problem.upper[k]
    narrow = wide[1] - wide[0] <= np.log(WIDE) if problem.logs[k] else True
    if closed and narrow:
        words = f"{name} is determined: its {percent(level)} likelihood interval is [{low:.4g}, {high:.4g}]"
        return Identifiability(identified=True, range=(low, high), words=words)
    shown = f"[{_open(low)}, {_open(high)}]"
    words = f"{name} is not determined: its {percent(level)} likelihood interval is {shown}"
    return Identifiability(identified=False, range=(low, high), words=words)


def _open(value: float) -> str:
    if value == 0.0 or value < 1e-250:
        return "0"
    return "infinity" if value > 1e250 else f"{value:.3g}"
