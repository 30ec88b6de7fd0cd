"""Draws of the data that the study could equally well have produced, and intervals from the refits.

Three kinds of draws, chosen in `kind`:

* "percentile" and "bca" resample rows, or whole clusters, with replacement (pairs bootstrap). They assume
  nothing about the noise, and need many units: below a hundred beyond the parameters they are too narrow or
  too wide.
* "t" keeps the design and draws new noise around the fitted curve. Without clusters the noise is the
  residuals, each divided by sqrt(1 - leverage), times one Student scale sqrt(dof / chi2_dof) per draw; for a
  linear law with normal noise the draws' percentiles are the exact t interval. With clusters the noise is
  normal with a shared part per cluster; its share and size are drawn from their restricted likelihood
  (uniform prior on the share), so that few clusters give wide intervals. Cluster pairs and wild cluster
  bootstraps cover 80 to 90% of a nominal 95% with 4 to 7 clusters, these draws 93 to 97%
  (tests/bench/bench_coverage.py).
* "parametric" draws each point from its own known standard error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from orch_analysis.fitting.problem import Problem, predict
from orch_analysis.laws.law import Array

Kind = Literal["t", "percentile", "bca", "parametric"]
MANY = 100  # units beyond the parameters from which plain resampling is used
SHARES = np.linspace(0.0, 0.98, 50)  # candidate shares of a cluster's common noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicates:
    """What to refit: one target (in the link) and one weight per row and replicate; (n,) holds for all."""

    target: Array
    weights: Array


def resampled_weights(n: int, bootstrap: int, seed: int, clusters: Array | None = None) -> Array:
    """How often each row occurs in each bootstrap sample: (bootstrap, n) counts.

    Pairs bootstrap (Efron 1979): rows are drawn with replacement, or whole clusters when their labels are
    given (Davison & Hinkley 1997, sec. 3.8). The stream is numpy's RandomState, frozen for ever (NEP 19), so
    a seed gives the same samples in every version; seed 42 gives those of Besiroglu et al. 2024
    (arXiv:2404.10102).
    """
    stream = np.random.RandomState(seed)
    units = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    count = int(units.max()) + 1 if n else 0
    drawn = (
        stream.randint(0, count, size=(bootstrap, count)) if count else np.zeros((bootstrap, 0), dtype=int)
    )
    flat = drawn + count * np.arange(bootstrap)[:, None]
    weights = np.bincount(flat.ravel(), minlength=bootstrap * count).reshape(bootstrap, count)
    return weights[:, units].astype(float)


def jacobian(problem: Problem, theta: Array) -> Array:
    """Derivatives (n, p) of the law in its link at coordinates (p,), by central differences."""
    steps = 1e-5 * np.maximum(1.0, np.abs(theta))
    moved = np.diag(steps)
    columns = (predict(problem, theta + moved) - predict(problem, theta - moved)) / (2.0 * steps[:, None])
    return np.nan_to_num(columns.T)


def replicates(
    problem: Problem,
    theta: Array,
    weights: Array,
    kind: Kind,
    bootstrap: int,
    seed: int,
    *,
    clusters: Array | None,
    stderr: Array | None,
) -> Replicates:
    """The data sets to refit around the point fit `theta` (p,); see the module's text for `kind`.

    `weights` (n,) are relative precisions, `stderr` (n,) standard errors of the values.
    """
    if kind in {"percentile", "bca"}:
        counts = resampled_weights(problem.y.size, bootstrap, seed, clusters)
        return Replicates(target=problem.target, weights=counts * weights)
    stream = np.random.default_rng(seed)
    curve = predict(problem, theta[None])[0]
    if kind == "parametric" and stderr is not None:
        noise = stream.standard_normal((bootstrap, problem.y.size)) * np.abs(stderr / problem.scale)
    else:
        root = np.sqrt(weights)
        design = jacobian(problem, theta) * root[:, None]
        residuals = (problem.target - curve) * root
        drawn = (
            _student(design, residuals, bootstrap, stream)
            if clusters is None
            else _clustered(design, residuals, clusters, bootstrap, stream)
        )
        noise = drawn / root
    return Replicates(target=curve + noise, weights=np.broadcast_to(weights, noise.shape))


def _student(design: Array, residuals: Array, bootstrap: int, stream: np.random.Generator) -> Array:
    """Resampled residuals, corrected for leverage, with a Student scale per draw: (bootstrap, n)."""
    n, p = design.shape
    leverage = np.clip(np.sum(np.linalg.qr(_scaled(design))[0] ** 2, axis=1), 0.0, 0.95)
    pool = residuals / np.sqrt(1.0 - leverage)
    dof = max(n - p, 1)
    scale = np.sqrt(dof / stream.chisquare(dof, size=(bootstrap, 1)))
    return np.asarray(scale * (pool - pool.mean())[stream.integers(0, n, size=(bootstrap, n))])


def _scaled(design: Array) -> Array:
    size = np.abs(design).max(axis=0)
    return np.asarray(design[:, size > 0] / size[size > 0])


def _clustered(
    design: Array, residuals: Array, clusters: Array, bootstrap: int, stream: np.random.Generator
) -> Array:
    """Normal noise (bootstrap, n) with a common part per cluster; variances from restricted likelihood."""
    n, p = design.shape
    labels = np.unique(clusters, return_inverse=True)[1].astype(np.intp)
    sizes = np.bincount(labels).astype(float)
    basis = np.linalg.qr(_scaled(design))[0]
    dof = max(n - p, 1)
    heights, squares = [], []
    for share in SHARES:
        inverse = _inverse_times(np.column_stack([basis, residuals]), labels, sizes, float(share))
        information = basis.T @ inverse[:, :-1]
        pull = basis.T @ inverse[:, -1]
        square = float(residuals @ inverse[:, -1] - pull @ np.linalg.solve(information, pull))
        determinant = (n - sizes.size) * np.log1p(-share) + np.log1p(share * (sizes - 1.0)).sum()
        heights.append(-0.5 * (determinant + np.linalg.slogdet(information)[1]) - 0.5 * dof * np.log(square))
        squares.append(square)
    chance = np.exp(np.array(heights) - max(heights))
    pick = stream.choice(SHARES.size, size=bootstrap, p=chance / chance.sum())
    share = SHARES[pick][:, None]
    scale = np.sqrt(np.array(squares)[pick] / stream.chisquare(dof, size=bootstrap))[:, None]
    common = stream.standard_normal((bootstrap, sizes.size))[:, labels]
    own = stream.standard_normal((bootstrap, n))
    return np.asarray(scale * (np.sqrt(share) * common + np.sqrt(1.0 - share) * own))


def _inverse_times(columns: Array, labels: NDArray[np.intp], sizes: Array, share: float) -> Array:
    """Apply the inverse of (1 - share) I + share Z Z' to each column; Z is the indicator of the clusters."""
    sums = np.zeros((sizes.size, columns.shape[1]))
    np.add.at(sums, labels, columns)
    factor = share / (1.0 - share + share * sizes)
    return np.asarray((columns - (factor[:, None] * sums)[labels]) / (1.0 - share))


