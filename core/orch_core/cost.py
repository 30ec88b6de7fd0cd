"""The cost of a cell as closed formulas: parameters, FLOPs and memory, independent of the device."""

from __future__ import annotations

from dataclasses import dataclass

from orch_core.cell import Cell
from orch_core.recipes import constants, recipe_of
from orch_core.recipes.base import TrainingCost
from orch_core.vit import Shape, encoder, encoder_params, shape_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of a cell.

    params_encoder:    parameters of the encoder that is probed, without fixed sin-cos positions
    params_head:       trained with it and dropped before probing (decoder, projector, predictor)
    params_total:      both, and frozen copies (momentum encoder)
    flops_forward:     one image with all patches through the probed encoder
    flops_train_image: model FLOPs of training on one image: forward and backward, all views, teacher included
    flops_train:       of the whole run
    flops_hardware:    of the whole run with attention's recomputation, as FlopCounterMode counts
    tokens:            tokens through the trained encoder in the whole run
    activation_bytes:  kept of one image between forward and backward pass, with heads and loss
    memory_bytes:      peak of training with the whole batch at once (see `memory_bytes`)
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
    activation_bytes: int
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
    training = recipe.training_cost(cell, shape, constants(cell))
    params = encoder_params(shape, learned_positions=recipe.learned_positions, layer_scale=recipe.layer_scale)
    trained, images = params + training.params_head, cell.samples_seen if recipe.uses_data else 0
    image = training.flops.forward + training.flops.backward
    return Cost(
        params_encoder=params,
        params_head=training.params_head,
        params_total=trained + training.params_frozen,
        flops_forward=encoder(shape).forward,
        flops_train_image=image,
        flops_train=image * images,
        flops_hardware=(image + training.flops.recompute) * images,
        tokens=training.tokens * images,
        activation_bytes=sum(view.kept() for view in training.views) + training.head_bytes,
        memory_bytes=_peak(cell, training, params, cell.batch, checkpointing=False),
        checkpoint_bytes=4 * (trained + training.params_frozen) + 8 * trained,
    )


def memory_bytes(cell: Cell, micro_batch: int = 0, *, checkpointing: bool = False) -> int:
    """Peak bytes of training: weights, frozen copies, moments, half-precision casts, gradients, activations.

    micro_batch:   images at a time, 0 for the whole batch
    checkpointing: blocks of the encoder keep only the residual stream and are computed again (Chen et al.
                   2016)

    A loss that is a mean over images takes micro-batches one after another, gradients added up. One that
    couples them keeps the encoder's outputs and the heads of the whole batch; the encoder alone goes through
    it in micro-batches, and again in the backward pass (Gao et al. 2021, arXiv:2101.06983). Raises OrchError
    as `price` does.
    """
    recipe = recipe_of(cell)
    if not (recipe.uses_model and recipe.uses_data):
        return price(cell).memory_bytes
    shape = encoder_shape(cell)
    params = encoder_params(shape, learned_positions=recipe.learned_positions, layer_scale=recipe.layer_scale)
    training = recipe.training_cost(cell, shape, constants(cell))
    return _peak(cell, training, params, micro_batch or cell.batch, checkpointing=checkpointing)


def _peak(cell: Cell, training: TrainingCost, params: int, rows: int, *, checkpointing: bool) -> int:
    """The maximum over four moments: the loss, the last and first block in the backward pass, and the end.

    Casts of the encoder's weights last until their block's backward pass, casts of the head's until the
    loss's.
    """
    trained, batch = params + training.params_head, cell.batch
    casts, gradients = 0 if cell.precision == "fp32" else 2, 4 * trained
    fixed = 4 * (trained + training.params_frozen) + 8 * trained + casts * params
    again = [view.working + checkpointing * view.block for view in training.views] or [0]
    kept = [view.kept(checkpointing=checkpointing) for view in training.views] or [0]
    if rows < batch and training.coupled:
        outputs = batch * sum(view.stream + view.inputs for view in training.views)
        backward = gradients + batch * training.views[0].stream + rows * (max(kept) + max(again))
        return fixed + outputs + max(batch * training.head_bytes + casts * training.params_head, backward)
    before = gradients if rows < batch else 0  # of micro-batches before the last
    loss = before + rows * (sum(kept) + training.head_bytes) + casts * training.params_head
    backward = max(before, 4 * training.params_head) + rows * (sum(kept) + max(again))
    block = max([view.working + view.block for view in training.views] or [0])
    return fixed + max(loss, backward, gradients, gradients + rows * block - casts * params)


def micro_batch(cell: Cell, room: float) -> tuple[int, bool]:
    """The largest micro-batch that fits `room` bytes (the batch, or halves of it), and whether to checkpoint.

    Blocks are checkpointed only if one image does not fit otherwise; (0, False) if one image does not fit at
    all.
    """
    for checkpointing in (False, True):
        rows = cell.batch
        while rows and memory_bytes(cell, rows, checkpointing=checkpointing) > room:
            rows //= 2
        if rows:
            return rows, checkpointing
    return 0, False
