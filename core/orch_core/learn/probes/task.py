"""The images and labels of a downstream task, as a probe uses them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orch_core.cell import Probe
from orch_core.errors import OrchError
from orch_core.images.npz import SPLITS, Images, Labels, hash_order, image_keys
from orch_core.images.source import open_split
from orch_core.protocols.ranking import indicator


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Images uint8 [n, h, w, c] and labels [n, k] of each split; train already cut to the probe's limit.

    test_ids: uint64 [n], the beginning of the content key of every test image
    """

    images: dict[str, Images]
    labels: dict[str, Labels]
    test_ids: NDArray[np.uint64]

    def truth(self, split: str, probe: Probe) -> NDArray[np.int64]:
        """Labels of a split as columns of 0 and 1 (see `metrics.indicator`)."""
        return indicator(self.labels[split], probe.kind, probe.classes)


def load_task(one: Probe, scratch: Path) -> Task:
    """A task's images and labels; raises OrchError if they are unusable, or have changed since the plan.

    scratch: folder for the images of a large task, which are mapped from there and not held in memory
    """
    images, labels = {}, {}
    for split in SPLITS:
        images[split], labels[split] = open_split(Path(one.path), split, one.fingerprint, scratch)
    if one.train_limit and one.train_limit < len(images["train"]):
        chosen = limited(images["train"], labels["train"], one.train_limit)
        images["train"], labels["train"] = images["train"][chosen], labels["train"][chosen]
    if one.kind != "multi-label" and len(np.unique(labels["train"][:, 0])) < 2:
        message = f"{one.path}: the train split of {one.task} has a single class"
        raise OrchError(message, hint="a probe needs two classes; raise train_limit or check the labels")
    keys = b"".join(key[:8] for key in image_keys(images["test"]))
    return Task(images=images, labels=labels, test_ids=np.frombuffer(keys, np.uint64))


def limited(images: Images, labels: Labels, limit: int) -> NDArray[np.int64]:
    """The first `limit` images by hash rank, stratified by the first label, at least one per class."""
    order = hash_order(image_keys(images), 0)
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    chosen = []
    for label in np.unique(labels[:, 0]):
        members = np.flatnonzero(labels[:, 0] == label)
        share = max(1, round(limit * len(members) / len(labels)))
        chosen.append(members[np.argsort(ranks[members])][:share])
    return np.sort(np.concatenate(chosen))
