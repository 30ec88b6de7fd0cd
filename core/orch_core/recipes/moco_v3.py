"""MoCo v3 (Chen, Xie, He 2021, arXiv 2104.02057): two views of an image agree, against the batch's others.

Constants are those of the paper's section 4 and appendix (batch 4096, ViT-S/B/L). Where a study works at
another scale each rule states how it extrapolates.
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
from orch_core.vit import (
    Flops,
    Shape,
    bytes_of,
    embedding,
    encoder,
    encoder_params,
    linear,
    mlp,
    mlp_params,
    whole_image,
)


def learning_rate(cell: Cell) -> float:
    """2.4e-3 (1.5e-4 x 4096/256) at batch 4096 and width 768 and more."""
    return scaled_rate(cell, 2.4e-3, batch=4096, width=768)


def crop_min(cell: Cell) -> float:
    """0.08 if such a crop has at least 16 pixels a side (from 57 pixels on), else the area that has."""
    return min(1.0, max(0.08, (16 / cell.resolution) ** 2))


def freeze_patch_embed(cell: Cell) -> bool:
    """The paper's choice at its sizes (from ViT-S); below, a narrow random projection costs accuracy."""
    return width_of(cell) >= 384


def head_hidden(cell: Cell) -> int:
    """The official 4096 at width 512 and more, eight widths below."""
    return min(4096, 8 * width_of(cell))


def sizes(shape: Shape, constants: Constants) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Layer sizes of projector (three layers) and predictor (two)."""
    hidden, out = int(constants["head_hidden"]), int(constants["head_out"])
    return (shape.width, hidden, hidden, out), (out, hidden, out)


def training_cost(cell: Cell, shape: Shape, constants: Constants) -> TrainingCost:
    """Two views through encoder, projector, predictor, and through the momentum encoder and projector."""
    projector, predictor = sizes(shape, constants)
    views: Flops = encoder(shape) + mlp(1, projector)
    if constants["freeze_patch_embed"]:
        frozen = embedding(shape)
        views += Flops(backward=-frozen.backward)
    logits = linear(1, predictor[-1], cell.batch, input_gradient=False)
    teacher = (encoder(shape) + mlp(1, projector)).without_gradient()
    one = views + mlp(1, predictor) + logits + teacher
    # batch norms without bias in between, the last without scale and shift: two per hidden layer
    norms = 2 * 2 * projector[1] + 2 * predictor[1]
    head = mlp_params(projector, bias=False) + mlp_params(predictor, bias=False) + norms
    copies = encoder_params(shape) + mlp_params(projector, bias=False) + 4 * projector[1]
    view = whole_image(shape, precision=cell.precision)
    layers = 2 * sum(projector[1:] + predictor[1:]) + shape.width  # inputs of every product and norm
    return TrainingCost(
        params_head=head,
        params_frozen=copies,
        flops=one.times(2),
        tokens=2 * shape.tokens,
        views=(view, view),
        head_bytes=2 * (bytes_of(cell.precision) * layers + 3 * 4 * cell.batch),
        coupled=True,
    )


RECIPE = Recipe(
    name="moco-v3",
    version=1,
    summary="momentum contrast",
    display="MoCo v3",
    colour="#d55e00",
    loss_unit="cross-entropy among the images of a batch, times 2 x temperature; chance is 2 x temperature x "
    "ln(batch)",
    loss_comparable_across=frozenset({"size"}),
    training_cost=training_cost,
    constants={
        **SCHEDULE,
        "lr": Constant(
            value=learning_rate,
            low=0,
            high=1,
            source=OURS + "section 4.1 (1.5e-4 x batch/256 at 4096) x sqrt(batch) x width^-0.75 below 768",
        ),
        "weight_decay": Constant(value=0.1, low=0, high=10, source="section 4.1; none on biases and norms"),
        "beta1": Constant(value=0.9, low=0, high=1, source="AdamW's default, as the paper uses it"),
        "beta2": Constant(value=0.999, low=0, high=1, source="AdamW's default, as the paper uses it"),
        "clip": Constant(value=0.0, low=0, source="none in the paper; 0 is off"),
        "warmup": Constant(
            value=40 / 300, low=0, high=1, source="section 4.1: 40 of 300 epochs, share of the run"
        ),
        "momentum": Constant(value=0.99, low=0, high=1, source="appendix: to 1 along a cosine"),
        "temperature": Constant(
            value=0.2, low=0.001, high=10, source="appendix; the loss is times 2 x temperature"
        ),
        "head_hidden": Constant(
            value=head_hidden, low=8, high=65536, source=OURS + "4096 (section 4.1), eight widths below 512"
        ),
        "head_out": Constant(value=256, low=8, high=65536, source="section 4.1"),
        "freeze_patch_embed": Constant(
            value=freeze_patch_embed,
            source="section 5.1, a random patch projection is more stable; below ViT-S learned, ours",
        ),
        "crop_min": Constant(
            value=crop_min,
            low=0.01,
            high=1,
            source="section 4.2, BYOL's augmentation (scale 0.08 to 1); at least 16 pixels a side, ours",
        ),
        "crop_max": Constant(value=1.0, low=0.01, high=1, source="the same"),
        "brightness": Constant(value=0.4, low=0, high=1, source="the same"),
        "contrast": Constant(value=0.4, low=0, high=1, source="the same"),
        "jitter_share": Constant(
            value=0.8, low=0, high=1, source="the same; no hue or saturation: grey, calibrated images"
        ),
        "blur_share_1": Constant(value=1.0, low=0, high=1, source="the same, first view"),
        "blur_share_2": Constant(value=0.1, low=0, high=1, source="the same, second view"),
        "solarize_share": Constant(value=0.2, low=0, high=1, source="the same, second view"),
    },
)
