"""Metrics of class probabilities beside AUC and accuracy, as scikit-learn defines them.

Scores are [n, k] probabilities of classes, [n, 1] of the positive class of a binary task, or [n, k] of the
labels of a multi-label task, whose metrics are means over labels. A class or label without both answers is
left out of a mean; a metric of which nothing is left is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BINS = 15
"""Of equal width, for the calibration error (Guo et al. 2017, arXiv 1706.04599, section 2)."""
LEAST = float(np.finfo(np.float64).eps)
"""Least probability in a log loss, as in scikit-learn."""


def balanced_accuracy(scores: Floats, labels: Ints, kind: str) -> float:
    """Mean recall of the classes that occur."""
    return _mean(
        [
            np.mean([(guess[truth == one] == one).mean() for one in np.unique(truth)])
            for guess, truth in _answers(scores, labels, kind)
        ]
    )


def f1(scores: Floats, labels: Ints, kind: str) -> float:
    """F1 of the positive class or of every label; of classes the unweighted mean over those that occur."""
    found = []
    for guess, truth in _answers(scores, labels, kind):
        several = kind not in {"binary-class", "multi-label"}
        classes = np.union1d(guess, truth) if several else [1]
        parts = [_f1(guess == one, truth == one) for one in classes]
        found.append(float(np.mean(parts)))
    return _mean(found)


def average_precision(scores: Floats, labels: Ints, kind: str) -> float:
    """Sum over thresholds of precision times the step in recall, one class against the rest; their mean."""
    truth = labels if kind == "multi-label" else labels[:, :1] == np.arange(scores.shape[1])
    truth = labels[:, :1] == 1 if kind == "binary-class" else truth
    return _mean([_average_precision(scores[:, k], truth[:, k]) for k in range(scores.shape[1])])


def log_loss(scores: Floats, labels: Ints, kind: str) -> float:
    """Mean of -log p of the true class; of labels, of each one's answer."""
    return _mean(
        [
            float(-np.log(np.clip(shares[np.arange(len(truth)), truth], LEAST, 1.0)).mean())
            for shares, truth in _shares(scores, labels, kind)
        ]
    )


def brier(scores: Floats, labels: Ints, kind: str) -> float:
    """Mean squared error of the positive class's probability; of classes, summed over them (Brier 1950)."""
    found = []
    for shares, truth in _shares(scores, labels, kind):
        if kind in {"binary-class", "multi-label"}:
            found.append(float(((shares[:, 1] - truth) ** 2).mean()))
        else:
            hits = truth[:, None] == np.arange(shares.shape[1])
            found.append(float(((shares - hits) ** 2).sum(1).mean()))
    return _mean(found)


def calibration_error(scores: Floats, labels: Ints, kind: str) -> float:
    """Expected calibration error: |accuracy - confidence| of the largest probability, in 15 bins."""
    found = []
    for shares, truth in _shares(scores, labels, kind):
        confidence, right = shares.max(1), shares.argmax(1) == truth
        place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        gaps = np.bincount(place, right - confidence, BINS)
        found.append(float(np.abs(gaps).sum() / len(truth)))
    return _mean(found)


def quadratic_kappa(scores: Floats, labels: Ints, kind: str) -> float:
    """Cohen's kappa of ordered classes with quadratic weights (Cohen 1968); NaN for other kinds of task."""
    if kind != "ordinal-regression":
        return math.nan
    guess, truth = scores.argmax(1), labels[:, 0]
    expected = ((guess[:, None] - truth) ** 2).mean()
    return float(1 - ((guess - truth) ** 2).mean() / expected) if expected else math.nan


METRICS: Mapping[str, Callable[[Floats, Ints, str], float]] = {
    "balanced_accuracy": balanced_accuracy,
    "f1": f1,
    "average_precision": average_precision,
    "log_loss": log_loss,
    "brier": brier,
    "calibration_error": calibration_error,
    "quadratic_kappa": quadratic_kappa,
}
"""By the name that records give them."""


def _answers(scores: Floats, labels: Ints, kind: str) -> list[tuple[Ints, Ints]]:
    """Predicted and true classes; of a multi-label task those of every label. Binary answers are above .5."""
    if kind in {"binary-class", "multi-label"}:
        guesses = (scores > 0.5).astype(np.int64)
        return [(guesses[:, k], labels[:, k]) for k in range(scores.shape[1])]
    return [(scores.argmax(1), labels[:, 0])]


def _shares(scores: Floats, labels: Ints, kind: str) -> list[tuple[Floats, Ints]]:
    """Probabilities of every class and the true ones; of binary answers [n, 2], label by label."""
    if kind in {"binary-class", "multi-label"}:
        return [(np.stack([1 - scores[:, k], scores[:, k]], 1), labels[:, k]) for k in range(scores.shape[1])]
    return [(scores, labels[:, 0])]


def _f1(guess: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    total = guess.sum() + truth.sum()
    return float(2 * (guess & truth).sum() / total) if total else 0.0


def _average_precision(score: Floats, truth: NDArray[np.bool_] | Ints) -> float:
    if not truth.any():
        return math.nan
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(score[order]) != 0, True])
    hits = np.cumsum(truth[order]).astype(np.float64)[ends]
    return float((hits / (ends + 1) * np.diff(hits, prepend=0)).sum() / hits[-1])


def _mean(values: list[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return float(np.mean(kept)) if kept else math.nan
