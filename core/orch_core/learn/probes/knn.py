"""The protocol `knn`: the nearest training images by cosine vote, weighted exp(cosine / temperature).

Features are those of `linear` (class token and mean patch token), but not standardised. Scores are the shares
of the votes. The validation split is not used to choose anything.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orch_core.cell import Probe
from orch_core.learn.probes.scoring import Scored, scored
from orch_core.learn.probes.subject import Features, Subject
from orch_core.learn.probes.task import Task
from orch_core.protocols.knn import PROTOCOL

VALUES = 2**23
"""Cosines in memory at a time."""


def evaluate(subject: Subject, task: Task, probe: Probe) -> Scored:
    """Score the vote on test."""
    features = subject.features(task)
    known, truth = unit(features["train"]), task.truth("train", probe)
    rows = max(1, VALUES // len(known))
    predicted = {}
    for split in ("val", "test"):
        parts = []
        for first in range(0, len(features[split]), rows):
            subject.check_stop()
            parts.append(vote(unit(features[split][first : first + rows]) @ known.T, truth))
        predicted[split] = np.concatenate(parts)
    return scored(predicted, task, probe, features=known.shape[1])


def unit(features: Features) -> Features:
    """Features [n, d] of length one."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: Features = features / np.maximum(lengths, 1e-12)
    return scaled


def vote(cosine: Features, truth: NDArray[np.int64]) -> Features:
    """Shares [m, k] of weighted votes of the nearest of n images with truth [n, k], from cosines [m, n]."""
    count = min(int(PROTOCOL.value("neighbours")), cosine.shape[1])
    near = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
    closeness = np.take_along_axis(cosine, near, axis=1)
    weights = np.exp((closeness - closeness.max(1, keepdims=True)) / float(PROTOCOL.value("temperature")))
    shares: Features = (weights[:, :, None] * truth[near]).sum(1) / weights.sum(1, keepdims=True)
    return shares
