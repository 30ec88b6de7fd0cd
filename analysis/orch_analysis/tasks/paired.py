"""Two encoders on one test set, image by image: differences of metrics with paired intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orch_core.errors import OrchError
from orch_core.protocols import ranking
from orch_core.protocols.classification import METRICS
from orch_core.study.predictions import Predictions

RESAMPLES = 1000
Metric = Callable[[NDArray[np.float64], NDArray[np.int64]], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A metric of two encoders on the same images; `difference` is the second's minus the first's.

    lo, hi: 95% interval of the difference, by a paired bootstrap over images within classes
    p_value, test: of no difference: DeLong's for the AUC of a binary task, McNemar's exact
                   test for the accuracy of a
    task with one label; None and "" for other metrics
    """

    metric: str
    first: float
    second: float
    difference: float
    lo: float
    hi: float
    p_value: float | None = None
    test: str = ""


def metric_names() -> list[str]:
    """Names of the metrics that `paired` takes."""
    return ["auc", "accuracy", *METRICS]


def paired(
    first: Predictions, second: Predictions, metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> Paired:
    """Compare two encoders' predictions by a metric; raises OrchError if their images or labels differ."""
    if metric not in metric_names():
        message = f"no metric is called {metric!r}"
        raise OrchError(message, hint=f"choose one of {', '.join(metric_names())}")
    if first.split != second.split or first.kind != second.kind:
        message = (
            "the two probes were scored on other images or labels, and cannot be compared image by image"
        )
        raise OrchError(message, hint="compare cells of one plan, whose tasks have one file each")
    measure, labels = _metric(metric, first), first.labels
    scores = (first.scores, second.scores)
    drawn = _resampled(labels, first.kind, resamples, seed)
    spread = [
        measure(scores[1][rows], labels[rows]) - measure(scores[0][rows], labels[rows]) for rows in drawn
    ]
    lo, hi = np.nanpercentile(spread, (2.5, 97.5))
    values = [measure(one, labels) for one in scores]
    p_value, test = _test(metric, first.kind, scores, labels)
    return Paired(
        metric=metric,
        first=values[0],
        second=values[1],
        difference=values[1] - values[0],
        lo=float(lo),
        hi=float(hi),
        p_value=p_value,
        test=test,
    )


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Exact two-sided p of equal accuracies (McNemar 1947): binomial, of images that only one has right."""
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    total = only_first + only_second
    return float(binomtest(only_first, total).pvalue) if total else 1.0


def _metric(name: str, like: Predictions) -> Metric:
    kind, classes = like.kind, like.classes
    if name == "auc":
        return lambda scores, labels: float(ranking.auc(scores, ranking.indicator(labels, kind, classes))[0])
    if name == "accuracy":
        return lambda scores, labels: float(ranking.correct(scores, labels, kind).mean())
    return lambda scores, labels: METRICS[name](scores, labels, kind)


def _resampled(labels: NDArray[np.int64], kind: str, resamples: int, seed: int) -> list[NDArray[np.int64]]:
    """Rows of every resample: with replacement within classes, or among all images of a multi-label task."""
    rng = np.random.default_rng(seed)
    strata = np.zeros(len(labels), np.int64) if kind == "multi-label" else labels[:, 0]
    members = [np.flatnonzero(strata == one) for one in np.unique(strata)]
    return [np.concatenate([rng.choice(rows, len(rows)) for rows in members]) for _ in range(resamples)]


def _test(
    metric: str, kind: str, scores: tuple[NDArray[np.float64], NDArray[np.float64]], labels: NDArray[np.int64]
) -> tuple[float | None, str]:
    if metric == "auc" and kind == "binary-class":
        truth = labels[:, 0]
        difference, error = ranking.delong_difference(scores[0][:, 0], scores[1][:, 0], truth)
        if not error > 0:
            return None, ""
        return math.erfc(abs(difference) / error / math.sqrt(2)), "DeLong"
    if metric == "accuracy" and kind != "multi-label":
        right = [ranking.correct(one, labels, kind) > 0 for one in scores]
        return mcnemar(*right), "McNemar"
    return None, ""


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p values (1979), which bound the chance of any false difference among several."""
    adjusted, largest = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=lambda one: p_values[one])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return adjusted
