"""The supervised control: the encoder trained on the labels of its pretraining images, with a linear head.

Constants are those of "Better plain ViT baselines" (Beyer et al. 2022, arXiv 2205.01580; batch 1024,
ViT-S/16), without RandAugment and mixup, which are made for natural images. Where a study works at another
scale, each rule states how it extrapolates.
"""

from __future__ import annotations

from orch_core.cell import Cell
from orch_core.recipes.base import OURS, SCHEDULE, Constant, Constants, Recipe, TrainingCost, scaled_rate
from orch_core.vit import Shape, encoder, linear, whole_image


def learning_rate(cell: Cell) -> float:
    """1e-3 at batch 1024 and width 384 and more."""
    return scaled_rate(cell, 1e-3, batch=1024, width=384)


def training_cost(cell: Cell, shape: Shape, constants: Constants) -> TrainingCost:
    """Every token through the encoder, their mean through the head."""
    classes = int(constants["classes"])
    return TrainingCost(
        params_head=(shape.width + 1) * classes,
        flops=encoder(shape) + linear(1, shape.width, classes),
        tokens=shape.tokens,
        views=(whole_image(shape, precision=cell.precision),),
        head_bytes=4 * (shape.width + 3 * classes),
    )


RECIPE = Recipe(
    name="supervised",
    version=1,
    summary="supervised control",
    display="supervised training",
    colour="#56b4e9",
    loss_unit="cross-entropy over the labels of the pretraining images, nats",
    loss_comparable_across=frozenset({"size", "batch"}),
    training_cost=training_cost,
    constants={
        **SCHEDULE,
        "lr": Constant(
            value=learning_rate,
            low=0,
            high=1,
            source=OURS + "section 2 (1e-3 at 1024) x sqrt(batch) x width^-0.75 below 384",
        ),
        "weight_decay": Constant(
            value=0.1,
            low=0,
            high=10,
            source="section 2: 1e-4 a step at the peak rate of 1e-3, which is 0.1 in AdamW",
        ),
        "beta1": Constant(value=0.9, low=0, high=1, source="Adam's default"),
        "beta2": Constant(value=0.999, low=0, high=1, source="Adam's default"),
        "clip": Constant(value=1.0, low=0, source="section 2: global norm 1"),
        "warmup": Constant(
            value=10_000 / 112_600, low=0, high=1, source="section 2: 10k steps of a 90-epoch run"
        ),
        "classes": Constant(
            value=64,
            low=2,
            high=1 << 20,
            source="ours: room for the labels of all sources, one after the other",
        ),
        "crop_min": Constant(value=0.05, low=0.01, high=1, source="section 2: Inception crop"),
        "crop_max": Constant(value=1.0, low=0.01, high=1, source="section 2: Inception crop"),
    },
)
