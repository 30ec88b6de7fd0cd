"""A cell's encoder in the folder format of timm, checked by loading it there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import timm
import torch

from orch_core.cell import Cell
from orch_core.cost import encoder_shape
from orch_core.errors import OrchError
from orch_core.files import dumps, write_atomic
from orch_core.learn.augment import MEAN, STD
from orch_core.learn.encoders import encode, load_encoder, patchify
from orch_core.recipes import constants, recipe_of

ARCHITECTURE = "vit_base_patch16_224"
"""timm's entry point for a plain ViT; `model_args` give the shape."""
TOLERANCE = 1e-5
"""Largest difference of a feature, relative to their spread, by which the exported encoder may differ."""


def export_encoder(cell: Cell, weights: Path, out: Path) -> None:
    """Write `config.json`, `preprocessor_config.json` and `model.safetensors`, which timm alone can load.

    weights: the cell's encoder.safetensors. Raises OrchError if it is missing or damaged, and if what timm
    loads gives other features.
    """
    load_encoder(cell, weights)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "config.json", dumps(timm_config(cell)))
    write_atomic(out / "preprocessor_config.json", dumps(preprocessor(cell)))
    shutil.copyfile(weights, out / "model.safetensors")
    difference = _difference(cell, weights, out)
    if not difference < TOLERANCE:
        message = f"the encoder that timm loads from {out} differs from the cell's by {difference:.2g}"
        raise OrchError(message, hint="install the version of timm that orch requires")


def timm_config(cell: Cell) -> dict[str, Any]:
    """What timm needs to build the encoder: its shape, and how images are prepared."""
    model, side = cell.model, cell.resolution
    assert model is not None
    scale = float(constants(cell)["layer_scale"]) if recipe_of(cell).layer_scale else None
    return {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": model.width,
        "global_pool": "token",
        "model_args": {
            "img_size": side,
            "patch_size": cell.patch,
            "in_chans": cell.channels,
            "embed_dim": model.width,
            "depth": model.depth,
            "num_heads": model.heads,
            "mlp_ratio": (encoder_shape(cell).hidden + 0.25) / model.width,
            "init_values": scale,
        },
        "pretrained_cfg": {
            "input_size": [cell.channels, side, side],
            "fixed_input_size": True,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "mean": [MEAN] * cell.channels,
            "std": [STD] * cell.channels,
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def preprocessor(cell: Cell) -> dict[str, Any]:
    """How a uint8 image becomes an input: resized without a crop, divided by 255, normalised."""
    return {
        "do_resize": True,
        "size": {"height": cell.resolution, "width": cell.resolution},
        "resample": 2,  # PIL's code for bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * cell.channels,
        "image_std": [STD] * cell.channels,
    }


def _difference(cell: Cell, weights: Path, out: Path) -> float:
    """Largest difference between tokens of the cell's encoder and timm's, over their standard deviation."""
    theirs: Any = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, cell.channels, cell.resolution, cell.resolution, generator=generator)
    with torch.inference_mode():
        expected = encode(load_encoder(cell, weights), patchify(images, cell.patch))
        found = theirs.forward_features(images)
    return float((found - expected).abs().max() / expected.std())
