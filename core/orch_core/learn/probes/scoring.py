"""AUC and accuracy of test predictions on a task, with intervals, the same for every protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orch_core.cell import Probe
from orch_core.learn.probes.task import Task
from orch_core.learn.randomness import generator
from orch_core.protocols.classification import METRICS
from orch_core.protocols.ranking import Floats, auc, bootstrap, correct, delong_se
from orch_core.study.predictions import Predictions, predictions_of

Value = float | int | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The result of a probe.

    values: of the record, None for one that is not defined; draws: AUCs of the bootstrap [1000]
    predictions: of the test split; None for a protocol of many draws
    """

    values: Mapping[str, Value]
    draws: NDArray[np.float64]
    predictions: Predictions | None


def scored(predicted: Mapping[str, Floats], task: Task, probe: Probe, **more: Value) -> Scored:
    """Scores of probabilities [n, k] on `val` and `test`, with `more` values of the protocol.

    Of probabilities [d, n, k] of d draws every score is the mean over draws.

    The resamples depend on the test set alone, so that replicate k of two encoders on one task is of the same
    images: the spread of their difference is that of a paired bootstrap.
    """
    truth = {split: task.truth(split, probe) for split in predicted}
    test, labels = predicted["test"], task.labels["test"]
    area, accuracy, draws = bootstrap(test, labels, probe.kind, probe.classes, generator(0, "bootstrap"))
    binary = probe.kind == "binary-class"
    values: dict[str, Value] = {
        "auc": _area(test, truth["test"]),
        "auc_lo": area.lo,
        "auc_hi": area.hi,
        "auc_se": area.se,
        "auc_se_delong": delong_se(test[:, 0], truth["test"][:, 0]) if binary and test.ndim == 2 else None,
        "accuracy": float(np.mean([correct(one, labels, probe.kind).mean() for one in _draws_of(test)])),
        "accuracy_lo": accuracy.lo,
        "accuracy_hi": accuracy.hi,
        **{name: _mean(metric, test, labels, probe.kind) for name, metric in METRICS.items()},
        "val_auc": _area(predicted["val"], truth["val"]),
        **{f"n_{split}": len(task.labels[split]) for split in task.labels},
        "classes": probe.classes,
        **more,
    }
    kept = None
    if test.ndim == 2:
        kept = predictions_of(test, labels, task.test_ids, kind=probe.kind, classes=probe.classes)
    return Scored(
        values={name: _finite(value) for name, value in values.items()}, draws=draws, predictions=kept
    )


def _draws_of(scores: Floats) -> Floats:
    return scores if scores.ndim == 3 else scores[None]


def _mean(
    metric: Callable[[Floats, NDArray[np.int64], str], float],
    scores: Floats,
    labels: NDArray[np.int64],
    kind: str,
) -> float:
    return float(np.mean([metric(one, labels, kind) for one in _draws_of(scores)]))


def _area(scores: Floats, truth: NDArray[np.int64]) -> float:
    return float(np.mean([auc(one, truth)[0] for one in _draws_of(scores)]))


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value
