"""Global search and exact local steps, for all bootstrap replicates of a fit at once.

Every replicate is initialised by its own search over a grid of the non-linear parameters, where the parameters that
enter linearly have a closed form (variable projection: Golub & Pereyra 1973, SIAM J. Numer. Anal. 10:413); all
replicates share the points, so the normal equations of the whole grid are a few matrix products. From there
trust-region Newton steps (Levenberg-Marquardt damping of the exact Hessian's absolute eigenvalues) run on all rows
together, first on wide Huber deltas and then on the one asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from orch_analysis.law import POSITIVE, Array, Values
from orch_analysis.problem import Problem, derivatives, from_link, link_of, predict, theta_of

AGREEMENT = 1e-8  # starts agree when their objectives differ by less, relative to the best
CHUNK = 30_000  # fits x points worked on together: a few arrays of this size stay in the cache
MAX_STEPS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Best coordinates (fits, p), their objective (fits,), and the share of starts that reached it (fits,)."""

    theta: Array
    objective: Array
    agreement: Array


def solve(
    problem: Problem, target: Array, weights: Array, delta: float, *, starts: int = 1, seed: int = 0
) -> Solution:
    """Minimise sum_i weights_i huber_delta(law_i - target_i) for every row of `weights` (fits, n).

    `target` is (n,) or one row per fit. `starts` independent global searches, each over its own random share of the
    grid, are run for every fit; the best wins and `agreement` says how many of them found it.
    """
    fits = weights.shape[0]
    targets = np.broadcast_to(target, weights.shape)
    theta = _search(problem, targets, weights, starts, seed).reshape(fits * starts, -1)
    rows = np.repeat(np.arange(fits), starts)
    for stage, tolerance in _stages(problem, theta[::starts], targets, delta):
        theta, objective = minimise(problem, theta, targets, weights, stage, rows=rows, tolerance=tolerance)
    by_fit = objective.reshape(fits, starts)
    best = by_fit.argmin(axis=1)
    lowest = by_fit.min(axis=1)
    agree = by_fit - lowest[:, None] <= AGREEMENT * lowest[:, None] + 1e-28
    chosen = theta.reshape(fits, starts, -1)[np.arange(fits), best]
    return Solution(theta=chosen, objective=lowest, agreement=agree.mean(axis=1))


def _stages(problem: Problem, theta: Array, target: Array, delta: float) -> list[tuple[float, float]]:
    """Deltas from wide to the one asked for, with the tolerance of each; wide ones are nearly least squares."""
    if not np.isfinite(delta):
        return [(delta, 1e-12)]
    some = slice(0, 50)
    spread = float(np.nanmedian(np.abs(predict(problem, theta[some]) - target[some])))
    wide = [delta * factor for factor in (30.0, 10.0, 3.0) if delta * factor < 10.0 * spread]
    return [(stage, 1e-3) for stage in wide] + [(delta, 1e-12)]


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
) -> tuple[Array, Array]:
    """Local minima from the coordinates `theta` (starts, p): coordinates and objectives.

    `rows` says which row of `target` and `weights` belongs to each start; `held` (starts, p) marks coordinates that
    stay where they are (a profile). Stops a row when a full Newton step would gain less than `tolerance` of it.
    """
    rows = np.arange(theta.shape[0]) if rows is None else rows
    held = np.zeros(theta.shape, dtype=bool) if held is None else held
    out, objective = theta.copy(), np.empty(theta.shape[0])
    size = max(1, CHUNK // problem.y.size)
    for first in range(0, theta.shape[0], size):
        part = slice(first, first + size)
        out[part], objective[part] = _newton(
            problem, theta[part], target[rows[part]], weights[rows[part]], delta, held[part], tolerance
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
) -> tuple[Array, Array]:
    theta = np.clip(theta, problem.lower, problem.upper)
    final, reached = theta.copy(), np.full(theta.shape[0], np.inf)
    live = np.arange(theta.shape[0])
    state = derivatives(problem, theta, target, weights, delta)
    damping = np.full(theta.shape[0], 1e-3)
    for _ in range(MAX_STEPS):
        step, predicted, decrement = _step(problem, theta, state, damping, held)
        objective = state[0]
        final[live], reached[live] = theta, objective
        going = (decrement > tolerance * objective + 1e-30) & (damping < 1e12) & np.isfinite(objective)
        if not going.any():
            break
        if not going.all():
            live, theta, step, predicted, damping = (
                a[going] for a in (live, theta, step, predicted, damping)
            )
            target, weights, held = target[going], weights[going], held[going]
            state = tuple(part[going] for part in state)
        trial = np.clip(theta + step, problem.lower, problem.upper)
        new = derivatives(problem, trial, target, weights, delta)
        gain = state[0] - np.where(np.isfinite(new[0]), new[0], np.inf)
        better = gain > 0
        good = better & (gain > 0.75 * predicted)
        poor = ~better | (gain < 0.25 * predicted)
        damping = np.where(good, damping * 0.1, np.where(poor, np.maximum(damping, 1e-4) * 6.0, damping))
        theta = np.where(better[:, None], trial, theta)
        state = tuple(
            np.where(better.reshape(-1, *(1,) * (part.ndim - 1)), fresh, part)
            for part, fresh in zip(state, new, strict=True)
        )
    return final, reached


def _step(
    problem: Problem, theta: Array, state: tuple[Array, ...], damping: Array, held: NDArray[np.bool_]
) -> tuple[Array, Array, Array]:
    """Damped Newton step, the gain that the model predicts for it, and the gain of an undamped one."""
    _, gradient, hessian = state
    pinned = held | ((theta <= problem.lower) & (gradient > 0)) | ((theta >= problem.upper) & (gradient < 0))
    slope = np.where(pinned, 0.0, gradient)
    diagonal = np.einsum("ikk->ik", hessian)
    size = np.sqrt(np.maximum(np.abs(diagonal), 1e-290))
    size = np.where(pinned | ~np.isfinite(size), 1.0, size)
    free = ~pinned
    scaled = np.where(free[:, :, None] & free[:, None, :], hessian, 0.0) / (
        size[:, :, None] * size[:, None, :]
    )
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=1e6, neginf=-1e6)
    np.einsum("ikk->ik", scaled)[pinned] = 1.0
    curvature, directions = np.linalg.eigh(scaled)
    along = np.einsum("ikl,ik->il", directions, slope / size)
    steep = np.abs(curvature)
    moved = -along / (steep + damping[:, None] + 1e-13)
    predicted = -np.sum(along * moved + 0.5 * steep * moved**2, axis=1)
    decrement = 0.5 * np.sum(along**2 / (steep + 1e-10), axis=1)
    step = np.einsum("ikl,il->ik", directions, moved) / size
    largest = np.max(np.abs(step) / np.where(problem.logs, 3.0, 1.0 + np.abs(theta)), axis=1)
    return step / np.maximum(largest, 1.0)[:, None], predicted, decrement


