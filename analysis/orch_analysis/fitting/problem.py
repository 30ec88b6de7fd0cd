"""One law, one set of points: residuals and exact derivatives for many parameter vectors at once.

Parameters are searched in coordinates: the logarithm of those bounded by (0, inf), the parameter itself
otherwise. Arrays carry one row per fit (a bootstrap replicate, a start, a profile point) and one column per
point or coordinate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orch_analysis.laws.law import POSITIVE, Array, Law, Link, Values

LOG_RANGE = 650.0  # coordinates of positive parameters stay within exp(+-650), the range of a double
INFINITE = float("inf")
ROUGH = 1e-3  # tolerance of a stage on the way to the minimum
STEP = 3e-5  # difference of a law without exact derivatives, in coordinates


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The log of each term as a linear function of the coordinates: design_j @ theta + offset_j."""

    columns: tuple[NDArray[np.intp], ...]
    designs: tuple[Array, ...]
    offsets: tuple[Array, ...]
    products: Mapping[tuple[int, int], Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A law and its points, ready to solve.

    y: values (n,); link: the space of the residuals; target: the values there, (n,); scale: d value / d link
        at the values, (n,)
    logs: (p,) whether a coordinate is a logarithm; lower, upper: (p,) bounds of the coordinates
    terms: the law as a sum of power-law terms, None for other laws and links
    """

    law: Law
    x: Values
    y: Array
    link: Link
    target: Array
    scale: Array
    logs: NDArray[np.bool_]
    lower: Array
    upper: Array
    terms: Terms | None


def to_link(link: Link, value: Array) -> Array:
    """The value in the space of the residuals; NaN where it has no place there."""
    with np.errstate(all="ignore"):
        if link == "log":
            return np.log(value)
        return np.log1p(-value) if link == "log_error" else np.asarray(value)


def from_link(link: Link, target: Array) -> Array:
    """Inverse of `to_link`."""
    if link == "log":
        return np.exp(target)
    return -np.expm1(target) if link == "log_error" else target


def build(law: Law, x: Values, y: Array, link: Link) -> Problem:
    """Set up the problem of fitting `law` to values `y` at `x`, residuals in `link`."""
    bounds = [law.bound(name) for name in law.free]
    logs = np.array([bound == POSITIVE for bound in bounds])
    lower = np.array([-LOG_RANGE if bound == POSITIVE else bound[0] for bound in bounds])
    upper = np.array([LOG_RANGE if bound == POSITIVE else bound[1] for bound in bounds])
    slope = {"log": y, "linear": np.ones_like(y), "log_error": 1.0 - y}[link]
    return Problem(
        law=law,
        x=x,
        y=y,
        link=link,
        target=to_link(link, y),
        scale=slope,
        logs=logs,
        lower=lower,
        upper=upper,
        terms=_terms(law, x) if law.terms and link == "log" else None,
    )


def part(problem: Problem, rows: NDArray[np.intp]) -> Problem:
    """The same problem with some of its points."""
    x = {name: values[rows] for name, values in problem.x.items()}
    return build(problem.law, x, problem.y[rows], problem.link)


def evenly_spaced(x: Values, most: int) -> NDArray[np.intp]:
    """Indices of at most `most` points, evenly spaced in the order of scale, the product of the variables."""
    scale = np.sum([np.log(values) for values in x.values()], axis=0)
    if scale.size <= most:
        return np.arange(scale.size)
    return np.sort(
        np.argsort(scale, kind="stable")[np.linspace(0, scale.size - 1, most).round().astype(np.intp)]
    )


def _terms(law: Law, x: Values) -> Terms:
    free = law.free
    columns, designs, offsets = [], [], []
    size = next(iter(x.values())).shape
    for term in law.terms:
        parts: dict[int, Array] = {}
        offset = np.zeros(size)
        if term.coefficient in free:
            parts[free.index(term.coefficient)] = np.ones(size)
        else:
            offset = offset + np.log(law.fixed[term.coefficient])
        for power in term.powers:
            logs = power.sign * np.log(power.scale * x[power.variable])
            if power.exponent in free:
                at = free.index(power.exponent)
                parts[at] = parts.get(at, np.zeros(size)) + logs
            else:
                offset = offset + law.fixed[power.exponent] * logs
        columns.append(np.array(list(parts), dtype=np.intp))
        designs.append(np.stack(list(parts.values()), axis=1) if parts else np.zeros((*size, 0)))
        offsets.append(offset)
    products = {
        (j, k): (designs[j][:, :, None] * designs[k][:, None, :]).reshape(size[0], -1)
        for j in range(len(designs))
        for k in range(j, len(designs))
    }
    return Terms(columns=tuple(columns), designs=tuple(designs), offsets=tuple(offsets), products=products)


def params_of(problem: Problem, theta: Array) -> dict[str, Array]:
    """Parameter values (fixed ones included) for coordinates (..., p), each of shape (...)."""
    values = np.where(problem.logs, np.exp(np.where(problem.logs, theta, 0.0)), theta)
    named = {name: values[..., i] for i, name in enumerate(problem.law.free)}
    fixed = {name: np.full(theta.shape[:-1], value) for name, value in problem.law.fixed.items()}
    return {name: (named | fixed)[name] for name in problem.law.params}


def theta_of(problem: Problem, params: Values) -> Array:
    """Coordinates (..., p) of parameter values; zero becomes the smallest positive number searched."""
    columns = [np.asarray(params[name], dtype=float) for name in problem.law.free]
    stacked = np.stack(np.broadcast_arrays(*columns), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        theta = np.where(problem.logs, np.log(np.where(problem.logs, stacked, 1.0)), stacked)
    return np.clip(theta, problem.lower, problem.upper)


def predict(problem: Problem, theta: Array) -> Array:
    """The law in the space of the residuals, (fits, n), for coordinates (fits, p)."""
    named = {name: value[..., None] for name, value in params_of(problem, theta).items()}
    with np.errstate(all="ignore"):
        value = to_link(problem.link, problem.law.f(problem.x, named))
    return np.broadcast_to(value, (*theta.shape[:-1], problem.y.size))


def huber(residuals: Array, weights: Array, delta: float) -> Array:
    """Sum of weights times Huber's loss (r^2/2 up to delta, linear beyond) over the last axis."""
    clipped = np.clip(residuals, -delta, delta)
    return np.asarray(np.einsum("...i,...i->...", weights * clipped, residuals - 0.5 * clipped))


def best_of(problem: Problem, basins: Array, target: Array, weights: Array) -> Array:
    """For every fit the best of the `basins` (m, p) by least squares: coordinates (fits, p)."""
    if len(basins) == 1:
        return np.repeat(basins, len(weights), axis=0)
    curves = predict(problem, basins)
    heights = np.stack([huber(curve - target, weights, INFINITE) for curve in curves])
    return np.asarray(basins[heights.argmin(axis=0)])


def stages(problem: Problem, theta: Array, target: Array, delta: float) -> list[tuple[float, float, bool]]:
    """Deltas from wide to the one asked for, each with its tolerance and whether the Hessian is exact."""
    some = slice(0, 50)
    away = np.abs(predict(problem, theta[some]) - target[some])
    spread = float(np.nanmedian(away)) if np.isfinite(away).any() else 0.0
    wide = [delta * factor for factor in (10.0, 3.0) if delta * factor < 3.0 * spread]
    if problem.terms is None:
        return [(stage, ROUGH, False) for stage in wide] + [(delta, 1e-6, False), (delta, 1e-12, True)]
    return [(stage, ROUGH, False) for stage in wide] + [(delta, 1e-12, True)]


def derivatives(
    problem: Problem, theta: Array, target: Array, weights: Array, delta: float, *, exact: bool = True
) -> tuple[Array, ...]:
    """Objective (fits,), gradient (fits, p) and Hessian (fits, p, p) at coordinates (fits, p).

    With exact=False, laws that are not sums of power-law terms get the Gauss-Newton Hessian, followed by what
    the curvature of their path needs: values (fits, n), weights in the Hessian (fits, n) and derivatives
    (fits, p, n).
    """
    if problem.terms is not None:
        return _exact(problem.terms, theta, target, weights, delta)
    with np.errstate(all="ignore"):
        return _curved(problem, theta, target, weights, delta, exact=exact)


def _exact(terms: Terms, theta: Array, target: Array, weights: Array, delta: float) -> tuple[Array, ...]:
    """Derivatives of a sum of power-law terms: with shares s_j = term_j / f, d log f = sum_j s_j design_j."""
    fits, p = theta.shape
    shares = [
        np.exp(theta[:, columns] @ design.T + offset)
        for columns, design, offset in zip(terms.columns, terms.designs, terms.offsets, strict=True)
    ]
    total = sum(shares[1:], shares[0])
    residuals = np.log(total) - target
    clipped = np.clip(residuals, -delta, delta)
    pull = weights * clipped
    objective = np.einsum("ij,ij->i", pull, residuals - 0.5 * clipped)
    curve = weights * (clipped == residuals) - pull
    inverse = 1.0 / total
    gradient = np.zeros((fits, p))
    hessian = np.zeros((fits, p, p))
    shares = [share * inverse for share in shares]
    for j, own in enumerate(terms.columns):
        pulled = pull * shares[j]
        gradient[:, own] += pulled @ terms.designs[j]
        block = (pulled + curve * shares[j] ** 2) @ terms.products[j, j]
        hessian[:, own[:, None], own] += block.reshape(fits, own.size, own.size)
        curved = curve * shares[j]
        for k in range(j + 1, len(shares)):
            other = terms.columns[k]
            cross = ((curved * shares[k]) @ terms.products[j, k]).reshape(fits, own.size, other.size)
            hessian[:, own[:, None], other] += cross
            hessian[:, other[:, None], own] += cross.transpose(0, 2, 1)
    return objective, gradient, hessian


def _curved(
    problem: Problem, theta: Array, target: Array, weights: Array, delta: float, *, exact: bool
) -> tuple[Array, ...]:
    """The same for any law, from its slopes or, without them, from differences of its values.

    Second derivatives are forward differences: they only steer the steps, not where they end.
    """
    p = theta.shape[1]
    centre, jacobian = _slopes(problem, theta)
    residuals = centre - target
    clipped = np.clip(residuals, -delta, delta)
    pull = weights * clipped
    objective = np.einsum("ij,ij->i", pull, residuals - 0.5 * clipped)
    gradient = (jacobian @ pull[:, :, None])[:, :, 0]
    curve = weights * (clipped == residuals)
    hessian = (jacobian * curve[:, None]) @ jacobian.transpose(0, 2, 1)
    if not exact:
        return objective, gradient, hessian, centre, curve, jacobian
    steps = STEP * np.maximum(1.0, np.abs(theta))
    moved = theta + np.eye(p)[:, None] * steps
    ahead = _slopes(problem, moved.reshape(-1, p))[1].reshape(p, *jacobian.shape)
    bend = np.einsum("kilj,ij->ikl", ahead - jacobian, pull) / steps[:, :, None]
    return objective, gradient, hessian + 0.5 * (bend + bend.transpose(0, 2, 1))


def _slopes(problem: Problem, theta: Array) -> tuple[Array, Array]:
    """Values in the link (fits, n) and their derivatives in the coordinates (fits, p, n).

    Without derivatives of the law's own they are central differences of the values (relative error 1e-9).
    """
    law, (fits, p) = problem.law, theta.shape
    if law.slopes is None:
        steps = STEP * np.maximum(1.0, np.abs(theta))
        away = (np.eye(p)[:, None] * steps).reshape(-1, p)
        every = np.tile(theta, (p, 1))
        ends = predict(problem, np.concatenate([theta, every + away, every - away]))
        rise = (ends[fits : fits + p * fits] - ends[fits + p * fits :]).reshape(p, fits, -1)
        return ends[:fits].copy(), (rise / (2.0 * steps.T[:, :, None])).transpose(1, 0, 2)
    named = {name: value[..., None] for name, value in params_of(problem, theta).items()}
    value, slopes = law.slopes(problem.x, named)
    link = problem.link
    factor = {"log": 1.0 / value, "linear": np.ones_like(value), "log_error": -1.0 / (1.0 - value)}[link]
    jacobian = np.empty((fits, p, problem.y.size))
    for k, name in enumerate(law.free):
        jacobian[:, k] = slopes[name] * (factor * named[name] if problem.logs[k] else factor)
    return to_link(link, value), jacobian
