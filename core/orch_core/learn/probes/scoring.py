"""AUC and accuracy of test predictions on a task, with intervals, the same for every protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orch_core.cell import Probe
from orch_core.learn.metrics import auc, bootstrap, correct, delong_se
from orch_core.learn.probes.task import Task
from orch_core.learn.randomness import generator

Value = float | int | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Values of a probe's record, None if undefined, and the bootstrap's AUCs [1000]."""

    values: Mapping[str, Value]
    draws: NDArray[np.float64]


def scored(predicted: Mapping[str, NDArray[np.float64]], task: Task, probe: Probe, **more: Value) -> Scored:
    """Scores of probabilities [n, k] on `val` and `test`, with `more` values of the protocol.

    The resamples depend on the test set only, so replicate k contains the same images for two encoders on one
    task: the standard deviation of their difference is that of a paired bootstrap.
    """
    truth = {split: task.truth(split, probe) for split in predicted}
    test, labels = predicted["test"], task.labels["test"]
    area, accuracy, draws = bootstrap(test, labels, probe.kind, probe.classes, generator(0, "bootstrap"))
    binary = probe.kind == "binary-class"
    values: dict[str, Value] = {
        "auc": float(auc(test, truth["test"])[0]),
        "auc_lo": area.lo,
        "auc_hi": area.hi,
        "auc_se": area.se,
        "auc_se_delong": delong_se(test[:, 0], truth["test"][:, 0]) if binary else None,
        "accuracy": float(correct(test, labels, probe.kind).mean()),
        "accuracy_lo": accuracy.lo,
        "accuracy_hi": accuracy.hi,
        "val_auc": float(auc(predicted["val"], truth["val"])[0]),
        **{f"n_{split}": len(task.labels[split]) for split in task.labels},
        "classes": probe.classes,
        **more,
    }
    return Scored(values={name: _finite(value) for name, value in values.items()}, draws=draws)


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value
