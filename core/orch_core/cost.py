"""What a cell takes, as closed formulas: parameters, FLOPs, memory. No device, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from orch_core.cell import Cell
from orch_core.recipe import constants, recipe_of
from orch_core.vit import Shape, encoder, encoder_params, shape_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The price of a cell.

    params_encoder:    parameters of the encoder that is probed; fixed sin-cos positions are none
    params_head:       trained with it and thrown away before probing (decoder, projector, predictor)
    params_total:      both, and frozen copies (momentum encoder)
    flops_forward:     one whole image through the probed encoder
    flops_train_image: model FLOPs of training on one image: forward and backward, all views, teacher included
    flops_train:       of the whole run
    flops_hardware:    of the whole run with attention's recomputation: what FlopCounterMode counts
    tokens:            tokens through the trained encoder in the whole run
    memory_bytes:      peak of training: weights, gradients, optimiser's two moments, bf16 casts, activations of a batch
    checkpoint_bytes:  one checkpoint: weights, frozen copies, two optimiser moments, fp32
    """

    params_encoder: int
    params_head: int
    params_total: int
    flops_forward: int
    flops_train_image: int
    flops_train: int
    flops_hardware: int
    tokens: int
    memory_bytes: int
    checkpoint_bytes: int


def encoder_shape(cell: Cell) -> Shape:
    """The encoder's shape on the cell's images; the cell must have a model."""
    model = cell.model
    assert model is not None
    return shape_of(
        width=model.width,
        depth=model.depth,
        mlp_ratio=model.mlp_ratio,
        resolution=cell.resolution,
        patch=cell.patch,
        channels=cell.channels,
    )


def price(cell: Cell) -> Cost:
    """The cost of a cell; raises OrchError for an unknown recipe or override."""
    recipe = recipe_of(cell)
    if not recipe.uses_model:
        return Cost(**dict.fromkeys(Cost.__slots__, 0))
    shape = encoder_shape(cell)
    work = recipe.work(cell, shape, constants(cell))
    params = encoder_params(
        shape, learned_positions=recipe.learned_positions, layer_scale=recipe.layer_scale is not None
    )
    trained, images = params + work.params_head, cell.samples_seen if recipe.uses_data else 0
    image = work.flops.forward + work.flops.backward
    weights = 4 * (trained + work.params_frozen)
    casts = 2 * trained if cell.precision == "bf16" else 0
    return Cost(
        params_encoder=params,
        params_head=work.params_head,
        params_total=trained + work.params_frozen,
        flops_forward=encoder(shape).forward,
        flops_train_image=image,
        flops_train=image * images,
        flops_hardware=(image + work.flops.recompute) * images,
        tokens=work.tokens * images,
        memory_bytes=weights + casts + 12 * trained + cell.batch * work.activation_bytes,
        checkpoint_bytes=weights + 8 * trained,
    )
