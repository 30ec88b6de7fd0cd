"""Values with a lowest and a highest number, such as AUC, and which predictions of them are refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orch_analysis.laws.law import Array

# A name is read in words: `auc`, `val_acc`, `acc1`, `top-5`, `test accuracy (%)`.
SHORT = {"auc", "acc", "map", "iou", "miou", "top", "pct"}
LONG = ("accuracy", "auroc", "auprc", "dice", "fraction", "percent", "precision", "probability", "proportion",
        "recall", "sensitivity", "specificity", "%")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Lowest and highest possible value; `limited`: whether a law stays below the highest by its form."""

    low: float
    high: float
    limited: bool

    def refused(self, values: Array, highest: float, beyond: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which values (points,) to refuse: outside the bounds, or on the way out, above `highest`."""
        outside = (values < self.low) | (values > self.high)
        if not self.limited:
            outside |= values > highest
        return np.asarray(beyond & outside)


def bounds_of(name: str, measured: Sequence[float]) -> tuple[float, float] | None:
    """The bounds of a metric by name: 0 and 1, or 0 and 100 if larger values were measured, or None."""
    name = name.lower()
    if not SHORT & set(re.findall("[a-z]+", name)) and not any(word in name for word in LONG):
        return None
    if not measured or min(measured) < 0:
        return None
    return next(((0.0, top) for top in (1.0, 100.0) if max(measured) <= top), None)
