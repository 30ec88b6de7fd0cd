"""Curve shapes whose amplitude and limit have a closed form: the parametric members of a forecast.

Every member is `y = E + B phi(x)` with E, B >= 0 and a shape phi from a fixed set, fitted to the relative
residual `(E + B phi)/y - 1`, which is the log residual to first order and linear in E and B. With the shapes
laid out beforehand nothing is searched: no starting values, the same bits every time.

Scales enter as `u = ln(x / x_last)`, so u <= 0 on the data and u > 0 beyond it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Exponents of published power laws lie in .03 to 2 (Kaplan et al. 2020; Hestness et al. 2017; Alabdulmohsin
# et al. 2022, whose tables give .1 to 1.5).
EXPONENTS = np.geomspace(0.03, 2.0, 33)
TYPICAL = 0.35  # mean of the exponents drawn for the two-break shapes
FINEST = 3e-5  # no measurement is better than this, relatively; also keeps rounding out of the posterior
MANY = 4096  # two-break shapes drawn; twice as many change no forecast by more than its noise


def power_shapes(exponents: Floats, u: Floats) -> Floats:
    """`exp(-c u)` for every exponent c [k] and log scale u [n]: [k, n]; a power law, with the limit E: M2."""
    return np.asarray(np.exp(-np.outer(exponents, u)))


def broken_grid(span: float) -> Floats:
    """Shapes of a power law with one smooth break: rows c0, c1, d, f; columns shapes.

    c0 and c1 are the exponents before and after the break at log scale d, f its width in nats (Caballero et
    al. 2023, eq. 1 with n = 1). Breaks lie between the first point and a factor of two past the last one.
    """
    before = np.array([0.0, 0.1, 0.2, 0.3, 0.45, 0.7])
    after = np.array([0.0, 0.08, 0.16, 0.25, 0.35, 0.5, 0.75, 1.1])
    place = np.linspace(-span, 0.7, 9)
    width = np.array([0.1, 0.35, 1.0])
    grid = np.array(np.meshgrid(before, after, place, width, indexing="ij")).reshape(4, -1)
    return grid[:, (grid[1] > 0) & (np.abs(grid[0] - grid[1]) > 1e-9)]


def broken_shapes(grid: Floats, u: Floats) -> Floats:
    """The shapes of `broken_grid` at u [n]: [k, n], scaled to 1 at u = d where the asymptotes cross."""
    c0, c1, d, f = grid[:, :, None]
    return np.asarray(np.exp(-c0 * (u - d) - (c1 - c0) * f * np.logaddexp(0.0, (u - d) / f)))


def twice_broken(span: float) -> Floats:
    """Shapes with two smooth breaks (Caballero et al. 2023, n = 2): rows c0, c1, c2, d1, d2, f1, f2.

    Too many for a grid, so a fixed sample: exponents exponential about .35, breaks uniform between the first
    point and a factor of e past the last, widths log-uniform from .1 to 1.5 nats.
    """
    draws = np.random.default_rng(0).random((7, MANY))
    exponents = -TYPICAL * np.log(np.maximum(draws[:3], 1e-6))
    places = np.sort(-span + (span + 1.0) * draws[3:5], axis=0)
    return np.concatenate([exponents, places, 0.1 * 15.0 ** draws[5:]])


def twice_broken_shapes(grid: Floats, u: Floats) -> Floats:
    """The shapes of `twice_broken` at u [n]: [k, n], scaled to 1 at u = 0."""
    c0, c1, c2, d1, d2, f1, f2 = grid[:, :, None]

    def logs(at: Floats) -> Floats:
        first = (c1 - c0) * f1 * np.logaddexp(0.0, (at - d1) / f1)
        second = (c2 - c1) * f2 * np.logaddexp(0.0, (at - d2) / f2)
        return np.asarray(-c0 * at - first - second)

    return np.asarray(np.exp(logs(u) - logs(np.zeros(1))))


def amplitudes(shapes: Floats, y: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Limit E, amplitude B (both >= 0) and weighted residual sum S of every shape [k, n]: three arrays [k].

    Minimises `sum w ((E + B phi)/y - 1)^2`: two normal equations per shape, then the better of the two
    edges where a sign is wrong.
    """
    inverse = 1.0 / y
    scaled = shapes * inverse
    aa, a1 = float(weights @ inverse**2), float(weights @ inverse)
    pp, ap, p1 = scaled**2 @ weights, scaled @ (weights * inverse), scaled @ weights
    determinant = aa * pp - ap**2
    with np.errstate(divide="ignore", invalid="ignore"):
        limit, size = (pp * a1 - ap * p1) / determinant, (aa * p1 - ap * a1) / determinant
    flat = ~np.isfinite(size) | (size < 0)
    limit, size = np.where(flat, a1 / aa, limit), np.where(flat, 0.0, size)
    limitless = limit < 0
    limit, size = np.where(limitless, 0.0, limit), np.where(limitless, p1 / pp, size)
    rest = weights.sum() - 2 * (limit * a1 + size * p1) + limit**2 * aa + 2 * limit * size * ap + size**2 * pp
    return limit, size, np.maximum(rest, 0.0) + FINEST**2 * weights.sum()


def power_law(u: Floats, y: Floats, target: Floats, weights: Floats) -> tuple[Floats, float]:
    """Least squares of `E + B x^-c`: ln prediction at `target` [m], and the weighted residual sum.

    The grid of exponents is refined five times about its best point, to 1e-5 of the exponent.
    """
    exponents = EXPONENTS
    for _ in range(6):
        limit, size, residuals = amplitudes(power_shapes(exponents, u), y, weights)
        best = int(residuals.argmin())
        found = limit[best] + size[best] * np.exp(-exponents[best] * target)
        rest = float(residuals[best])
        low, high = exponents[max(best - 1, 0)], exponents[min(best + 1, len(exponents) - 1)]
        exponents = np.linspace(low, high, 13)
    with np.errstate(divide="ignore"):
        return np.log(found), rest


def averaged(
    family: Callable[[Floats, Floats], Floats],
    grid: Floats,
    u: Floats,
    y: Floats,
    target: Floats,
    weights: Floats,
) -> Floats:
    """Ln prediction at `target` [m], averaged over shapes `family(grid, .)` by what u, y [n] say of each."""
    limit, size, residuals = amplitudes(family(grid, u), y, weights)
    shares = _posterior(residuals, weights)
    keep = shares > 1e-4
    with np.errstate(divide="ignore"):  # far enough a law without a limit is zero, in double precision
        logs = np.log(limit[keep, None] + size[keep, None] * family(grid[..., keep], target))
    return np.asarray(shares[keep] @ logs / shares[keep].sum())


def _posterior(residuals: Floats, weights: Floats) -> Floats:
    """Share of each shape [k], flat prior: S^(-(n - 2)/2) with n Kish's effective size.

    The noise variance is integrated out under Jeffreys' prior, which gives that power of S (Zellner 1971).
    """
    size = weights.sum() ** 2 / (weights**2).sum()
    logs = -max(size - 2, 1.0) / 2 * np.log(residuals)
    shares = np.exp(logs - logs.max())
    return np.asarray(shares / shares.sum())
