"""AUC and accuracy as MedMNIST's evaluator defines them (medmnist 3.0.2, evaluator.py), with intervals.

AUC: for multi-class and ordinal tasks the unweighted mean over classes of the one-vs-rest AUC, for
     multi-label tasks
the mean over labels, for binary tasks that of the positive class's score. Accuracy: of the class with the
largest score; for binary and multi-label tasks, of scores thresholded at 0.5 (Yang et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RESAMPLES = 1000


def indicator(labels: Ints, kind: str, classes: int) -> Ints:
    """Labels [n, k] as columns of 0 and 1 to compare scores with: [n, classes], or [n, 1] for binary."""
    if kind == "multi-label":
        return labels
    if kind == "binary-class":
        return labels[:, :1]
    columns: Ints = (labels[:, :1] == np.arange(classes)).astype(np.int64)
    return columns


def auc(scores: Floats, truth: Ints, weights: Floats | None = None) -> Floats:
    """Mean over columns of the area under the ROC curve, [b] for weights [b, n] (default: one row of ones).

    The area is the fraction of (positive, negative) pairs in the right order, ties counted half (Hanley and
    McNeil 1982). A column with only positives or only negatives is ignored; the result is NaN if all columns
    are like that.
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    areas = np.stack([_area(scores[:, k], truth[:, k], weights) for k in range(truth.shape[1])])
    known = ~np.isnan(areas)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(known, areas, 0).sum(0) / known.sum(0)
    return mean


def _area(score: Floats, truth: Ints, weights: Floats) -> Floats:
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    positive = np.add.reduceat(weights[:, order] * truth[order], starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * (1 - truth[order]), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(1) * negative.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        area: Floats = np.where(pairs > 0, (positive * below).sum(1) / pairs, np.nan)
    return area


def correct(scores: Floats, labels: Ints, kind: str) -> Floats:
    """1 per image if the prediction is right, else 0; for multi-label, the fraction of right labels."""
    if kind in {"multi-label", "binary-class"}:
        right: Floats = ((scores > 0.5) == labels[:, : scores.shape[1]]).mean(1)
        return right
    hits: Floats = (scores.argmax(1) == labels[:, 0]).astype(np.float64)
    return hits


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The 95% percentile interval and standard error of a bootstrap."""

    lo: float
    hi: float
    se: float


def bootstrap(
    scores: Floats, labels: Ints, kind: str, classes: int, rng: np.random.Generator
) -> tuple[Interval, Interval, Floats]:
    """Intervals of AUC and accuracy, and AUCs, of 1,000 resamples within classes (not for multi-label)."""
    truth, right = indicator(labels, kind, classes), correct(scores, labels, kind)
    strata = np.zeros(len(labels), np.int64) if kind == "multi-label" else labels[:, 0]
    areas, accuracies = [], []
    for _ in range(0, RESAMPLES, 100):
        weights = _resamples(strata, 100, rng)
        areas.append(auc(scores, truth, weights))
        accuracies.append(weights @ right / len(right))
    draws = np.concatenate(areas)
    return _interval(draws), _interval(np.concatenate(accuracies)), draws


def delong_se(score: Floats, truth: Ints) -> float:
    """Standard error of one ROC area (DeLong et al. 1988), in the mid-rank form of Sun and Xu (2014)."""
    positive, negative = score[truth == 1], score[truth == 0]
    ranks = _midranks(np.concatenate([positive, negative]))
    m, n = len(positive), len(negative)
    v10 = (ranks[:m] - _midranks(positive)) / n
    v01 = 1 - (ranks[m:] - _midranks(negative)) / m
    return float(np.sqrt(v10.var(ddof=1) / m + v01.var(ddof=1) / n)) if min(m, n) > 1 else float("nan")


def _midranks(values: Floats) -> Floats:
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1) / 2


def _resamples(strata: Ints, count: int, rng: np.random.Generator) -> Floats:
    """How often each image is drawn, [count, n], with replacement within its stratum."""
    weights = np.empty((count, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        weights[:, members] = rng.multinomial(
            len(members), np.full(len(members), 1 / len(members)), size=count
        )
    return weights


def _interval(draws: Floats) -> Interval:
    lo, hi = np.nanpercentile(draws, [2.5, 97.5])
    return Interval(lo=float(lo), hi=float(hi), se=float(np.nanstd(draws, ddof=1)))
