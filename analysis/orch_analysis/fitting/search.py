"""Global search: the best candidate of a grid for every fit, linear parameters in closed form.

Variable projection (Golub & Pereyra 1973, SIAM J. Numer. Anal. 10:413): near a fit log(f/y) is f/y - 1, which
is linear in the parameters that enter linearly, so at every point of a grid of the others they follow from
normal equations. All bootstrap replicates share the points, so the equations of the whole grid are a few
matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from orch_analysis.fitting.problem import Problem, from_link, predict, theta_of
from orch_analysis.laws.law import POSITIVE, Array, Values

BLOCK = 2048  # fits whose matrix products are formed together
CHUNK = 20_000  # fits x candidates worked on together: a few arrays of this size stay in the cache
TINY = 1e-150  # smallest pivot: its inverse and the square of that are numbers
FAR = 20.0  # replicates of rows with hardly any weight may lie farther in a log than a double can hold
POINTS = {1: 48, 2: 24, 3: 10, 4: 6}  # grid points per parameter when a law does not bring its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Rows of a (candidates, n) matrix without repetition, and where each candidate finds its own."""

    rows: Array
    at: NDArray[np.intp]

    def dot(self, weights: Array) -> Product:
        """Weights (fits, n) times the matrix transposed, still without repetition."""
        return Product(values=weights @ self.rows.T, at=self.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A (fits, candidates) matrix stored without its repeated columns."""

    values: Array
    at: NDArray[np.intp]

    def part(self, fits: slice) -> Array:
        """The rows `fits`, written out."""
        values = self.values[fits]
        return values if values.shape[1] == self.at.size else np.take(values, self.at, axis=1)


def search(problem: Problem, target: Array, weights: Array, starts: int, seed: int) -> Array:
    """Best candidate of each of `starts` random shares of the grid, as coordinates (fits, starts, p).

    `target` and `weights` are (fits, n). Candidates are ranked by weighted squared residuals.
    """
    law = problem.law
    linear = [name for name in law.linear if name not in law.fixed]
    grid = candidates(problem, [name for name in law.free if name not in linear])
    count = next(iter(grid.values())).size if grid else 1
    shares = np.array_split(np.random.default_rng(seed).permutation(count), min(starts, count))
    rank = _Projected(problem, grid, linear) if linear else _Scored(problem, grid)
    parts = [
        rank.best(target[first : first + BLOCK], weights[first : first + BLOCK], shares)
        for first in range(0, weights.shape[0], BLOCK)
    ]
    named = {name: np.concatenate([part[name] for part in parts]) for name in law.free}
    theta = theta_of(problem, named)
    return np.asarray(np.take(theta, np.arange(starts) % theta.shape[1], axis=1))


def candidates(problem: Problem, names: list[str]) -> Values:
    """Candidate values of the parameters `names`: the law's own, or a product grid over their bounds."""
    law = problem.law
    if not names:
        return {}
    if law.starts is not None:
        own = law.starts(problem.x, problem.y)
        return {name: np.asarray(own[name], dtype=float) for name in names}
    points = POINTS.get(len(names), 4)
    axes = np.meshgrid(*(_axis(law.bound(name), points) for name in names), indexing="ij")
    return {name: axis.ravel() for name, axis in zip(names, axes, strict=True)}


def _axis(bound: tuple[float, float], points: int) -> Array:
    if bound == POSITIVE:
        return np.geomspace(1e-6, 1e12, points)
    lo, hi = max(bound[0], -1e3), min(bound[1], 1e3)
    if lo >= 0:
        return np.geomspace(max(lo, 0.02, 1e-3 * hi if hi > 20 else 0.0), 0.5 * hi, points)
    return np.linspace(lo, hi, points + 2)[1:-1]


class _Scored:
    """Complete candidates, ranked by their weighted squared residuals."""

    def __init__(self, problem: Problem, grid: Values) -> None:
        self.grid = grid
        theta = theta_of(problem, grid)
        self.value = np.nan_to_num(predict(problem, theta), nan=1e6, posinf=1e6, neginf=-1e6)

    def best(self, target: Array, weights: Array, shares: Sequence[NDArray[np.intp]]) -> dict[str, Array]:
        score = weights @ (self.value**2).T - 2.0 * (weights * target) @ self.value.T
        picks = np.stack([share[score[:, share].argmin(axis=1)] for share in shares], axis=1)
        return {name: values[picks] for name, values in self.grid.items()}


class _Projected:
    """Candidates of the non-linear parameters, ranked after solving for the linear ones."""

    def __init__(self, problem: Problem, grid: Values, linear: list[str]) -> None:
        self.problem, self.grid, self.linear = problem, grid, linear
        law = problem.law
        self.count = next(iter(grid.values())).size if grid else 1
        shape = (self.count, problem.y.size)
        shared = {name: np.full((1, 1), value) for name, value in law.fixed.items()}
        shared |= {name: values[:, None] for name, values in grid.items()}

        def at(one: str | None) -> Array:
            given = {name: np.full((1, 1), float(name == one)) for name in linear}
            with np.errstate(all="ignore"):
                return np.broadcast_to(law.f(problem.x, shared | given) / problem.scale, shape)

        base = np.nan_to_num(at(None))
        basis = [np.nan_to_num(at(name) - base) for name in linear]
        self.size = [np.maximum(np.abs(part).max(axis=1), 1e-290) for part in basis]
        basis = [part / size[:, None] for part, size in zip(basis, self.size, strict=True)]
        pairs = [(j, k) for j in range(len(linear)) for k in range(j, len(linear))]
        self.pairs = {(j, k): _columns(basis[j] * basis[k]) for j, k in pairs}
        self.right = [_columns(part) for part in basis]
        self.shifts = [_columns(base * part) for part in basis]
        self.base, self.square = _columns(base), _columns(base**2)
        self.signed = [law.bound(name)[0] < 0 for name in linear]

    def best(self, target: Array, weights: Array, shares: Sequence[NDArray[np.intp]]) -> dict[str, Array]:
        link, own = self.problem.link, self.problem.target
        near = target if link == "linear" else np.clip(target, own - FAR, own + FAR)
        wanted = from_link(link, near) / self.problem.scale
        weighted = weights * wanted
        pairs = {key: columns.dot(weights) for key, columns in self.pairs.items()}
        right = [columns.dot(weighted) for columns in self.right]
        shifts = [columns.dot(weights) for columns in self.shifts]
        square, cross = self.square.dot(weights), self.base.dot(weighted)
        size = max(1, CHUNK // self.count)
        chosen: list[list[Array]] = []
        for first in range(0, weights.shape[0], size):
            fits = slice(first, first + size)
            gain, solved = nonnegative(
                {key: product.part(fits) for key, product in pairs.items()},
                [a.part(fits) - b.part(fits) for a, b in zip(right, shifts, strict=True)],
                self.signed,
            )
            score = square.part(fits) - 2.0 * cross.part(fits) - gain
            picks = np.stack([share[score[:, share].argmin(axis=1)] for share in shares], axis=1)
            chosen.append([picks, *(np.take_along_axis(part, picks, axis=1) for part in solved)])
        picks, *values = (np.concatenate(parts) for parts in zip(*chosen, strict=True))
        named = {name: candidate[picks] for name, candidate in self.grid.items()}
        return named | self._coefficients(picks, values)

    def _coefficients(self, picks: NDArray[np.intp], values: list[Array]) -> dict[str, Array]:
        """Undo the scaling; a coefficient that came out as zero starts from a small share of the value."""
        tiny = 1e-4 * float(np.median(np.abs(self.problem.y / self.problem.scale)))
        named = {}
        for name, value, size in zip(self.linear, values, self.size, strict=True):
            positive = self.problem.law.bound(name) == POSITIVE
            named[name] = (np.maximum(value, tiny) if positive else value) / size[picks]
        return named


def _columns(matrix: Array) -> Columns:
    """Find equal rows by a fingerprint: many candidates share their values of a term."""
    probe = np.random.default_rng(0).uniform(0.5, 1.5, matrix.shape[1])
    with np.errstate(divide="ignore"):
        prints = np.einsum("ij,j->i", matrix, probe)
        digits = np.power(10.0, 12 - np.ceil(np.log10(np.where(prints == 0, 1.0, np.abs(prints)))))
    _, first, at = np.unique(np.round(prints * digits) / digits, return_index=True, return_inverse=True)
    if first.size == matrix.shape[0]:
        return Columns(rows=matrix, at=np.arange(first.size))
    return Columns(rows=matrix[first], at=at.astype(np.intp))


def nonnegative(
    pairs: dict[tuple[int, int], Array], right: list[Array], signed: list[bool]
) -> tuple[Array, list[Array]]:
    """Least squares of a few coefficients, non-negative unless `signed`, elementwise over all systems.

    `pairs` holds the upper triangles of the normal equations, `right` their right-hand sides. Returns the
    decrease of the sum of squares and the coefficients: the best over all subsets whose own solution is
    feasible.
    """
    total = len(right)
    shape = np.broadcast_shapes(*(part.shape for part in right))
    gain, solved = np.zeros(shape), [np.zeros(shape) for _ in range(total)]
    always = {j for j in range(total) if signed[j]}
    for count in range(total, 0, -1):
        for subset in combinations(range(total), count):
            if not always <= set(subset):
                continue
            values = _normal_equations(
                [pairs[j, k] for j in subset for k in subset if k >= j], [right[j] for j in subset]
            )
            reached = np.sum([value * right[j] for j, value in zip(subset, values, strict=True)], axis=0)
            better = reached > gain
            for j, value in zip(subset, values, strict=True):
                better &= signed[j] | (value >= 0)
            gain = np.where(better, reached, gain)
            for j in range(total):
                solved[j] = np.where(better, values[subset.index(j)] if j in subset else 0.0, solved[j])
    return gain, solved


def _normal_equations(upper: list[Array], right: list[Array]) -> list[Array]:
    """Solve many small symmetric systems at once by elimination; `upper` lists the upper triangles by rows.

    A pivot below rounding error (columns alike wherever the weights are) counts as that: its solution ranks
    last.
    """
    size = len(right)
    places = [(j, k) for j in range(size) for k in range(j, size)]
    a = dict(zip(places, upper, strict=True))
    b = list(right)
    least = [np.maximum(1e-13 * a[j, j], TINY) for j in range(size)]
    for j in range(size):
        a[j, j] = np.maximum(a[j, j], least[j])
        for k in range(j + 1, size):
            ratio = a[j, k] / a[j, j]
            for m in range(k, size):
                a[k, m] = a[k, m] - ratio * a[j, m]
            b[k] = b[k] - ratio * b[j]
    for j in range(size - 1, -1, -1):
        for k in range(j + 1, size):
            b[j] = b[j] - a[j, k] * b[k]
        b[j] = b[j] / a[j, j]
    return b
