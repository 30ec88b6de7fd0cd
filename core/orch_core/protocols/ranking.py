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
    """Intervals of AUC and accuracy, and the AUCs, under 1,000 resamples of the images within each class.

    A multi-label image is resampled as a whole row. Scores [d, n, k] of d draws share the resamples in equal
    parts, in order, so that the intervals contain the spread between draws; d divides 1,000.
    """
    draws = scores if scores.ndim == 3 else scores[None]
    truth = indicator(labels, kind, classes)
    right = np.stack([correct(one, labels, kind) for one in draws])
    strata = np.zeros(len(labels), np.int64) if kind == "multi-label" else labels[:, 0]
    areas, accuracies = [], []
    parts = max(RESAMPLES // 100, len(draws))
    for part in range(parts):
        one = part * len(draws) // parts
        weights = _resamples(strata, RESAMPLES // parts, rng)
        areas.append(auc(draws[one], truth, weights))
        accuracies.append(weights @ right[one] / right.shape[1])
    found = np.concatenate(areas)
    return _interval(found), _interval(np.concatenate(accuracies)), found


def delong_se(score: Floats, truth: Ints) -> float:
    """Standard error of one ROC area (DeLong et al. 1988), in the mid-rank form of Sun and Xu (2014)."""
    v10, v01 = _placements(score, truth)
    few = min(len(v10), len(v01)) < 2
    return float("nan") if few else float(np.sqrt(v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01)))


def delong_difference(first: Floats, second: Floats, truth: Ints) -> tuple[float, float]:
    """ROC area of `second` minus that of `first`, and its standard error (DeLong et al. 1988, section 3)."""
    (a10, a01), (b10, b01) = _placements(first, truth), _placements(second, truth)
    difference = float(b10.mean() - a10.mean())
    if min(len(a10), len(a01)) < 2:
        return difference, float("nan")
    variance = (b10 - a10).var(ddof=1) / len(a10) + (b01 - a01).var(ddof=1) / len(a01)
    return difference, float(np.sqrt(variance))


def _placements(score: Floats, truth: Ints) -> tuple[Floats, Floats]:
    """Of each positive the share of negatives below it, of each negative the share of positives above."""
    positive, negative = score[truth == 1], score[truth == 0]
    m, n = len(positive), len(negative)
    ranks = _midranks(np.concatenate([positive, negative]))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (ranks[:m] - _midranks(positive)) / n, 1 - (ranks[m:] - _midranks(negative)) / m


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
