"""Closed formulas of a plain ViT: parameters, FLOPs, stored activations.

One multiply-add is two FLOPs; matrix products are counted and nothing else, as torch's FlopCounterMode does
(torch/utils/flop_counter.py). tests/core/test_cost.py compares every formula with built timm models.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """FLOPs of a part of a model for one image.

    forward, backward: model FLOPs; recompute: what fused attention computes again in its backward pass (one of
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
        """The same part, `count` times."""
        return Flops(
            forward=count * self.forward, backward=count * self.backward, recompute=count * self.recompute
        )

    def without_gradient(self) -> Flops:
        """The forward pass alone, as in a teacher."""
        return Flops(forward=self.forward)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A ViT on square images: `pixels` values a patch, `patches` an image, one class token before them."""

    width: int
    depth: int
    hidden: int
    pixels: int
    patches: int

    @property
    def tokens(self) -> int:
        """Tokens of a whole image, the class token included."""
        return self.patches + 1


def shape_of(
    *, width: int, depth: int, mlp_ratio: float, resolution: int, patch: int, channels: int
) -> Shape:
    """The shape of an encoder on images of `resolution` pixels a side in patches of `patch` a side."""
    return Shape(
        width=width,
        depth=depth,
        hidden=round(width * mlp_ratio),
        pixels=patch * patch * channels,
        patches=(resolution // patch) ** 2,
    )


def linear(rows: int, fan_in: int, fan_out: int, *, input_gradient: bool = True) -> Flops:
    """A matrix product with trained weights, on `rows` vectors; the first layer needs no gradient of its input."""
    product = 2 * rows * fan_in * fan_out
    return Flops(forward=product, backward=product * (1 + input_gradient))


def block(tokens: int, width: int, hidden: int) -> Flops:
    """A transformer block (Vaswani et al. 2017): q, k, v, attention, projection, a two-layer MLP."""
    score = 2 * tokens * tokens * width
    attention = Flops(forward=2 * score, backward=4 * score, recompute=score)
    weights = 4 * width * width + 2 * width * hidden
    return attention + linear(tokens, 1, weights)


def embedding(shape: Shape, *, patches: int | None = None) -> Flops:
    """Patch embedding of `patches` (all, unless told), as one linear layer without gradient of the pixels."""
    rows = shape.patches if patches is None else patches
    return linear(rows, shape.pixels, shape.width, input_gradient=False)


def encoder(shape: Shape, *, patches: int | None = None) -> Flops:
    """The encoder on an image of which `patches` (all, unless told) and the class token are seen."""
    seen = shape.patches if patches is None else patches
    return embedding(shape, patches=seen) + block(seen + 1, shape.width, shape.hidden).times(shape.depth)


def block_params(width: int, hidden: int) -> int:
    """Parameters of a block: two norms, q, k, v, projection and MLP, all with biases."""
    attention = 4 * width * width + 4 * width
    return attention + 2 * width * hidden + hidden + width + 4 * width


def encoder_params(shape: Shape, *, learned_positions: bool = False, layer_scale: bool = False) -> int:
    """Parameters of the encoder: patch embedding, class token, blocks, last norm, positions if learned (fixed ones are none)."""
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


def activation_bytes(tokens: int, width: int, hidden: int, depth: int, *, precision: str) -> int:
    """Activations that a training step keeps for one image: per token and block the inputs of every product.

    Two norms' inputs and outputs, q, k, v and attention's output, the MLP's input, hidden layer before and after
    GELU. Under bf16 autocast the residual stream and norms stay fp32. Compared with saved-tensor hooks in the tests;
    the published measurement is 37.2 bytes per token, width and layer at mlp_ratio 4 in bf16.
    """
    bytes_per_value = 2 if precision == "bf16" else 4
    residual = 4 * 2 * width + 2 * bytes_per_value * width
    products = bytes_per_value * (4 * width + 2 * hidden)
    return depth * tokens * (residual + products)
