"""MAE (He et al. 2022, arXiv 2111.06377): reconstruct masked patches from the visible ones.

Constants are those of the paper's table 8 and section 4 at their scale (batch 4096, ViT-B/L/H). Where a study
works at another scale each rule states how it extrapolates.
"""

from __future__ import annotations

from orch_core.cell import Cell
from orch_core.recipes.base import (
    OURS,
    SCHEDULE,
    Constant,
    Constants,
    Recipe,
    TrainingCost,
    scaled_rate,
    width_of,
)
from orch_core.vit import Flops, Shape, activations, block, block_params, encoder, linear


def learning_rate(cell: Cell) -> float:
    """2.4e-3 (1.5e-4 x 4096/256) at batch 4096 and width 768 and more."""
    return scaled_rate(cell, 2.4e-3, batch=4096, width=768)


def decoder_width(cell: Cell) -> int:
    """Half the encoder's width in steps of 32, at most the official 512 (which it is at ViT-L)."""
    return min(512, max(32, 32 * round(width_of(cell) / 64)))


def decoder_depth(cell: Cell) -> int:
    """A third of the encoder's depth, at most the official 8 (which it is at ViT-L)."""
    depth = cell.model.depth if cell.model else 0
    return min(8, max(1, round(depth / 3)))


def kept(patches: int, mask_ratio: float) -> int:
    """Visible patches of an image: int(L x (1 - ratio)), at least one (section 3, note on code)."""
    return max(1, int(patches * (1 - mask_ratio)))


def training_cost(cell: Cell, shape: Shape, constants: Constants) -> TrainingCost:
    """Visible tokens through the encoder; all tokens through the decoder; pixels predicted where masked."""
    width, depth = int(constants["decoder_width"]), int(constants["decoder_depth"])
    visible = kept(shape.patches, float(constants["mask_ratio"]))
    decoder = block(shape.tokens, width, 4 * width).times(depth)
    flops: Flops = (
        encoder(shape, patches=visible)
        + linear(visible + 1, shape.width, width)
        + decoder
        + linear(shape.patches - visible, width, shape.pixels)
    )
    head = (shape.width + 1) * width + width + depth * block_params(width, 4 * width) + 2 * width
    view = activations(
        visible + 1,
        shape.width,
        shape.hidden,
        shape.depth,
        precision=cell.precision,
        patches=(visible, shape.pixels),
    )
    decoding = activations(shape.tokens, width, 4 * width, depth, precision=cell.precision)
    return TrainingCost(
        params_head=head + (width + 1) * shape.pixels,
        flops=flops,
        tokens=visible + 1,
        views=(view,),
        # difference of pixels and prediction, and the gradients of both, fp32
        head_bytes=decoding.kept() + decoding.working + 3 * 4 * (shape.patches - visible) * shape.pixels,
    )


RECIPE = Recipe(
    name="mae",
    version=1,
    summary="masked autoencoder",
    display="MAE",
    colour="#0173b2",
    loss_unit="mean squared error of masked pixels, normalised patch by patch",
    loss_comparable_across=frozenset({"size", "batch"}),
    training_cost=training_cost,
    constants={
        **SCHEDULE,
        "lr": Constant(
            value=learning_rate,
            low=0,
            high=1,
            source=OURS
            + "table 8 (1.5e-4 x batch/256 at 4096) x sqrt(batch) (Malladi et al. 2022) x width^-0.75 "
            + "below 768",
        ),
        "weight_decay": Constant(value=0.05, low=0, high=10, source="table 8; none on biases and norms"),
        "beta1": Constant(value=0.9, low=0, high=1, source="table 8"),
        "beta2": Constant(value=0.95, low=0, high=1, source="table 8"),
        "clip": Constant(value=0.0, low=0, source="none in the paper; 0 is off"),
        "warmup": Constant(value=0.05, low=0, high=1, source="table 8: 40 of 800 epochs, share of the run"),
        "mask_ratio": Constant(value=0.75, low=0.05, high=0.95, source="section 4.1"),
        "norm_pixels": Constant(value=True, source="section 4.1, per-patch normalised target"),
        "decoder_width": Constant(
            value=decoder_width,
            low=32,
            high=4096,
            source=OURS + "512 at ViT-L (section 4.1), half the width below",
        ),
        "decoder_depth": Constant(
            value=decoder_depth,
            low=1,
            high=64,
            source=OURS + "8 at ViT-L (section 4.1), a third of the depth below",
        ),
        "crop_min": Constant(
            value=0.2, low=0.01, high=1, source="table 8, RandomResizedCrop (code: scale 0.2 to 1)"
        ),
        "crop_max": Constant(value=1.0, low=0.01, high=1, source="table 8, RandomResizedCrop"),
    },
)
