"""I-JEPA (Assran et al. 2023, arXiv 2301.08243): predict the representation of blocks from that of the rest.

Constants are those of the paper's appendix A.1 (ViT-H/14, batch 2048, 300 epochs). Where a study works at
another scale, each rule states how it extrapolates. Ours, so that every step costs the same:
target blocks have the middle of the paper's areas and the context is as many patches as disjoint targets
would leave. The encoder keeps its class token, which no loss reads.
"""

from __future__ import annotations

import math

from orch_core.cell import Cell
from orch_core.errors import OrchError
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
from orch_core.vit import Shape, activations, block, block_params, encoder, encoder_params, linear


def learning_rate(cell: Cell) -> float:
    """1e-3 at batch 2048 and width 768 and more."""
    return scaled_rate(cell, 1e-3, batch=2048, width=768)


def predictor_width(cell: Cell) -> int:
    """Half the encoder's width in steps of 32, at most the official 384 (which it is from ViT-B on)."""
    return min(384, max(32, 32 * round(width_of(cell) / 64)))


def predictor_depth(cell: Cell) -> int:
    """Half the encoder's depth, at most the official 12 (which it is at ViT-L)."""
    depth = cell.model.depth if cell.model else 0
    return min(12, max(1, round(depth / 2)))


def target_block(side: int, constants: Constants) -> tuple[int, int]:
    """Height and width in patches of a target block: the given area, as nearly square as patches allow."""
    area = float(constants["target_scale"]) * side * side
    height = max(1, round(math.sqrt(area)))
    return height, max(1, round(area / height))


def context(side: int, constants: Constants) -> int:
    """Patches of the context that disjoint targets leave; raises OrchError if they leave none."""
    height, width = target_block(side, constants)
    left = side * side - int(constants["targets"]) * height * width
    if left < 1:
        message = (
            f"i-jepa@1: {constants['targets']} target blocks leave no context of {side} x {side} patches"
        )
        raise OrchError(message, hint="choose a smaller patch, or lower `targets` or `target_scale`")
    return left


def training_cost(cell: Cell, shape: Shape, constants: Constants) -> TrainingCost:
    """Context through the encoder, whole image through the teacher, predictor once a target block."""
    side, targets = math.isqrt(shape.patches), int(constants["targets"])
    width, depth = int(constants["predictor_width"]), int(constants["predictor_depth"])
    height, across = target_block(side, constants)
    seen, area = context(side, constants), height * across
    predictor = block(seen + area, width, 4 * width).times(depth) + linear(area, width, shape.width)
    flops = encoder(shape, patches=seen) + linear(seen, shape.width, width) + predictor.times(targets)
    params = (shape.width + 1) * width + width + depth * block_params(width, 4 * width) + 2 * width
    view = activations(
        seen + 1,
        shape.width,
        shape.hidden,
        shape.depth,
        precision=cell.precision,
        patches=(seen, shape.pixels),
    )
    predicting = activations(targets * (seen + area), width, 4 * width, depth, precision=cell.precision)
    return TrainingCost(
        params_head=params + (width + 1) * shape.width,
        params_frozen=encoder_params(shape),
        flops=flops + encoder(shape).without_gradient(),
        tokens=seen + 1,
        views=(view,),
        # representations, their prediction and its gradient, fp32
        head_bytes=predicting.kept() + predicting.working + 3 * 4 * targets * area * shape.width,
    )


RECIPE = Recipe(
    name="i-jepa",
    version=1,
    summary="joint-embedding prediction of blocks",
    display="I-JEPA",
    colour="#cc78bc",
    loss_unit="smooth L1 distance to the teacher's layer-normalised representation, whose variance is 1 at "
    "every width",
    loss_comparable_across=frozenset({"size", "batch"}),
    training_cost=training_cost,
    constants={
        **SCHEDULE,
        "lr": Constant(
            value=learning_rate,
            low=0,
            high=1,
            source=OURS + "appendix A.1 (1e-3 at 2048) x sqrt(batch) x width^-0.75 below 768",
        ),
        "weight_decay": Constant(value=0.04, low=0, high=10, source="appendix A.1, at the start"),
        "weight_decay_end": Constant(
            value=0.4, low=0, high=10, source="appendix A.1 (linear there, half a cosine here)"
        ),
        "beta1": Constant(value=0.9, low=0, high=1, source="AdamW's default"),
        "beta2": Constant(value=0.999, low=0, high=1, source="AdamW's default"),
        "clip": Constant(value=0.0, low=0, source="none in the paper; 0 is off"),
        "warmup": Constant(value=40 / 300, low=0, high=1, source="code configuration: 40 of 300 epochs"),
        "momentum": Constant(value=0.996, low=0, high=1, source="appendix A.1, to 1 along a line"),
        "targets": Constant(value=4, low=1, high=64, source="appendix A.1"),
        "target_scale": Constant(
            value=0.175, low=0.01, high=1, source="appendix A.1: 0.15 to 0.2, its middle"
        ),
        "predictor_width": Constant(
            value=predictor_width,
            low=32,
            high=4096,
            source=OURS + "384 (appendix A.1), half the width below ViT-B",
        ),
        "predictor_depth": Constant(
            value=predictor_depth,
            low=1,
            high=64,
            source=OURS + "12 at ViT-L and H, 6 at B (appendix A.1), half the depth below",
        ),
        "crop_min": Constant(
            value=0.3, low=0.01, high=1, source="code configuration: scale 0.3 to 1, no flip, no colour"
        ),
        "crop_max": Constant(value=1.0, low=0.01, high=1, source="code configuration"),
    },
)