def _search(problem: Problem, target: Array, weights: Array, starts: int, seed: int) -> Array:
    """Best candidate of each of `starts` random shares of the grid, as coordinates (fits, starts, p)."""
    law = problem.law
    linear = [name for name in law.linear if name not in law.fixed]
    grid = _candidates(problem, [name for name in law.free if name not in linear])
    count = next(iter(grid.values())).size if grid else 1
    if linear:
        score, solved = _projected(problem, grid, linear, target, weights)
    else:
        score, solved = _scored(problem, grid, target, weights), {}
    fits = np.arange(weights.shape[0])
    order = np.random.default_rng(seed).permutation(count)
    picks = np.stack(
        [share[score[:, share].argmin(axis=1)] for share in np.array_split(order, starts)], axis=1
    )
    named = {name: values[picks] for name, values in grid.items()}
    named |= {name: values[fits[:, None], picks] for name, values in solved.items()}
    return theta_of(problem, named)


def _candidates(problem: Problem, names: list[str]) -> Values:
    """Candidate values of the parameters `names`: the law's own, or a product grid over their bounds."""
    law = problem.law
    if not names:
        return {}
    if law.starts is not None:
        own = law.starts(problem.x, problem.y)
        return {name: np.asarray(own[name], dtype=float) for name in names}
    points = max(4, round(600 ** (1.0 / len(names))))
    axes = [_axis(law.bound(name), points) for name in names]
    return {name: axis.ravel() for name, axis in zip(names, np.meshgrid(*axes, indexing="ij"), strict=True)}


def _axis(bound: tuple[float, float], points: int) -> Array:
    lo, hi = bound
    if bound == POSITIVE:
        return np.geomspace(1e-6, 1e12, points)
    lo, hi = max(lo, -1e3), min(hi, 1e3)
    if lo >= 0:
        return np.geomspace(max(lo, 0.02, 1e-3 * hi if hi > 20 else 0.0), 0.5 * hi, points)
    return np.linspace(lo, hi, points + 2)[1:-1]


def _scored(problem: Problem, grid: Values, target: Array, weights: Array) -> Array:
    """Weighted squared residuals (fits, candidates) of complete candidates."""
    theta = theta_of(problem, grid)
    value = np.nan_to_num(predict(problem, theta), nan=1e6, posinf=1e6, neginf=-1e6)
    total = weights @ (value**2).T - 2.0 * (weights * target) @ value.T
    return np.asarray(total)


