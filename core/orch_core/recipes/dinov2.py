"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193): self-distillation (DINO), masked patches (iBOT), KoLeo.

Constants are those of the paper's short ViT-L/16 run (its default configuration, 100 epochs of 1,250 steps);
DINO (Caron et al. 2021) follows from `ibot_weight` and `koleo_weight` 0. At other scales each rule states how
it extrapolates. From ViT-B down, layers that DINO and iBOT train without are off (`at_large`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from orch_core.cell import Cell
from orch_core.recipes.base import OURS, SCHEDULE, Constant, Constants, Recipe, TrainingCost, width_of
from orch_core.vit import (
    Activations,
    Flops,
    Shape,
    bytes_of,
    encoder,
    encoder_params,
    linear,
    mlp,
    mlp_params,
    shape_of,
    whole_image,
)

BYOL = "default configuration: BYOL's augmentation, no hue, saturation or grey: calibrated images"
BLOCKS = (
    OURS
    + "1 up to 12 blocks (DINO, iBOT: ViT-S, B), geometric to the default configuration's at ViT-L's 24, "
)
GLOBALS = 2


def learning_rate(cell: Cell) -> float:
    """4e-3 x sqrt(batch / 1024)."""
    return 4e-3 * math.sqrt(cell.batch / 1024)


def local_side(cell: Cell) -> int:
    """96 of 224 pixels, in whole patches."""
    return cell.patch * max(1, round(cell.resolution * 96 / 224 / cell.patch))


def drop_path(cell: Cell) -> float:
    """0.3 at ViT-L, 0.1 at ViT-B (Franca), none below."""
    width = width_of(cell)
    return 0.3 if width >= 1024 else 0.1 if width >= 768 else 0.0


def at_large(value: float) -> Callable[[Cell], float]:
    """DINOv2's value at ViT-L's 24 blocks and above, 1 up to the 12 of ViT-S and B, geometric in between.

    For techniques that DINO (Caron et al. 2021: ViT-S, B) and iBOT (Zhou et al. 2022: ViT-S, B, L) omit:
    layer-wise decay, a slower patch embedding, LayerScale. Both ends are published; values between them and
    below ViT-S are ours, without a step that a study of sizes would mistake for an effect of size.
    """

    def rule(cell: Cell) -> float:
        blocks = cell.model.depth if cell.model else 0
        return math.pow(value, min(1.0, max(0.0, (blocks - 12) / 12)))

    return rule


def prototypes(cell: Cell) -> int:
    """The official 65536 at ViT-L, in proportion to the width below."""
    return min(65536, 64 * width_of(cell))


def head_hidden(cell: Cell) -> int:
    """The official 2048 from width 256 on, eight widths below."""
    return min(2048, 8 * width_of(cell))


def masked_counts(crops: int, patches: int, constants: Constants) -> list[int]:
    """Masked patches of each of `crops` global crops: none in half of them, from low to high in the others.

    The official draw is uniform in each of as many strata; ours takes the middle, so that a batch's cost is
    fixed.
    """
    chosen = int(crops * float(constants["mask_share"])) if constants["ibot_weight"] else 0
    low, high = float(constants["mask_low"]), float(constants["mask_high"])
    ratios = [low + (high - low) * (index + 0.5) / chosen for index in range(chosen)]
    return [0] * (crops - chosen) + [max(1, round(patches * ratio)) for ratio in ratios]


def head_sizes(width: int, constants: Constants) -> tuple[int, ...]:
    """Layer sizes of the head before its prototypes."""
    hidden = int(constants["head_hidden"])
    return (width, hidden, hidden, int(constants["head_bottleneck"]))


def training_cost(cell: Cell, shape: Shape, constants: Constants) -> TrainingCost:
    """Student on every crop, teacher on the global ones; one head for class tokens and masked patches."""
    local = shape_of(
        width=shape.width,
        depth=shape.depth,
        mlp_ratio=shape.hidden / shape.width,
        resolution=int(constants["local_side"]),
        patch=cell.patch,
        channels=cell.channels,
    )
    locals_, sizes, count = (
        int(constants["local_crops"]),
        head_sizes(shape.width, constants),
        int(constants["prototypes"]),
    )
    masked = sum(masked_counts(GLOBALS * cell.batch, shape.patches, constants))
    head = mlp(1, sizes) + linear(1, sizes[-1], count)
    rows = (GLOBALS + locals_) * cell.batch + masked
    teacher_rows = GLOBALS * cell.batch + masked
    heads = head.times(rows) + head.without_gradient().times(teacher_rows)
    student = encoder(shape).times(GLOBALS) + encoder(local).times(locals_)
    teacher = encoder(shape).without_gradient().times(GLOBALS)
    neighbours = Flops(forward=2 * GLOBALS * cell.batch * shape.width if constants["koleo_weight"] else 0)
    tokens = GLOBALS * shape.tokens + locals_ * local.tokens
    params = mlp_params(sizes) + sizes[-1] * count
    return TrainingCost(
        params_head=params + shape.width,
        params_frozen=params + encoder_params(shape, learned_positions=True, layer_scale=True),
        flops=student + teacher + neighbours + _per_image(heads, cell.batch),
        tokens=tokens,
        views=(_view(shape, cell.precision),) * GLOBALS + (_view(local, cell.precision),) * locals_,
        head_bytes=_head_bytes(rows, teacher_rows, masked, sizes, count, cell.precision) // cell.batch,
        coupled=True,
    )


def _view(shape: Shape, precision: str) -> Activations:
    return whole_image(shape, precision=precision, layer_scale=True)


def _head_bytes(
    rows: int, teacher_rows: int, masked: int, sizes: tuple[int, ...], prototypes: int, precision: str
) -> int:
    """Bytes of head and loss: the student's logits and log-softmax, the teacher's distributions, a product.

    The product is at masked patches; prototypes of unit length, fp32, are added.
    """
    each = bytes_of(precision)
    logits = prototypes * (each * rows + 4 * (rows + teacher_rows + masked))
    layers = each * rows * (sizes[0] + 2 * sum(sizes[1:]))
    return logits + layers + 4 * prototypes * sizes[-1]


def _per_image(flops: Flops, batch: int) -> Flops:
    return Flops(forward=flops.forward // batch, backward=flops.backward // batch)


RECIPE = Recipe(
    name="dinov2",
    version=1,
    summary="self-distillation with masked patches",
    display="DINOv2",
    colour="#029e73",
    loss_unit="cross-entropy over K = 64 x width prototypes plus KoLeo: chance is ln K, which grows with "
    "the width",
    learned_positions=True,
    layer_scale=True,
    training_cost=training_cost,
    constants={
        **SCHEDULE,
        "lr": Constant(
            value=learning_rate, low=0, high=1, source="default configuration: 4e-3 x sqrt(batch / 1024)"
        ),
        "layer_decay": Constant(
            value=at_large(0.9),
            low=0,
            high=1,
            source=BLOCKS + "0.9 of the learning rate, a block",
        ),
        "patch_embed_rate": Constant(
            value=at_large(0.2), low=0, high=1, source=BLOCKS + "0.2 of the learning rate"
        ),
        "weight_decay": Constant(value=0.04, low=0, high=10, source="default configuration, at the start"),
        "weight_decay_end": Constant(
            value=0.4, low=0, high=10, source="default configuration, along a cosine"
        ),
        "beta1": Constant(value=0.9, low=0, high=1, source="default configuration"),
        "beta2": Constant(value=0.999, low=0, high=1, source="default configuration"),
        "clip": Constant(
            value=3.0, low=0, source="default configuration: norm of encoder's and head's gradients"
        ),
        "warmup": Constant(value=0.1, low=0, high=1, source="default configuration: 10 of 100 epochs"),
        "momentum": Constant(value=0.992, low=0, high=1, source="default configuration, to 1 along a cosine"),
        "student_temperature": Constant(value=0.1, low=0.001, high=10, source="default configuration"),
        "teacher_temperature_start": Constant(value=0.04, low=0.001, high=10, source="default configuration"),
        "teacher_temperature": Constant(value=0.07, low=0.001, high=10, source="default configuration"),
        "teacher_warmup": Constant(
            value=0.3, low=0, high=1, source="default configuration: 30 of 100 epochs, linear"
        ),
        "centre_momentum": Constant(value=0.9, low=0, high=1, source="default configuration: EMA centring"),
        "last_layer_frozen": Constant(
            value=0.01, low=0, high=1, source="default configuration: 1 of 100 epochs"
        ),
        "layer_scale": Constant(value=at_large(1e-5), low=0, high=1, source=BLOCKS + "1e-5"),
        "drop_path": Constant(
            value=drop_path,
            low=0,
            high=0.9,
            source=OURS + "0.3 at ViT-L, 0.1 at B (Franca's configuration), none below",
        ),
        "head_hidden": Constant(
            value=head_hidden, low=8, high=65536, source=OURS + "2048, eight widths below 256"
        ),
        "head_bottleneck": Constant(value=256, low=8, high=65536, source="default configuration"),
        "prototypes": Constant(
            value=prototypes,
            low=16,
            high=1 << 20,
            source=OURS + "65536 at ViT-L, in proportion to the width below",
        ),
        "ibot_weight": Constant(value=1.0, low=0, high=100, source="default configuration"),
        "koleo_weight": Constant(value=0.1, low=0, high=100, source="default configuration"),
        "mask_share": Constant(value=0.5, low=0, high=1, source="default configuration: of the global crops"),
        "mask_low": Constant(value=0.1, low=0, high=1, source="default configuration"),
        "mask_high": Constant(value=0.5, low=0, high=1, source="default configuration"),
        "crop_min": Constant(value=0.32, low=0.01, high=1, source="default configuration, global crops"),
        "crop_max": Constant(value=1.0, low=0.01, high=1, source="default configuration, global crops"),
        "local_crops": Constant(value=8, low=0, high=64, source="default configuration"),
        "local_side": Constant(
            value=local_side,
            low=1,
            high=4096,
            source="default configuration: 96 of 224 pixels, in whole patches",
        ),
        "local_min": Constant(value=0.05, low=0.01, high=1, source="default configuration, local crops"),
        "local_max": Constant(value=0.32, low=0.01, high=1, source="default configuration, local crops"),
        "brightness": Constant(value=0.4, low=0, high=1, source=BYOL),
        "contrast": Constant(value=0.4, low=0, high=1, source=BYOL),
        "jitter_share": Constant(value=0.8, low=0, high=1, source=BYOL),
        "blur_share_1": Constant(value=1.0, low=0, high=1, source=BYOL + ", first global crop"),
        "blur_share_2": Constant(value=0.1, low=0, high=1, source=BYOL + ", second global crop"),
        "blur_share_local": Constant(value=0.5, low=0, high=1, source=BYOL + ", local crops"),
        "solarize_share": Constant(value=0.2, low=0, high=1, source=BYOL + ", second global crop"),
    },
)
