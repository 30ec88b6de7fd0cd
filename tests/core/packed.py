"""Folders of small pictures, packed and read back: what tests of packs share."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from orch_core.packs.gather import Settings, Spec
from orch_core.packs.layout import ALL
from orch_core.packs.pack import PackOptions, pack
from orch_core.packs.read import open_packs, read_images, select


def packed(out: Path, *specs: Spec, store: str = "keep", side: int = 0, **wishes) -> Path:
    pack(out, specs, PackOptions(settings=Settings(store=store, side=side), **wishes), lambda *_: None)
    return out


def spec(path: Path, name: str = "", modality: str = "ct", **fields) -> Spec:
    return Spec(name=name or path.stem, path=path, modality=modality, **fields)


def picture(seed: int, side: int = 24, colour: bool = False) -> np.ndarray:
    """A smooth image with its own gradient, so that JPEG hardly changes it."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, rng.uniform(20, 120), side)
    image = rng.uniform(0, 80) + x[:, None] + rng.uniform(0, 0.4) * x
    return np.stack([image, image / 2, image / 3], -1).astype(np.uint8) if colour else image.astype(np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def write_folder(root: Path, count: int = 30, classes: tuple[str, ...] = ("a", "b", "c")) -> Path:
    for number in range(count):
        path = root / classes[number % len(classes)] / f"p{number // 3}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number)))
    return root


def everything(folder: Path, split: str = "train", modality: str = ALL) -> list[np.ndarray]:
    packs = open_packs(folder)
    chosen = select(packs, modality, split)
    return read_images(packs, chosen.at(np.arange(chosen.count)))


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
