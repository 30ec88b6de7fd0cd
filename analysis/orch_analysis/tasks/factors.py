"""What a task is like, in numbers: the factors that a slope may depend on, each with its definition.

Two published conclusions flip with an unstated definition (BioVFM-21M, Liu et al. 2025, arXiv:2505.09329, read off its figures):
"#samples" counts all splits, and "#classes" counts the 14 labels of a multi-label task as 14 classes. Every factor
with more than one reasonable coding is therefore here once per coding, under a name that says which.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orch_core.errors import OrchError
from orch_core.images.npz import SPLITS, Images, Labels
from orch_core.images.source import read_split

SAMPLE = 2000  # images for compressibility: the median's relative standard error is then below 1%
CLUSTERED = 5000  # images for the Davies-Bouldin index
COMPONENTS = 50

WORDS: Mapping[str, str] = {
    "n_train": "training images",
    "n_total": "images in all splits",
    "classes": "classes, a label of a multi-label task counting as one",
    "classes_binary": "classes, a multi-label task counting as binary",
    "gzip_rgb": "gzip bytes of the image as 3-channel RGB over raw bytes, median",
    "gzip_native": "gzip bytes of the image with its own channels over raw bytes, median",
    "gzip_bytes": "gzip bytes of the image with its own channels, median",
    "dbi_pixels": "Davies-Bouldin index of the classes on raw pixels",
    "dbi_pca50": "Davies-Bouldin index of the classes on 50 principal components of the pixels",
    "entropy": "class entropy, nats",
    "entropy_ratio": "class entropy over its maximum",
    "headroom": "1 - AUC of the smallest model",
}
LABELS: Mapping[str, str] = {
    "n_train": "#samples (train)",
    "n_total": "#samples (all splits)",
    "classes": "#classes (labels)",
    "classes_binary": "#classes (binary)",
    "gzip_rgb": "compressibility (RGB)",
    "gzip_native": "compressibility (native)",
    "gzip_bytes": "compressed bytes",
    "dbi_pixels": "DBI (pixels)",
    "dbi_pca50": "DBI (PCA-50)",
    "entropy": "class entropy",
    "entropy_ratio": "class entropy / max",
    "headroom": "headroom",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Factors of one task; None where a factor is undefined, with the reason in `notes`. WORDS defines each."""

    task: str
    n_train: int | None = None
    n_total: int | None = None
    classes: int | None = None
    classes_binary: int | None = None
    gzip_rgb: float | None = None
    gzip_native: float | None = None
    gzip_bytes: float | None = None
    dbi_pixels: float | None = None
    dbi_pca50: float | None = None
    entropy: float | None = None
    entropy_ratio: float | None = None
    notes: str = ""


def task_factors(tasks: Mapping[str, Path]) -> pl.DataFrame:
    """The factors of every task, a row each, from its npz in MedMNIST's format (task name -> path)."""
    types = {
        field.name: pl.String if field.name in {"task", "notes"} else pl.Float64 for field in fields(Factors)
    }
    return pl.DataFrame([asdict(factors_of(task, path)) for task, path in tasks.items()], schema=types)


def factors_of(task: str, path: Path) -> Factors:
    """The factors of one task; a file that is gone or damaged gives no factors and a note that says so.

    Labels [n, 1] are classes; labels [n, k] are k binary labels (multi-label): those have no Davies-Bouldin index,
    which needs one class per image, and no class entropy.
    """
    try:
        parts = [read_split(path, split) for split in SPLITS]
    except OrchError as error:
        return Factors(task=task, notes=f"no factors: {error.message}")
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    native, rgb = _compressed(images)
    many = labels.shape[1] > 1
    classes = labels.shape[1] if many else len(np.unique(labels))
    entropy = None if many else _entropy(labels)
    pixels, pca = (None, None) if many else _davies_bouldin(images, labels)
    return Factors(
        task=task,
        n_train=len(parts[0][0]),
        n_total=len(images),
        classes=classes,
        classes_binary=2 if many else classes,
        gzip_rgb=rgb,
        gzip_native=native / images[0].size,
        gzip_bytes=native,
        dbi_pixels=pixels,
        dbi_pca50=pca,
        entropy=entropy,
        entropy_ratio=entropy / np.log(classes) if entropy is not None and classes > 1 else None,
        notes="multi-label: no Davies-Bouldin index, no class entropy" if many else "",
    )


def _compressed(images: Images) -> tuple[float, float]:
    """Median gzip bytes with native channels, and median gzip ratio as RGB, of at most SAMPLE evenly spaced images."""
    some = images[:: -(-len(images) // SAMPLE)]
    native = [len(gzip.compress(image.tobytes())) for image in some]
    colour = np.repeat(some, 3, axis=3) if some.shape[3] == 1 else some
    rgb = native if colour is some else [len(gzip.compress(image.tobytes())) for image in colour]
    return float(np.median(native)), float(np.median(rgb)) / colour[0].size


def _entropy(labels: Labels) -> float:
    share = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(share * np.log(share)).sum())


def _davies_bouldin(images: Images, labels: Labels) -> tuple[float | None, float | None]:
    """Davies & Bouldin 1979 as in scikit-learn, on pixels in [0, 1] and on their leading principal components."""
    from sklearn.decomposition import PCA
    from sklearn.metrics import davies_bouldin_score

    step = -(-len(images) // CLUSTERED)
    pixels: NDArray[np.floating] = images[::step].reshape(-1, images[0].size) / np.float32(255)
    classes = labels[::step, 0]
    if not 1 < len(np.unique(classes)) < len(classes):
        return None, None
    count = min(COMPONENTS, *pixels.shape)
    reduced = PCA(count, svd_solver="randomized", random_state=0).fit_transform(pixels)
    return float(davies_bouldin_score(pixels, classes)), float(davies_bouldin_score(reduced, classes))
