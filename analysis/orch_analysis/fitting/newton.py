"""Exact local steps from a global search, for all bootstrap replicates of a fit at once.

Every replicate is initialised by its own search over the grid of `search`. From there trust-region Newton
steps (Levenberg-Marquardt damping of the exact Hessian's absolute eigenvalues) run on all rows together,
first on wide Huber deltas, which are nearly least squares, and then on the one asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orch_analysis.fitting.problem import (
    INFINITE,
    ROUGH,
    Problem,
    best_of,
    derivatives,
    from_link,
    huber,
    predict,
    stages,
)
from orch_analysis.fitting.search import search
from orch_analysis.laws.law import Array

AGREEMENT = 1e-8  # starts agree when their objectives differ by less, relative to the best
CHUNK = 30_000  # fits x points worked on together: a few arrays of this size stay in the cache
FLAT = 1e-6  # scaled curvature below which differences of derivatives show no more than their own error
MANY = 2000  # points above which a resample's minimum lies near one of all points: it is found from there
MAX_STEPS = 150
MAX_CURVED = 80  # the same for laws that are not sums of terms, which may crawl along a valley
PATIENCE = 10  # steps without a gain worth having after which a row stops
ROUGH_STEPS = 12  # steps of a curved law towards a minimum that another stage will find
BRIEF_STEPS = (
    30  # steps of a curved law if the last thousandth of the objective does not show: see `minimise`
)
BRIEF_PATIENCE = 4
BRIEF_WORTH = 1e-5
ZERO = 1e-24  # square of a residual that is rounding error
SMALL = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # shares of the value at which a vanished term is tried again
WORTH = 1e-9  # relative gain of a step worth having; starts are compared to 1e-8
AHEAD = 0.1  # share of a step at which the law is looked at for its curvature along it
TURN = 0.75  # longest acceleration, as a share of the step
HUGE = 1e100  # accelerations beyond are where the law overflows
LEAST = 1e-10  # smallest damping of scaled curvatures that keeps their inverse finite
NEAR = 1.05  # other minima within 5% of the best are worth knowing


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Best coordinates (fits, p), their objective (fits,), and the share of starts that reached it (fits,).

    `minima` (up to 8, p) are the distinct end points of the starts of the first fit within 5% of its best.
    """

    theta: Array
    objective: Array
    start_agreement: Array
    minima: Array


def solve(
    problem: Problem,
    target: Array,
    weights: Array,
    delta: float,
    *,
    starts: int = 1,
    seed: int = 0,
    precise: bool = True,
    basins: Array | None = None,
) -> Solution:
    """Minimise sum_i weights_i huber_delta(law_i - target_i) for every row of `weights` (fits, n).

    `target` is (n,) or one row per fit. `starts` independent global searches, each over its own random share
    of the grid, are run for every fit; the best wins and `start_agreement` is the share of them that found
    it. Without `precise`, laws that are not sums of power-law terms take `brief` steps, after which each
    start goes on from the best of the `basins` (m, p) if steps from there have led lower than those from its
    own search. Fits to more than `MANY` points start from the best of the `basins`, if there are any, without
    a search.
    """
    targets = np.broadcast_to(target, weights.shape)
    quick = not precise and problem.terms is None
    if basins is not None and problem.y.size > MANY:
        theta = best_of(problem, basins, targets, weights)
        return finish(problem, theta, targets, weights, delta, starts=1, quick=quick)
    theta, objective = begin(problem, targets, weights, starts=starts, seed=seed, quick=quick)
    if basins is not None and quick:
        rows = np.repeat(np.arange(weights.shape[0]), starts)
        theta = _from_basins(problem, theta, objective, basins, targets, weights, rows)
    return finish(problem, theta, targets, weights, delta, starts=starts, quick=quick)


def begin(
    problem: Problem, target: Array, weights: Array, *, starts: int, seed: int, quick: bool = False
) -> tuple[Array, Array]:
    """The first half of `solve`: rough least squares from every start of the search.

    Coordinates (fits x starts, p) and objectives; `target` and `weights` are (fits, n).
    """
    theta = search(problem, target, weights, starts, seed).reshape(weights.shape[0] * starts, -1)
    rows = np.repeat(np.arange(weights.shape[0]), starts)
    return _settled(
        problem, theta, target, weights, INFINITE, rows=rows, tolerance=ROUGH, exact=False, brief=quick
    )


