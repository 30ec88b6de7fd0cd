"""Standard errors of a point from its test set: what `fit(..., stderr=column)` takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orch_analysis.laws.law import Array
from orch_core.errors import OrchError


def auc_stderr(scores: ArrayLike, labels: ArrayLike) -> float:
    """Standard error of the area under the ROC curve, from every test case's score and label.

    `scores` (n,) are any numbers that order the cases, `labels` (n,) are true for positives. The variance is that of
    a two-sample U-statistic: DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44:837), with the mid-rank
    form of Sun & Xu 2014 (IEEE Signal Processing Letters 21:1389), in O(n log n). Ties count one half.
    Raises OrchError for other shapes, scores that are not numbers, or fewer than two cases of a label.
    """
    positive, negative = _two_samples(scores, labels)
    ranks = _midranks(np.concatenate([positive, negative]))
    above = (ranks[: positive.size] - _midranks(positive)) / negative.size
    below = 1.0 - (ranks[positive.size :] - _midranks(negative)) / positive.size
    return float(np.sqrt(above.var(ddof=1) / positive.size + below.var(ddof=1) / negative.size))


def auc_stderr_from_counts(auc: ArrayLike, positives: ArrayLike, negatives: ArrayLike) -> Array:
    """Standard error of a published AUC from its value and the numbers of positive and negative test cases.

    Hanley & McNeil 1982 (Radiology 143:29): exact for exponentially distributed scores, a close and slightly
    cautious guess for others. Arguments broadcast. Raises OrchError for an AUC outside [0, 1] or a count below one.
    """
    area, m, n = (np.asarray(value, dtype=float) for value in (auc, positives, negatives))
    _require(((area >= 0) & (area <= 1)).all(), "AUC must lie in [0, 1]", "give 0.87, not 87")
    _require(((m >= 1) & (n >= 1)).all(), "positives and negatives must be at least 1", "count test cases")
    q1, q2 = area / (2.0 - area), 2.0 * area**2 / (1.0 + area)
    spread = area * (1.0 - area) + (m - 1.0) * (q1 - area**2) + (n - 1.0) * (q2 - area**2)
    return np.asarray(np.sqrt(np.maximum(spread, 0.0) / (m * n)))


def accuracy_stderr(accuracy: ArrayLike, n: ArrayLike) -> Array:
    """Standard error sqrt(a (1 - a) / n) of an accuracy on n independent test cases (binomial); arguments broadcast.

    The plug-in variance vanishes at 0 and 1. There the accuracy is moved by half a case, so that a point is never
    given infinite trust. Raises OrchError for an accuracy outside [0, 1] or n below one.
    """
    share, count = np.asarray(accuracy, dtype=float), np.asarray(n, dtype=float)
    _require(((share >= 0) & (share <= 1)).all(), "accuracy must lie in [0, 1]", "give 0.87, not 87")
    _require((count >= 1).all(), "n must be at least 1", "give the number of test cases")
    inside = np.clip(share, 0.5 / count, 1.0 - 0.5 / count)
    return np.asarray(np.sqrt(inside * (1.0 - inside) / count))


def _two_samples(scores: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    values, truth = np.asarray(scores, dtype=float), np.asarray(labels)
    _require(
        values.ndim == 1 and values.shape == truth.shape,
        f"scores {values.shape} and labels {truth.shape} must be two columns of one length",
        "give one score and one label per test case",
    )
    _require(np.isfinite(values).all(), "scores hold NaN or infinity", "leave those cases out, and say so")
    _require(np.isin(truth, (0, 1)).all(), "labels must be 0 or 1", "give one class against the rest")
    chosen = truth.astype(bool)
    _require(
        min(chosen.sum(), (~chosen).sum()) >= 2,
        f"{chosen.sum()} positives and {(~chosen).sum()} negatives: a variance needs two of each",
        "use a larger test set",
    )
    return values[chosen], values[~chosen]


def _midranks(values: Array) -> Array:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: NDArray[np.intp] = np.cumsum(counts)
    return np.asarray((last - 0.5 * (counts - 1.0))[at])


def _require(holds: object, message: str, hint: str) -> None:
    if not holds:
        raise OrchError(message, hint=hint)
