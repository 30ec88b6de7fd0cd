"""Predictions of a probe on the test split, image by image, as they lie beside its record.

Scores are kept as float16 logarithms: log p of every class, or log-odds of the positive class or of every
label. In this form 1 - p keeps its digits where p is near 1, so that images keep their order.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orch_core.errors import OrchError

PREDICTIONS = "predictions.npz"
LEAST = 1e-7
"""Least probability that is told from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What a probe predicted of every test image.

    kind, classes: of the task
    logs:   float16 [n, k], see the module; labels: int64 [n, 1], or [n, k] of a multi-label task
    ids:    uint64 [n], the beginning of the content key of every image
    """

    kind: str
    classes: int
    logs: NDArray[np.float16]
    labels: NDArray[np.int64]
    ids: NDArray[np.uint64]

    @property
    def split(self) -> str:
        """Hash of the images and labels: probes with equal hashes can be compared image by image."""
        state = hashlib.blake2b(digest_size=16)
        for array in (self.ids, self.labels):
            state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()

    @property
    def scores(self) -> NDArray[np.float64]:
        """Probabilities [n, k] as metrics take them."""
        logs = self.logs.astype(np.float64)
        if self.kind in {"binary-class", "multi-label"}:
            odds: NDArray[np.float64] = 1 / (1 + np.exp(-logs))
            return odds
        shares = np.exp(logs - logs.max(1, keepdims=True))
        total: NDArray[np.float64] = shares / shares.sum(1, keepdims=True)
        return total

    def to_bytes(self) -> bytes:
        """The file."""
        buffer = io.BytesIO()
        labels = self.labels.astype(np.min_scalar_type(int(self.labels.max())))
        np.savez_compressed(
            buffer,
            kind=self.kind,
            classes=self.classes,
            logs=self.logs,
            labels=labels,
            ids=self.ids,
            split=self.split,
        )
        return buffer.getvalue()


def predictions_of(
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    ids: NDArray[np.uint64],
    *,
    kind: str,
    classes: int,
) -> Predictions:
    """Predictions from probabilities [n, k] as metrics take them."""
    logs = np.log(np.clip(scores, LEAST, 1))
    if kind in {"binary-class", "multi-label"}:
        logs -= np.log(np.clip(1 - scores, LEAST, 1))
    return Predictions(kind=kind, classes=classes, logs=logs.astype(np.float16), labels=labels, ids=ids)


def read_predictions(path: Path) -> Predictions:
    """The predictions in a file; raises OrchError if there is none, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = Predictions(
                kind=str(file["kind"]),
                classes=int(file["classes"]),
                logs=file["logs"],
                labels=file["labels"].astype(np.int64),
                ids=file["ids"],
            )
            kept = str(file["split"])
    except FileNotFoundError as error:
        message = f"{path.parent} has no predictions"
        raise OrchError(
            message, hint="few-shot probes and those of earlier versions of orch keep none"
        ) from error
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        message = f"{path} is damaged: {error}"
        raise OrchError(
            message, hint="delete the probe's folder, and `orch launch` runs the probe again"
        ) from error
    if kept != found.split:
        message = f"{path} is damaged: its images and labels do not have the hash in the file"
        raise OrchError(message, hint="delete the probe's folder, and `orch launch` runs the probe again")
    return found
