"""Lack of fit: whether points depart from a law by more than their noise explains.

Up to three tests are made, and the smallest p value counts, multiplied by their number (Bonferroni):

* curvature: the law and squares and products of the logs of its variables, against the law alone. It is the
  score test of the next richer form (Rao 1948): the added terms are projected against the law's derivatives,
  so that nothing is fitted again, and an F test compares them with the residuals that are left.
* wave: the same with cubes as well, for a law that bends already, such as one with an
  offset fitted to a break.
* replicates: Fisher's test of the scatter of means about the law against the scatter of points at the same
  scale (Draper & Smith 1998, sec. 2.2), if there are such points.

Huber's loss enters by its derivative, in which outliers are cut off. With clusters the scores of the added
terms are summed in every cluster, and Hotelling's test asks whether the sums are zero on average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from orch_analysis.fitting.checks.verdict import at_bound
from orch_analysis.fitting.estimates import Fit, LackOfFit
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.problem import Problem
from orch_analysis.fitting.resampling import jacobian
from orch_analysis.laws.law import Array

CHANCE = 0.05  # largest p value that is a misfit
EXACT = 1e-5  # root mean square of residuals, relative to the values, below which data are exact
ALONE = 1e-6  # share of an added term that the law must leave, or it is a part of the law
REMEDY = {
    "power": "use power_offset (a limit) or bnsl1 (a break), or compare laws with auto",
    "constant": "use a law that depends on scale",
}


def of_curve(
    problem: Problem, theta: Array, residuals: Array, weights: Array, delta: float, clusters: Array | None
) -> LackOfFit | None:
    """Lack of fit of a law at the coordinates `theta` (p,), whose residuals in the link are (n,)."""
    scale = float(np.median(np.abs(problem.y))) if problem.link == "linear" else 1.0
    inner = [k for k in range(theta.size) if not at_bound(problem, theta, k)]
    root = np.sqrt(weights)
    logs = {name: np.log(values) for name, values in problem.x.items() if np.ptp(values) > 0}
    design = jacobian(problem, theta)[:, inner] * root[:, None]
    errors = root * np.clip(residuals, -delta, delta) / max(scale, 1e-300)
    return lack_of_fit(errors, design, logs, root=root, clusters=clusters)


def lack_of_fit(
    errors: Array, design: Array, logs: Mapping[str, Array], *, root: Array, clusters: Array | None = None
) -> LackOfFit | None:
    """Lack of fit of weighted residuals (n,) of a law with derivatives (n, p).

    None if there are too few points, or data without noise, whose residuals are rounding errors.
    logs: logarithms (n,) of the variables; root: square roots (n,) of the weights.
    """
    if np.sqrt(np.mean(errors**2)) < EXACT * np.sqrt(np.mean(root**2)):
        return None
    law = _basis(design)
    errors = errors - law @ (law.T @ errors)
    centred = [(values - values.mean()) / np.ptp(values) for values in logs.values()]
    # A law with no more parameters than variables cannot follow their trends, so they are added first.
    degrees = (1, 2) if design.shape[1] <= len(centred) else (2, 3)
    added = [root * term for term in _terms(centred, degrees[0])]
    more = [*added, *(root * values ** degrees[1] for values in centred)]
    tests = {
        "curvature": _added(errors, law, added, clusters),
        "wave": _added(errors, law, more, clusters),
        "replicates": _replicates(errors, law, logs) if clusters is None else None,
    }
    made = {name: p for name, p in tests.items() if p is not None and np.isfinite(p)}
    return LackOfFit(p=min(1.0, len(made) * min(made.values())), tests=made) if made else None


def _terms(centred: Sequence[Array], degree: int) -> list[Array]:
    if degree == 1:
        return list(centred)
    return [one * other for i, one in enumerate(centred) for other in centred[i:]]


def _basis(columns: Array) -> Array:
    """An orthonormal basis (n, rank) of the columns' span."""
    size = np.abs(columns).max(axis=0, initial=0.0)
    left, values, _ = np.linalg.svd(columns[:, size > 0] / size[size > 0], full_matrices=False)
    return np.asarray(left[:, values > 1e-7 * values.max(initial=0.0)])


def _added(errors: Array, law: Array, terms: Sequence[Array], clusters: Array | None) -> float | None:
    """The p value of added terms, without what the law explains of them."""
    from scipy.special import fdtrc

    columns = np.column_stack(terms) if terms else np.zeros((errors.size, 0))
    size = np.linalg.norm(columns, axis=0)
    columns = columns - law @ (law.T @ columns)
    kept = columns[:, np.linalg.norm(columns, axis=0) > ALONE * size]
    basis = _basis(kept - law @ (law.T @ kept))
    count = basis.shape[1]
    if clusters is not None:
        return _hotelling(basis * errors[:, None], clusters, law.shape[1])
    freedom = errors.size - law.shape[1] - count
    if count == 0 or freedom < 1:
        return None
    explained = float(np.sum((basis.T @ errors) ** 2))
    left = max(float(errors @ errors) - explained, 1e-300)
    return float(fdtrc(count, freedom, explained / count / (left / freedom)))


def _hotelling(scores: Array, clusters: Array, parameters: int) -> float | None:
    """The p value of the mean (k,) of the clusters' scores, one vector per cluster (Hotelling 1931)."""
    from scipy.special import fdtrc

    labels = np.unique(clusters, return_inverse=True)[1]
    sums = np.zeros((labels.max() + 1, scores.shape[1]))
    np.add.at(sums, labels, scores)
    units, count = sums.shape
    freedom = units - parameters - count
    if count == 0 or freedom < 1:
        return None
    mean, spread = sums.mean(axis=0), np.atleast_2d(np.cov(sums.T))
    square = units * float(mean @ np.linalg.pinv(spread) @ mean)
    return float(fdtrc(count, freedom, square * freedom / (count * (units - 1))))


def _replicates(errors: Array, law: Array, logs: Mapping[str, Array]) -> float | None:
    """The p value of Fisher's test; None without points at the same scale."""
    from scipy.special import fdtrc

    scales = np.column_stack(list(logs.values())) if logs else np.zeros((errors.size, 1))
    _, labels, counts = np.unique(scales, axis=0, return_inverse=True, return_counts=True)
    labels = labels.ravel()
    between, within = counts.size - law.shape[1], errors.size - counts.size
    if between < 1 or within < 1:
        return None
    means = np.bincount(labels, errors) / counts
    left = max(float(np.sum((errors - means[labels]) ** 2)), 1e-300)
    return float(fdtrc(between, within, float(counts @ means**2) / between / (left / within)))


def with_misfit(fit: Fit, found: LackOfFit | None) -> Fit:
    """The fit with its lack of fit, which is its outcome if it is significant.

    Bands beyond the data are then withheld.
    """
    if found is None or found.p >= CHANCE:
        return replace(fit, lack_of_fit=found)
    test = min(found.tests, key=lambda name: found.tests[name])
    against = (
        "than the scatter of points at the same scale" if test == "replicates" else "than noise explains"
    )
    doubts = "" if fit.outcome is Outcome.OK else f"; {fit.outcome.replace('_', ' ')}: {fit.message}"
    message = (
        f"{fit.law.name} does not describe the {fit.n} points: they depart from it by more {against} "
        f"(test of {test}, p = {found.p:.2g}), so its bands do not hold beyond the data; "
        f"{REMEDY.get(fit.law.name, 'use a law with more parameters, or compare laws with auto')}{doubts}"
    )
    return replace(fit, lack_of_fit=found, outcome=Outcome.MISFIT, message=message)