def finish(
    problem: Problem,
    theta: Array,
    target: Array,
    weights: Array,
    delta: float,
    *,
    starts: int,
    quick: bool = False,
) -> Solution:
    """The second half of `solve`: from the coordinates (fits x starts, p) of `begin` to minima at `delta`."""
    fits = weights.shape[0]
    rows = np.repeat(np.arange(fits), starts)
    for stage, tolerance, exact in stages(problem, theta[::starts], target, delta):
        if exact and quick:
            break
        theta, objective = _settled(
            problem, theta, target, weights, stage, rows=rows, tolerance=tolerance, exact=exact, brief=quick
        )
    by_fit = objective.reshape(fits, starts)
    best = by_fit.argmin(axis=1)
    lowest = by_fit.min(axis=1)
    agree = by_fit - lowest[:, None] <= AGREEMENT * lowest[:, None] + ZERO * problem.y.size
    chosen = theta.reshape(fits, starts, -1)[np.arange(fits), best]
    first, heights = theta[:starts], by_fit[0]
    relative = np.round(heights / max(lowest[0], 1e-300), 4)
    distinct = [at for at in np.unique(relative, return_index=True)[1] if relative[at] <= NEAR][:8]
    return Solution(
        theta=chosen, objective=lowest, start_agreement=agree.mean(axis=1), minima=first[distinct]
    )


def _from_basins(
    problem: Problem,
    theta: Array,
    objective: Array,
    basins: Array,
    target: Array,
    weights: Array,
    rows: NDArray[np.intp],
) -> Array:
    """Where each start of a search continues: in the best of the `basins` (m, p) if that has led lower."""
    begun = best_of(problem, basins, target, weights)
    other, level = minimise(
        problem, begun, target, weights, INFINITE, tolerance=ROUGH, exact=False, brief=True
    )
    return np.where((level[rows] < objective)[:, None], other[rows], theta)


def _settled(
    problem: Problem,
    theta: Array,
    target: Array,
    weights: Array,
    delta: float,
    *,
    rows: NDArray[np.intp],
    tolerance: float,
    exact: bool,
    brief: bool,
) -> tuple[Array, Array]:
    """Local minima, once more from where a term that has vanished on the way would be worth having.

    The logarithm of a coefficient hides its gradient where the coefficient is zero, so its own unit is
    checked.
    """
    theta, objective = minimise(
        problem, theta, target, weights, delta, rows=rows, tolerance=tolerance, exact=exact, brief=brief
    )
    theta, again = _revived(problem, theta, objective, target[rows], weights[rows], delta)
    if again.any():
        begun, own = theta[again], rows[again]
        theta[again], objective[again] = minimise(
            problem, begun, target, weights, delta, rows=own, tolerance=tolerance, exact=exact, brief=brief
        )
    return theta, objective


def _revived(
    problem: Problem, theta: Array, objective: Array, target: Array, weights: Array, delta: float
) -> tuple[Array, NDArray[np.bool_]]:
    """Coordinates with vanished coefficients raised to the best share of `SMALL` where that is better."""
    theta, changed = theta.copy(), np.zeros(len(theta), dtype=bool)
    for k, name in enumerate(problem.law.free):
        if name not in problem.law.linear or not problem.logs[k]:
            continue
        unit, none = theta.copy(), theta.copy()
        none[:, k] = problem.lower[k]
        unit[:, k] = 0.0
        value = from_link(problem.link, predict(problem, none))
        share = np.median(np.abs(from_link(problem.link, predict(problem, unit)) - value), axis=1)
        floor = np.log(float(np.median(np.abs(problem.scale)))) - np.log(np.maximum(share, 1e-290))
        lowest = objective.copy()
        vanished = theta[:, k] < floor + np.log(SMALL[0])
        for level in np.log(SMALL):
            rows = np.flatnonzero(vanished & (theta[:, k] < floor + level))
            trial = theta[rows]
            trial[:, k] = np.minimum(floor[rows] + level, problem.upper[k])
            reached = huber(predict(problem, trial) - target[rows], weights[rows], delta)
            better = reached < lowest[rows]
            theta[rows[better]], lowest[rows[better]] = trial[better], reached[better]
            changed[rows[better]] = True
    return theta, changed


