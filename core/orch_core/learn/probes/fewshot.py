"""The protocol `fewshot`: nearest centroid of few images per class, in draws that every encoder shares.

SimpleShot's CL2N: features less their mean over the training images (without labels), at length one; the
class of the nearest centroid. Scores are the softmax of the negative squared distances (Snell et al. 2017,
arXiv 1703.05175, equation 2). A multi-label task has a positive and a negative centroid per label. Validation
chooses nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orch_core.cell import Probe
from orch_core.errors import OrchError
from orch_core.learn.probes.knn import unit
from orch_core.learn.probes.scoring import Scored, Value, scored
from orch_core.learn.probes.subject import Features, Subject
from orch_core.learn.probes.task import Task
from orch_core.learn.randomness import generator
from orch_core.protocols.fewshot import PROTOCOL, SHOTS
from orch_core.protocols.ranking import auc, correct

Rows = NDArray[np.int64]


def evaluate(subject: Subject, task: Task, probe: Probe) -> Scored:
    """Score every number of shots that all classes have; `auc` is of `reported_shots`, or the most below.

    auc_shots_5, auc_shots_5_sd: mean and standard deviation over the draws on test, and accuracy_shots_5 the
    mean; None where a class has fewer images. Raises OrchError if a class has no training image.
    """
    features = centred(subject.features(task))
    classes = [np.flatnonzero(column) for column in _columns(task, probe).T]
    fewest = min(len(members) for members in classes)
    if not fewest:
        message = f"{probe.task}: a class has no image in the train split, so that it has no centroid"
        raise OrchError(message, hint="raise probes.train_limit, or probe this task by other protocols")
    wanted = int(PROTOCOL.value("reported_shots"))
    reported = max(shots for shots in SHOTS if shots <= min(wanted, fewest))
    values: dict[str, Value] = {"shots": reported, "fewest_of_a_class": fewest}
    kept: dict[str, Features] = {}
    for shots in SHOTS:
        shares = _drawn(subject, features, classes, shots, probe) if shots <= fewest else None
        values |= _summary(shots, None if shares is None else shares["test"], task, probe)
        if shots == reported and shares is not None:
            kept = shares
    return scored(kept, task, probe, features=features["train"].shape[1], **values)


def centred(features: dict[str, Features]) -> dict[str, Features]:
    """Features of every split less the mean over train, at length one (CL2N)."""
    mean = features["train"].mean(0)
    return {split: unit(part - mean) for split, part in features.items()}


def draw(classes: list[Rows], shots: int, number: int) -> list[Rows]:
    """Rows of `shots` images of each class; those of a smaller number of shots are among them."""
    rng = generator(0, f"{PROTOCOL.id}|draw", number)
    return [np.sort(members[rng.permutation(len(members))[:shots]]) for members in classes]


def centroid_shares(features: Features, centroids: Features) -> Features:
    """Softmax over classes of minus the squared distance of features [n, d] from centroids [k, d]."""
    distance = (features**2).sum(1)[:, None] - 2 * features @ centroids.T + (centroids**2).sum(1)
    grown = np.exp(distance.min(1, keepdims=True) - distance)
    shares: Features = grown / grown.sum(1, keepdims=True)
    return shares


def _columns(task: Task, probe: Probe) -> Rows:
    """Membership [n, k] of the training images: in a class, or without and with each label of several."""
    labels = task.labels["train"]
    if probe.kind == "multi-label":
        return np.stack([1 - labels, labels], 2).reshape(len(labels), -1)
    columns: Rows = (labels[:, :1] == np.arange(probe.classes)).astype(np.int64)
    return columns


def _drawn(
    subject: Subject, features: dict[str, Features], classes: list[Rows], shots: int, probe: Probe
) -> dict[str, Features]:
    """Scores [draws, n, k] of val and test."""
    found: dict[str, list[Features]] = {"val": [], "test": []}
    for number in range(int(PROTOCOL.value("draws"))):
        subject.check_stop()
        centroids = np.stack([features["train"][rows].mean(0) for rows in draw(classes, shots, number)])
        for split, parts in found.items():
            parts.append(_shares(features[split], centroids, probe))
    return {split: np.stack(parts) for split, parts in found.items()}


def _shares(features: Features, centroids: Features, probe: Probe) -> Features:
    if probe.kind == "multi-label":
        pairs = centroids.reshape(-1, 2, centroids.shape[1])
        return np.stack([centroid_shares(features, pair)[:, 1] for pair in pairs], 1)
    shares = centroid_shares(features, centroids)
    return shares[:, 1:] if probe.kind == "binary-class" else shares


def _summary(shots: int, shares: Features | None, task: Task, probe: Probe) -> dict[str, Value]:
    names = (f"auc_shots_{shots}", f"auc_shots_{shots}_sd", f"accuracy_shots_{shots}")
    if shares is None:
        return dict.fromkeys(names)
    truth, labels = task.truth("test", probe), task.labels["test"]
    areas = np.array([auc(one, truth)[0] for one in shares])
    right = np.mean([correct(one, labels, probe.kind).mean() for one in shares])
    return dict(zip(names, (float(areas.mean()), float(areas.std(ddof=1)), float(right)), strict=True))