def _projected(
    problem: Problem, grid: Values, linear: list[str], target: Array, weights: Array
) -> tuple[Array, dict[str, Array]]:
    """Least squares of the relative residuals in the linear parameters, (fits, candidates), at every candidate.

    Near a fit log(f/y) is f/y - 1, which is linear in them; the exact objective takes over afterwards.
    """
    law = problem.law
    count = next(iter(grid.values())).size if grid else 1
    shape = (count, problem.y.size)
    shared = {name: np.full((1, 1), value) for name, value in law.fixed.items()}
    shared |= {name: values[:, None] for name, values in grid.items()}

    def at(**values: float) -> Array:
        given = {name: np.full((1, 1), values.get(name, 0.0)) for name in linear}
        with np.errstate(all="ignore"):
            return np.broadcast_to(law.f(problem.x, shared | given), shape)

    base = at()
    basis = [(at(**{name: 1.0}) - base) / problem.scale for name in linear]
    size = [np.maximum(np.abs(part).max(axis=1, keepdims=True), 1e-290) for part in basis]
    basis = [np.nan_to_num(part / norm) for part, norm in zip(basis, size, strict=True)]
    wanted = from_link(link_of(problem), target) / problem.scale
    offset = np.nan_to_num(base / problem.scale)
    pairs = {
        (j, k): weights @ (basis[j] * basis[k]).T for j in range(len(linear)) for k in range(j, len(linear))
    }
    weighted = weights * wanted
    right = [weighted @ part.T - weights @ (offset * part).T for part in basis]
    fixed_part = (
        np.einsum("ij,ij->i", weighted, wanted)[:, None] - 2.0 * weighted @ offset.T + weights @ (offset**2).T
    )
    signed = [law.bound(name)[0] < 0 for name in linear]
    gain, solved = _nonnegative(pairs, right, signed)
    values = {name: solved[j] / size[j].T for j, name in enumerate(linear)}
    tiny = 1e-4 * np.median(np.abs(problem.y))
    for j, name in enumerate(linear):
        if not signed[j] and law.bound(name) == POSITIVE:
            values[name] = np.maximum(values[name], tiny / np.median(problem.scale) / size[j].T)
    return fixed_part - gain, values


def _nonnegative(
    pairs: dict[tuple[int, int], Array], right: list[Array], signed: list[bool]
) -> tuple[Array, list[Array]]:
    """Closed-form non-negative least squares of a few coefficients, elementwise over all systems.

    The solution is that of the largest subset of coefficients whose free solution is non-negative and gains most.
    """
    total = len(right)
    shape = np.broadcast_shapes(*(part.shape for part in right))
    gain, solved = np.zeros(shape), [np.zeros(shape) for _ in range(total)]
    done = np.zeros(shape, dtype=bool)
    always = [j for j in range(total) if signed[j]]
    for count in range(total, len(always) - 1, -1):
        for subset in combinations(range(total), count):
            if not set(always) <= set(subset) or done.all() or not subset:
                continue
            at = ~done
            values = _normal_equations(
                [pairs[j, k][at] for j in subset for k in subset if k >= j], [right[j][at] for j in subset]
            )
            feasible = np.all(
                [signed[j] | (value >= 0) for j, value in zip(subset, values, strict=True)], axis=0
            )
            better = sum(value * right[j][at] for j, value in zip(subset, values, strict=True))
            improves = feasible & (np.asarray(better) > gain[at])
            where = np.flatnonzero(at)[improves]
            gain.flat[where] = np.asarray(better)[improves]
            for j in range(total):
                solved[j].flat[where] = values[subset.index(j)][improves] if j in subset else 0.0
            if count == total:
                done.flat[where] = True
    return gain, solved


def _normal_equations(upper: list[Array], right: list[Array]) -> list[Array]:
    """Solve many small symmetric systems at once by Cholesky elimination; `upper` lists the upper triangle by rows."""
    size = len(right)
    a = {}
    entries = iter(upper)
    for j in range(size):
        for k in range(j, size):
            a[j, k] = next(entries).copy()
    b = [part.copy() for part in right]
    for j in range(size):
        pivot = np.maximum(a[j, j], 1e-13)
        for k in range(j + 1, size):
            ratio = a[j, k] / pivot
            for m in range(k, size):
                a[k, m] -= ratio * a[j, m]
            b[k] -= ratio * b[j]
        a[j, j] = pivot
    for j in range(size - 1, -1, -1):
        for k in range(j + 1, size):
            b[j] -= a[j, k] * b[k]
        b[j] /= a[j, j]
    return b