def minimise(
    problem: Problem,
    theta: Array,
    target: Array,
    weights: Array,
    delta: float,
    *,
    rows: NDArray[np.intp] | None = None,
    held: NDArray[np.bool_] | None = None,
    tolerance: float = 1e-12,
    exact: bool = True,
    brief: bool = False,
) -> tuple[Array, Array]:
    """Local minima from the coordinates `theta` (starts, p): coordinates and objectives.

    `rows` says which row of `target` and `weights` belongs to each start; `held` (starts, p) marks
    coordinates that stay where they are (a profile). Stops a row when a full Newton step would gain less than
    `tolerance` of it. `exact` asks for the exact Hessian, which laws that are not sums of terms pay for.
    `brief` stops those in a flat valley after `BRIEF_STEPS`, or when four steps gain less than 1e-5 of the
    objective each: an interval from n points sees changes of the order of 1/n.
    """
    rows = np.arange(theta.shape[0]) if rows is None else rows
    held = np.zeros(theta.shape, dtype=bool) if held is None else held
    out, objective = theta.copy(), np.empty(theta.shape[0])
    size = max(1, CHUNK // problem.y.size)
    for first in range(0, theta.shape[0], size):
        at = slice(first, first + size)
        own, goal, factors = theta[at], target[rows[at]], weights[rows[at]]
        out[at], objective[at] = _newton(
            problem, own, goal, factors, delta, held[at], tolerance, exact=exact, brief=brief
        )
    return out, objective


def _newton(
    problem: Problem,
    theta: Array,
    target: Array,
    weights: Array,
    delta: float,
    held: NDArray[np.bool_],
    tolerance: float,
    *,
    exact: bool,
    brief: bool,
) -> tuple[Array, Array]:
    limit, patience, worth = _effort(problem, tolerance, brief=brief)
    theta = np.clip(theta, problem.lower, problem.upper)
    final, reached = theta.copy(), np.full(theta.shape[0], np.inf)
    live = np.arange(theta.shape[0])
    state = derivatives(problem, theta, target, weights, delta, exact=exact)
    state = (state[0], *map(np.nan_to_num, state[1:]))  # a row outside the law's domain stops at once
    damping = np.full(theta.shape[0], 1e-3)
    idle = np.zeros(theta.shape[0])
    bent = len(state) > 3
    for _ in range(limit):
        objective = state[0]
        enough = tolerance * objective + 1e-3 * ZERO
        step, predicted, decrement = _step(problem, theta, state, damping, held, enough, bent=bent)
        final[live], reached[live] = theta, objective
        going = (decrement > enough) & (idle < patience) & np.isfinite(objective)
        if not going.any():
            break
        if not going.all():
            live, damping, idle = live[going], damping[going], idle[going]
            theta, step, predicted = theta[going], step[going], predicted[going]
            target, weights, held = target[going], weights[going], held[going]
            state = tuple(part[going] for part in state)
        trial = np.clip(theta + step, problem.lower, problem.upper)
        new = derivatives(problem, trial, target, weights, delta, exact=exact)
        usable = np.isfinite(new[0]) & np.isfinite(new[1]).all(axis=1) & np.isfinite(new[2]).all(axis=(1, 2))
        gain = state[0] - np.where(usable, new[0], np.inf)
        better = gain > 0
        good = better & (gain > 0.75 * predicted)
        poor = ~better | (gain < 0.25 * predicted)
        damping = np.where(good, damping * 0.1, np.where(poor, np.maximum(damping, 1e-4) * 6.0, damping))
        idle = np.where(better & (gain > worth * state[0]), 0, idle + 1)
        theta = np.where(better[:, None], trial, theta)
        worse = np.flatnonzero(~better)
        for part, fresh in zip(state, new, strict=True):
            fresh[worse] = part[worse]
        state = new
    return final, reached


def _effort(problem: Problem, tolerance: float, *, brief: bool) -> tuple[int, int, float]:
    """Most steps, steps without a gain worth having that stop a row, and the relative gain worth having."""
    if problem.terms is not None:
        return MAX_STEPS, PATIENCE, max(0.1 * tolerance, WORTH)
    if brief:
        steps = ROUGH_STEPS if tolerance >= ROUGH else BRIEF_STEPS
        return steps, BRIEF_PATIENCE, max(tolerance, BRIEF_WORTH)
    return MAX_CURVED, PATIENCE, max(0.1 * tolerance, WORTH)


def _step(
    problem: Problem,
    theta: Array,
    state: tuple[Array, ...],
    damping: Array,
    held: NDArray[np.bool_],
    enough: Array,
    *,
    bent: bool,
) -> tuple[Array, Array, Array]:
    """Damped Newton step, the gain that the model predicts for it, and the gain of an undamped one.

    The last may be any number above `enough` (rows,) where it is.
    """
    gradient, hessian = state[1:3]
    pinned = held | ((theta <= problem.lower) & (gradient > 0)) | ((theta >= problem.upper) & (gradient < 0))
    slope = np.where(pinned, 0.0, gradient)
    size = np.sqrt(np.maximum(np.abs(np.einsum("ikk->ik", hessian)), 1e-290))
    size[pinned] = 1.0
    scaled = hessian / (size[:, :, None] * size[:, None, :])
    scaled = np.minimum(np.maximum(scaled, -1e6), 1e6)
    if pinned.any():
        scaled[pinned[:, :, None] | pinned[:, None, :]] = 0.0
        np.einsum("ikk->ik", scaled)[pinned] = 1.0
    if bent:
        step, predicted, decrement = _bent(problem, theta, state, damping, scaled, slope / size, size, enough)
    else:
        curvature, directions = np.linalg.eigh(scaled)
        along = np.einsum("ikl,ik->il", directions, slope / size)
        steep = np.abs(curvature)
        moved = -along / (steep + damping[:, None] + 1e-13)
        predicted = -np.sum(along * moved + 0.5 * steep * moved**2, axis=1)
        decrement = 0.5 * np.sum(along**2 / (steep + (FLAT if problem.terms is None else 1e-10)), axis=1)
        step = np.einsum("ikl,il->ik", directions, moved) / size
    step = np.where(pinned, 0.0, step)
    largest = np.max(np.abs(step) / np.where(problem.logs, 3.0, 1.0 + np.abs(theta)), axis=1)
    return step / np.maximum(largest, 1.0)[:, None], predicted, decrement


def _bent(
    problem: Problem,
    theta: Array,
    state: tuple[Array, ...],
    damping: Array,
    scaled: Array,
    slope: Array,
    size: Array,
    enough: Array,
) -> tuple[Array, Array, Array]:
    """The same with a Gauss-Newton Hessian: a step that follows the valley's curvature.

    Geodesic acceleration (Transtrum & Sethna 2012, arXiv:1201.5885), kept if it is at most 3/4 of the step.
    """
    eye = np.eye(theta.shape[1])
    inverse = np.linalg.inv(scaled + (damping[:, None, None] + LEAST) * eye)
    moved = -(inverse @ slope[:, :, None])[:, :, 0]
    quadratic = np.einsum("ik,ikl,il->i", moved, scaled, moved)
    predicted = -np.sum(slope * moved, axis=1) - 0.5 * quadratic
    decrement = predicted.copy()  # never more than an undamped step gains, so only small ones need that
    near = np.flatnonzero(predicted <= enough)
    if near.size:
        newton = np.linalg.solve(scaled[near] + FLAT * eye, slope[near, :, None])[:, :, 0]
        decrement[near] = 0.5 * np.sum(slope[near] * newton, axis=1)
    turn = _turn(problem, theta, state, moved / size) / size
    turn = np.where((slope != 0.0) & (np.abs(turn) < HUGE), turn, 0.0)
    sideways = -(inverse @ turn[:, :, None])[:, :, 0]
    smooth = np.linalg.norm(sideways, axis=1) <= TURN * np.linalg.norm(moved, axis=1)
    moved = moved + np.where(smooth[:, None], 0.5 * sideways, 0.0)
    return moved / size, predicted, decrement


def _turn(problem: Problem, theta: Array, state: tuple[Array, ...], step: Array) -> Array:
    """Second derivative of the law along the step, projected on the coordinates' derivatives: (fits, p)."""
    centre, curve, jacobian = state[3:]
    with np.errstate(all="ignore"):
        ahead = predict(problem, theta + AHEAD * step)
        straight = np.einsum("ikj,ik->ij", jacobian, step)
        bend = 2.0 / AHEAD * ((ahead - centre) / AHEAD - straight)
        return np.asarray((jacobian @ (curve * bend)[:, :, None])[:, :, 0])
