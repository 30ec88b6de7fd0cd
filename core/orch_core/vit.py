"""Plain ViTs: names of published shapes, and closed formulas of parameters, FLOPs and stored activations.

One multiply-add is two FLOPs; matrix products are counted and nothing else, as torch's FlopCounterMode does
(torch/utils/flop_counter.py). tests/core/test_cost.py compares every formula with built timm models.

`LADDER` is big_vision's ladder (google-research/big_vision, models/vit.py, `decode_variant`; the shapes of
Dosovitskiy et al. 2021 and Zhai et al. 2022). `TIMM` lists the architectures of timm 1.0.31's
`vision_transformer` that are plain ViTs: class token, learned or fixed positions, MLP blocks, no registers,
other norms or poolings. tests/core/test_models.py builds each and compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from orch_core.cell import Model

LADDER: dict[str, tuple[int, int, int, float]] = {
    "mu": (32, 1, 2, 4.0),
    "Ti": (192, 12, 3, 4.0),
    "S": (384, 12, 6, 4.0),
    "M": (512, 12, 8, 4.0),
    "B": (768, 12, 12, 4.0),
    "L": (1024, 24, 16, 4.0),
    "So400m": (1152, 27, 16, 4304 / 1152),
    "H": (1280, 32, 16, 4.0),
    "g": (1408, 40, 16, 6144 / 1408),
    "G": (1664, 48, 16, 8192 / 1664),
}

_PATCHES = {
    "vit_tiny": ("Ti", ("16_224", "16_384")),
    "vit_small": ("S", ("8_224", "16_224", "16_384", "32_224", "32_384")),
    "vit_base": ("B", ("8_224", "16_224", "16_384", "32_224", "32_384")),
    "vit_large": ("L", ("14_224", "16_224", "16_384", "32_224", "32_384")),
    "vit_huge": ("H", ("14_224",)),
    "vit_giant": ("g", ("14_224",)),
    "vit_gigantic": ("G", ("14_224",)),
}

TIMM: dict[str, tuple[int, int, int, float]] = {
    f"{family}_patch{patch}": LADDER[size]
    for family, (size, patches) in _PATCHES.items()
    for patch in patches
}


def known_models() -> list[str]:
    """Every name that `named_model` takes."""
    return [f"ViT-{size}" for size in LADDER] + list(TIMM)


def named_model(name: str) -> Model:
    """The shape behind `ViT-S` or a timm name; raises KeyError for an unknown one."""
    width, depth, heads, mlp_ratio = TIMM[name] if name in TIMM else LADDER[name.removeprefix("ViT-")]
    return Model(name=name, width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """FLOPs of a part of a model for one image.

    forward, backward: model FLOPs; recompute: FLOPs that fused attention repeats in its backward pass (one
                       of
    its two products), which hardware does and FlopCounterMode counts, but model FLOPs by convention do not
    (Chowdhery et al. 2022, PaLM, appendix B).
    """

    forward: int = 0
    backward: int = 0
    recompute: int = 0

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            forward=self.forward + other.forward,
            backward=self.backward + other.backward,
            recompute=self.recompute + other.recompute,
        )

    def times(self, count: int) -> Flops:
        """The FLOPs of `count` such parts."""
        return Flops(
            forward=count * self.forward, backward=count * self.backward, recompute=count * self.recompute
        )

    def without_gradient(self) -> Flops:
        """The forward pass alone, as in a teacher."""
        return Flops(forward=self.forward)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A ViT on square images: `pixels` values per patch, `patches` per image, and one class token."""

    width: int
    depth: int
    hidden: int
    pixels: int
    patches: int

    @property
    def tokens(self) -> int:
        """Tokens of an image with the class token."""
        return self.patches + 1


