"""SimMIM (Xie et al. 2022, arXiv 2111.09886): masked patches become tokens, one linear layer predicts pixels.

Constants are those of the paper's section 4.1 and appendix (ViT-B, batch 2048). Where a study works at
another scale each rule states how it extrapolates.
"""

from __future__ import annotations

from orch_core.cell import Cell
from orch_core.recipes.base import OURS, SCHEDULE, Constant, Constants, Recipe, TrainingCost, scaled_rate
from orch_core.vit import Shape, encoder, linear, whole_image


def learning_rate(cell: Cell) -> float:
    """4e-4 (1e-4 x 2048/512) at batch 2048 and width 768 and more."""
    return scaled_rate(cell, 4e-4, batch=2048, width=768)


def masked(patches: int, mask_ratio: float) -> int:
    """Masked patches of an image, at least one and not all."""
    return min(patches - 1, max(1, round(patches * mask_ratio))) if patches > 1 else 1


def training_cost(cell: Cell, shape: Shape, constants: Constants) -> TrainingCost:
    """Every token through the encoder; pixels predicted where masked."""
    hidden = masked(shape.patches, float(constants["mask_ratio"]))
    return TrainingCost(
        params_head=(shape.width + 1) * shape.pixels + shape.width,
        flops=encoder(shape) + linear(hidden, shape.width, shape.pixels),
        tokens=shape.tokens,
        views=(whole_image(shape, precision=cell.precision),),
        # tokens that are predicted from; difference of pixels and prediction, and the gradients of both, fp32
        head_bytes=4 * hidden * (shape.width + 3 * shape.pixels),
    )


RECIPE = Recipe(
    name="simmim",
    version=1,
    summary="masked image modelling with one linear layer",
    display="SimMIM",
    colour="#de8f05",
    loss_unit="mean absolute error of masked pixels",
    loss_comparable_across=frozenset({"size", "batch"}),
    training_cost=training_cost,
    constants={
        **SCHEDULE,
        "lr": Constant(
            value=learning_rate,
            low=0,
            high=1,
            source=OURS
            + "appendix (1e-4 x batch/512 at 2048) x sqrt(batch) x width^-0.75 below 768; cosine, not steps",
        ),
        "weight_decay": Constant(value=0.05, low=0, high=10, source="appendix; none on biases and norms"),
        "beta1": Constant(value=0.9, low=0, high=1, source="appendix"),
        "beta2": Constant(value=0.999, low=0, high=1, source="appendix"),
        "clip": Constant(value=5.0, low=0, source="code configuration of the ViT-B run"),
        "warmup": Constant(
            value=10 / 800, low=0, high=1, source="appendix: 10 of 800 epochs, share of the run"
        ),
        "mask_ratio": Constant(value=0.6, low=0.05, high=0.95, source="section 4.2"),
        "mask_side": Constant(
            value=32 / 224, low=0, high=1, source="section 4.2: 32 of 224 pixels, share of the side"
        ),
        "crop_min": Constant(
            value=0.67, low=0.01, high=1, source="appendix: scale 0.67 to 1, ratio 3/4 to 4/3, flip"
        ),
        "crop_max": Constant(value=1.0, low=0.01, high=1, source="appendix"),
    },
)
