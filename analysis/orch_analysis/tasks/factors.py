"""Factors: properties of a task that its slopes may depend on, each with definition, unit and source.

Two published conclusions are reversed by an unstated definition (BioVFM-21M, Liu et al. 2025,
arXiv:2505.09329): "#samples" counts all splits, and "#classes" counts the 14 labels of a multi-label task as
14 classes. A factor with more than one reasonable definition is therefore registered once per definition,
under different names.

To add a factor, write its function and append a `Factor` to FACTORS: tables, correlations, figures and
documentation read that tuple.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orch_core.errors import OrchError
from orch_core.formatting import listed

if TYPE_CHECKING:
    from orch_core.images.npz import Images, Labels

SAMPLE = 2000  # images for compressibility: the median's relative standard error is then below 1%
CLUSTERED = 5000  # images for the Davies-Bouldin index
COMPONENTS = 50
MULTI_LABEL = "multi-label: Davies-Bouldin index and class entropy need one class per image"


@dataclass(frozen=True, kw_only=True)
class TaskImages:
    """A task's images [n, h, w, c] (uint8) and labels [n, k] of all splits, `n_train` for training first.

    Labels [n, 1] are classes; labels [n, k] are k binary labels (a multi-label task).
    """

    images: Images
    labels: Labels
    n_train: int

    @property
    def multi_label(self) -> bool:
        """True if an image can have several labels."""
        return bool(self.labels.shape[1] > 1)

    @cached_property
    def sample(self) -> Images:
        """At most SAMPLE images, evenly spaced."""
        return self.images[:: -(-len(self.images) // SAMPLE)]

    @cached_property
    def gzip_bytes(self) -> float:
        """Median gzip bytes of an image with its own channels."""
        return float(np.median([len(gzip.compress(image.tobytes())) for image in self.sample]))

    @cached_property
    def class_shares(self) -> NDArray[np.float64]:
        """Share of the images in each class that occurs."""
        return np.unique(self.labels, return_counts=True)[1] / len(self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """A property of a task that its slopes are correlated with.

    name: its column in tables; label: on axes and in tables; definition and unit: printed in reports; source:
          of the
    definition; of: computes it from the task's images and returns None if it is undefined for the task (None
    for a factor that is computed from scores); correlated: False if another factor contains the same
    information; drawn: True if the report's scatter figure has a panel for it.
    """

    name: str
    label: str
    definition: str
    unit: str
    source: str
    of: Callable[[TaskImages], float | None] | None
    correlated: bool = True
    drawn: bool = False


def task_factors(tasks: Mapping[str, tuple[Path, str]]) -> pl.DataFrame:
    """A table of the factors of every task; `tasks` maps names to npz files or packs and their fingerprints.

    Columns: task, every factor that is computed from images (Float64, null if undefined), notes. If a file is
             missing
    or damaged, or differs from its fingerprint, the factors are null and the note contains the reason.
    """
    rows = [{"task": task, **factors_of(*given)} for task, given in tasks.items()]
    types = {
        "task": pl.String,
        **{factor.name: pl.Float64 for factor in FACTORS if factor.of},
        "notes": pl.String,
    }
    return pl.DataFrame(rows, schema=types)


def factors_of(path: Path, fingerprint: str = "") -> dict[str, float | str | None]:
    """The factors of one task by name, and `notes`: the reason why some or all of them are missing."""
    from orch_core.images.npz import SPLITS
    from orch_core.images.source import read_split

    try:
        parts = [read_split(path, split, fingerprint) for split in SPLITS]
    except OrchError as error:
        return {"notes": f"factors cannot be computed: {error.message}"}
    task = TaskImages(
        images=np.concatenate([images for images, _ in parts]),
        labels=np.concatenate([labels for _, labels in parts]),
        n_train=len(parts[0][0]),
    )
    values = {factor.name: factor.of(task) for factor in FACTORS if factor.of}
    return {**values, "notes": MULTI_LABEL if task.multi_label else ""}


def label_of(name: str) -> str:
    """The label of a registered factor; for a column of a table its name."""
    return BY_NAME[name].label if name in BY_NAME else name


def in_order(names: Sequence[str]) -> list[str]:
    """Names of factors in the order of FACTORS, followed by the other names."""
    return [*(name for name in BY_NAME if name in names), *(name for name in names if name not in BY_NAME)]


def chosen_factors(wanted: Sequence[str], available: Sequence[str]) -> list[str]:
    """The wanted factors, once each; raises OrchError for one that is not available."""
    for name in wanted:
        if name not in available:
            message = f"{name!r} is not a factor here"
            raise OrchError(message, hint=f"factors: {listed(list(available)) or 'none'}")
    return list(dict.fromkeys(wanted))


def varying_factors(table: pl.DataFrame, names: Sequence[str]) -> list[str]:
    """The factors that differ between tasks, without those that equal an earlier factor on every task."""
    kept: list[str] = []
    for name in names:
        if name in table.columns and table[name].drop_nulls().n_unique() > 1:
            same = any(table[name].cast(pl.Float64).equals(table[other].cast(pl.Float64)) for other in kept)
            if not same:
                kept.append(name)
    return kept


def _classes(task: TaskImages) -> float:
    return int(task.labels.shape[1]) if task.multi_label else len(task.class_shares)


def _gzip_rgb(task: TaskImages) -> float:
    if task.sample.shape[3] != 1:
        return _gzip_native(task)
    rgb = np.repeat(task.sample, 3, axis=3)
    return float(np.median([len(gzip.compress(image.tobytes())) for image in rgb])) / int(rgb[0].size)


def _gzip_native(task: TaskImages) -> float:
    return task.gzip_bytes / int(task.images[0].size)


def _entropy(task: TaskImages) -> float | None:
    shares = task.class_shares
    return None if task.multi_label else float(-(shares * np.log(shares)).sum())


def _entropy_ratio(task: TaskImages) -> float | None:
    entropy = _entropy(task)
    return None if entropy is None or len(task.class_shares) < 2 else entropy / float(np.log(_classes(task)))


def _pixels(task: TaskImages) -> tuple[NDArray[np.floating], NDArray[np.int64]] | None:
    """Pixels in [0, 1] [n, h * w * c] and classes [n] of at most CLUSTERED images; None without clusters."""
    step = -(-len(task.images) // CLUSTERED)
    classes = task.labels[::step, 0]
    if task.multi_label or not 1 < len(np.unique(classes)) < len(classes):
        return None
    return task.images[::step].reshape(len(classes), -1) / np.float32(255), classes


def _dbi_pixels(task: TaskImages) -> float | None:
    from sklearn.metrics import davies_bouldin_score

    found = _pixels(task)
    return found and float(davies_bouldin_score(*found))


def _dbi_pca50(task: TaskImages) -> float | None:
    from sklearn.decomposition import PCA
    from sklearn.metrics import davies_bouldin_score

    if (found := _pixels(task)) is None:
        return None
    pixels, classes = found
    components = PCA(min(COMPONENTS, *pixels.shape), svd_solver="randomized", random_state=0)
    return float(davies_bouldin_score(components.fit_transform(pixels), classes))


FACTORS = (
    Factor(
        name="n_train", label="#samples (train)", definition="images in the training split", unit="images",
        source="MedMNIST's split", of=lambda task: task.n_train,
    ),
    Factor(
        name="n_total", label="#samples (all splits)", definition="images in all splits", unit="images",
        source="#samples of BioVFM-21M (arXiv:2505.09329)", of=lambda task: len(task.images), drawn=True,
    ),
    Factor(
        name="classes", label="#classes (labels)", definition="classes; each label of a multi-label task "
        "counts as one",
        unit="classes", source="#classes of BioVFM-21M (arXiv:2505.09329)", of=_classes, drawn=True,
    ),
    Factor(
        name="classes_binary", label="#classes (binary)", definition="classes; a multi-label task counts as "
        "binary",
        unit="classes", source="each label of a multi-label task is a binary task",
        of=lambda task: 2 if task.multi_label else _classes(task), drawn=True,
    ),
    Factor(
        name="gzip_rgb", label="compressibility (RGB)",
        definition="gzip bytes over raw bytes of the image as 3-channel RGB, median over at most 2,000 "
        "images", unit="ratio",
        source="compressibility of BioVFM-21M (arXiv:2505.09329)", of=_gzip_rgb, drawn=True,
    ),
    Factor(
        name="gzip_native", label="compressibility (native)",
        definition="gzip bytes over raw bytes of the image with its own channels, median over at most 2,000 "
        "images",
        unit="ratio", source="the same without replicating the channel of grey images", of=_gzip_native,
    ),
    Factor(
        name="gzip_bytes", label="compressed bytes",
        definition="gzip bytes of the image with its own channels, median over at most 2,000 images",
        unit="bytes", source="gzip_native times the image's raw bytes", of=lambda task: task.gzip_bytes,
        correlated=False,
    ),
    Factor(
        name="dbi_pixels", label="DBI (pixels)",
        definition="Davies-Bouldin index of the classes on raw pixels, at most 5,000 images", unit="none",
        source="Davies and Bouldin 1979, as in scikit-learn", of=_dbi_pixels, drawn=True,
    ),
    Factor(
        name="dbi_pca50", label="DBI (PCA-50)",
        definition="Davies-Bouldin index of the classes on 50 principal components of the pixels, at most "
        "5,000 images",
        unit="none", source="Davies and Bouldin 1979, as in scikit-learn", of=_dbi_pca50,
    ),
    Factor(
        name="entropy", label="class entropy", definition="entropy of the class shares", unit="nats",
        source="Shannon 1948", of=_entropy,
    ),
    Factor(
        name="entropy_ratio", label="class entropy / max", definition="entropy of the class shares over its "
        "maximum",
        unit="ratio", source="Shannon 1948", of=_entropy_ratio, correlated=False,
    ),
    Factor(
        name="headroom", label="headroom", definition="1 - AUC of the smallest encoder", unit="AUC",
        source="computed from the scores, per algorithm", of=None, drawn=True,
    ),
)  # fmt: skip
BY_NAME: Mapping[str, Factor] = {factor.name: factor for factor in FACTORS}