def shape_of(
    *, width: int, depth: int, mlp_ratio: float, resolution: int, patch: int, channels: int
) -> Shape:
    """The shape of an encoder on images of `resolution` squared pixels in patches of `patch` squared."""
    return Shape(
        width=width,
        depth=depth,
        hidden=round(width * mlp_ratio),
        pixels=patch * patch * channels,
        patches=(resolution // patch) ** 2,
    )


def linear(rows: int, fan_in: int, fan_out: int, *, input_gradient: bool = True) -> Flops:
    """A matrix product with trained weights on `rows` vectors; the first layer needs no input gradient."""
    product = 2 * rows * fan_in * fan_out
    return Flops(forward=product, backward=product * (1 + input_gradient))


def block(tokens: int, width: int, hidden: int) -> Flops:
    """A transformer block (Vaswani et al. 2017): q, k, v, attention, projection, a two-layer MLP."""
    score = 2 * tokens * tokens * width
    attention = Flops(forward=2 * score, backward=4 * score, recompute=score)
    weights = 4 * width * width + 2 * width * hidden
    return attention + linear(tokens, 1, weights)


def embedding(shape: Shape, *, patches: int | None = None) -> Flops:
    """Patch embedding of `patches` (default: all), as one linear layer without gradient of the pixels."""
    rows = shape.patches if patches is None else patches
    return linear(rows, shape.pixels, shape.width, input_gradient=False)


def encoder(shape: Shape, *, patches: int | None = None) -> Flops:
    """The encoder on an image of which it sees `patches` (default: all) and the class token."""
    seen = shape.patches if patches is None else patches
    return embedding(shape, patches=seen) + block(seen + 1, shape.width, shape.hidden).times(shape.depth)


def block_params(width: int, hidden: int) -> int:
    """Parameters of a block: two norms, q, k, v, projection and MLP, all with biases."""
    attention = 4 * width * width + 4 * width
    return attention + 2 * width * hidden + hidden + width + 4 * width


def encoder_params(shape: Shape, *, learned_positions: bool = False, layer_scale: bool = False) -> int:
    """Parameters of the encoder: patch embedding, class token, blocks, last norm, learned positions."""
    fixed = (shape.pixels + 1) * shape.width + shape.width + 2 * shape.width
    positions = shape.tokens * shape.width if learned_positions else 0
    scales = 2 * shape.width * layer_scale
    return fixed + positions + shape.depth * (block_params(shape.width, shape.hidden) + scales)


def mlp_params(sizes: tuple[int, ...], *, bias: bool = True) -> int:
    """Parameters of linear layers between consecutive sizes."""
    return sum((a + bias) * b for a, b in pairwise(sizes))


def mlp(rows: int, sizes: tuple[int, ...], *, input_gradient: bool = True) -> Flops:
    """Linear layers between consecutive sizes, on `rows` vectors."""
    total = Flops()
    for index, (a, b) in enumerate(pairwise(sizes)):
        total += linear(rows, a, b, input_gradient=input_gradient or index > 0)
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Bytes that transformer blocks keep between forward and backward pass on one sequence.

    block:   inputs of one block's products, norms and activations
    stream:  the residual stream between two blocks, fp32; nothing else is kept of a block that is computed
             again
    ends:    stream before and after the last norm, and patches before their embedding
    working: gradients of the stream and of a hidden layer, which the backward pass needs at one time
    inputs:  the patches before their embedding, fp32
    """

    depth: int
    block: int
    stream: int
    ends: int
    working: int
    inputs: int

    def kept(self, *, checkpointing: bool = False) -> int:
        """Bytes that all blocks keep; if they are computed again, only the stream between them."""
        return self.depth * (self.stream if checkpointing else self.block) + self.ends


def bytes_of(precision: str) -> int:
    """Bytes of a value in a matrix product."""
    return 4 if precision == "fp32" else 2


def activations(
    tokens: int,
    width: int,
    hidden: int,
    depth: int,
    *,
    precision: str,
    layer_scale: bool = False,
    patches: tuple[int, int] = (0, 0),
) -> Activations:
    """Activations of `depth` blocks on `tokens`, which come from `patches` (how many, values of each).

    Per token and block: two norms' inputs (fp32, as all of the residual stream under autocast) and outputs,
                         q, k, v,
    attention's output, the MLP's hidden layer before and after GELU, and with layer scale both branches. The
    sums are compared with measured peaks (tests/core/test_memory.py); published is 37.2 bytes per token,
    width and layer at mlp_ratio 4 in bf16.
    """
    each = bytes_of(precision)
    branches = 2 * each * width if layer_scale else 0
    block = tokens * (4 * 2 * width + each * (6 * width + 2 * hidden) + branches)
    count, pixels = patches
    return Activations(
        depth=depth,
        block=block,
        stream=4 * tokens * width,
        ends=2 * 4 * tokens * width + each * count * pixels,
        working=tokens * (4 * width + each * hidden),
        inputs=4 * count * pixels,
    )


def whole_image(shape: Shape, *, precision: str, layer_scale: bool = False) -> Activations:
    """Activations of an encoder that sees all patches of an image."""
    return activations(
        shape.tokens,
        shape.width,
        shape.hidden,
        shape.depth,
        precision=precision,
        layer_scale=layer_scale,
        patches=(shape.patches, shape.pixels),
    )
