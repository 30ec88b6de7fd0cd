"""Small cells to train in tests, on data written where the test says."""

from pathlib import Path

import numpy as np

from orch_core.cell import Cell, Model, Override, Probe, SourceSubset
from orch_core.images.npz import inspect_npz
from orch_core.recipes import RECIPES

TRAINED = tuple(sorted(name for name, one in RECIPES.items() if one.uses_data and one.uses_model))


def write_images(
    path: Path, *, train: int = 96, val: int = 40, test: int = 60, side: int = 28, classes: int = 2
):
    """An npz in MedMNIST's format: grey images whose class is where a bright bar lies."""
    rng = np.random.default_rng(train)
    arrays = {}
    for split, n in (("train", train), ("val", val), ("test", test)):
        labels = np.arange(n) % classes
        images = rng.integers(0, 120, (n, side, side))
        for image, label in zip(images, labels, strict=True):
            first = label * side // classes
            image[first : first + side // classes // 2, :] += 100
        arrays |= {
            f"{split}_images": images.astype(np.uint8),
            f"{split}_labels": labels[:, None].astype(np.uint8),
        }
    np.savez(path, **arrays)
    return path


def make_cell(
    path: Path | None,
    recipe: str = "mae@1",
    *,
    width: int = 32,
    depth: int = 2,
    heads: int = 1,
    patch: int = 7,
    resolution: int = 28,
    channels: int = 1,
    samples: int = 160,
    batch: int = 16,
    images: int = 0,
    precision: str = "fp32",
    seed: int = 0,
    overrides: tuple[Override, ...] = (),
) -> Cell:
    facts = inspect_npz(path) if path else None
    portion = facts and SourceSubset(
        source="bars",
        modality="microscopy",
        images=images or facts.pretraining,
        fingerprint=facts.fingerprint,
        path=str(path),
    )
    model = Model(name=f"w{width}", width=width, depth=depth, heads=heads)
    return Cell(
        model=None if recipe == "pixels@1" else model,
        recipe=recipe,
        overrides=overrides,
        data=(portion,) if portion else (),
        resolution=resolution,
        patch=patch,
        channels=channels,
        samples_seen=samples,
        batch=batch,
        precision=precision,
        seed=seed,
    )


def make_probe(path: Path, kind: str = "binary-class", **fields) -> Probe:
    facts = inspect_npz(path)
    return Probe(
        task="bars", fingerprint=facts.fingerprint, kind=kind, classes=facts.classes, path=str(path), **fields
    )
