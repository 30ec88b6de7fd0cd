"""Whether the labels of a file make a sound task: what would give a wrong score is found before training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
SCORED = ("train", "test")
"""Splits that need every class: one is fitted, the other is scored."""
NAMED = 3


def label_fault(labels: Mapping[str, Labels]) -> str:
    """What is wrong with a task's labels [n, k] of each split, with the remedy; empty if nothing is."""
    columns = next(iter(labels.values())).shape[1]
    return _columns_fault(labels) if columns > 1 else _classes_fault(labels)


def is_one_hot(labels: Mapping[str, Labels]) -> bool:
    """Whether several columns are one class each: every image has a single 1."""
    return all(part.shape[1] > 1 and bool((part.sum(1) == 1).all()) for part in labels.values())


def _classes_fault(labels: Mapping[str, Labels]) -> str:
    found = {split: np.unique(part[:, 0]) for split, part in labels.items()}
    known = np.unique(np.concatenate(list(found.values())))
    if len(known) < 2:
        return "all its labels are the same: a task needs two classes"
    if known[0] == 1 and len(known) == known[-1]:
        return f"its labels count from 1 to {known[-1]}: subtract 1, for classes count from 0"
    gaps = np.setdiff1d(np.arange(known[-1] + 1), known)
    if len(gaps):
        gap = f"no image has the label {_some(gaps)}, and the largest is {known[-1]}"
        return f"{gap}: number the classes without gaps"
    for split in SCORED:
        missing = np.setdiff1d(known, found[split])
        if len(missing):
            return f"its {split} split has no image of class {_some(missing)}: divide it within classes"
    return ""


def _columns_fault(labels: Mapping[str, Labels]) -> str:
    if any(not np.isin(part, (0, 1)).all() for part in labels.values()):
        return "its labels have several columns with other values than 0 and 1"
    for split in SCORED:
        share = labels[split].mean(0)
        single = np.flatnonzero((share == 0) | (share == 1))
        if len(single):
            return f"its {split} split has one answer alone for label {_some(single)}: leave that label out"
    return ""


def _some(numbers: NDArray[np.int64]) -> str:
    words = ", ".join(str(number) for number in numbers[:NAMED])
    return f"{words} and {len(numbers) - NAMED} more" if len(numbers) > NAMED else words