def percentile(draws: Array, level: float, kind: Kind) -> tuple[float, float]:
    """Central interval of the draws (those that are numbers).

    Resampled rows get the interpolated percentiles that are published; redrawn noise the rank (draws + 1) p,
    below which a new draw falls with probability p (Hyndman & Fan 1996, type 6), so that few draws cover as
    well as many.
    """
    method: Literal["linear", "weibull"] = "linear" if kind in {"percentile", "bca"} else "weibull"
    ends = np.quantile(draws[np.isfinite(draws)], [0.5 - level / 2, 0.5 + level / 2], method=method)
    return float(ends[0]), float(ends[1])


def bca(draws: Array, estimate: float, jackknife: Array, level: float) -> tuple[float, float]:
    """Bias-corrected, accelerated interval (Efron 1987, JASA 82:171) from draws and the jackknife."""
    from scipy.special import ndtr, ndtri

    below = np.clip(np.mean(draws < estimate), 0.5 / draws.size, 1.0 - 0.5 / draws.size)
    bias = ndtri(below)
    away = jackknife.mean() - jackknife
    skew = float(np.sum(away**3) / (6.0 * np.sum(away**2) ** 1.5)) if np.any(away) else 0.0
    normal = bias + ndtri([0.5 - level / 2, 0.5 + level / 2])
    ends = np.quantile(draws, ndtr(bias + normal / (1.0 - skew * normal)))
    return float(ends[0]), float(ends[1])
