"""timm's VisionTransformer as the encoder of every algorithm: construction, initialisation, forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from orch_core.cell import Cell
from orch_core.cost import encoder_shape
from orch_core.errors import OrchError
from orch_core.learn.randomness import generator
from orch_core.recipes import constants, recipe_of


def build_encoder(cell: Cell, *, drop_path: float = 0.0) -> VisionTransformer:
    """The cell's ViT with class token and final norm and without a head, initialised from the cell's seed.

    Positions are fixed sin-cos (MAE, appendix A.1; MoCo v3, section 4.1) unless the recipe learns them.
    Raises OrchError if the patch does not divide the resolution, or the heads the width.
    """
    model, recipe = cell.model, recipe_of(cell)
    assert model is not None
    if cell.resolution % cell.patch or model.width % model.heads:
        sizes = f"a patch of {cell.patch} must divide {cell.resolution}"
        message = f"{sizes}, and {model.heads} heads must divide width {model.width}"
        raise OrchError(message, hint="choose a patch and heads that divide these numbers")
    encoder = VisionTransformer(
        img_size=cell.resolution,
        patch_size=cell.patch,
        in_chans=cell.channels,
        num_classes=0,
        global_pool="",
        embed_dim=model.width,
        depth=model.depth,
        num_heads=model.heads,
        mlp_ratio=(encoder_shape(cell).hidden + 0.25) / model.width,  # timm truncates
        weight_init="skip",
        init_values=float(constants(cell)["layer_scale"]) if recipe.layer_scale else None,
    )
    for block, rate in zip(encoder.blocks, np.linspace(0, drop_path, model.depth), strict=True):
        block.drop_path1, block.drop_path2 = DropPath(float(rate)), DropPath(float(rate))
    initialise(encoder, cell.seed, "encoder")
    if not recipe.learned_positions:
        table, _ = _tables(encoder)
        table.requires_grad = False
        table.copy_(positions(model.width, cell.resolution // cell.patch))
    return encoder


class DropPath(nn.Module):
    """Drops a residual branch for some images, each with probability `rate` (Huang et al. 2016).

    The random numbers come with the inputs, so what is dropped depends on the image and not on how a batch is
    divided. The choice is a tensor, so all blocks share one compiled graph.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.scale = rate, torch.empty(0)

    def draw(self, uniform: Tensor) -> None:
        """Choose by the images' numbers [n]: drop below the rate, scale the others to keep the mean."""
        self.scale = (uniform >= self.rate) / (1 - self.rate)

    def forward(self, branch: Tensor) -> Tensor:
        """The branch [n, tokens, width] after the last `draw`, or unchanged if nothing was drawn."""
        return branch * self.scale.to(branch.dtype)[:, None, None] if len(self.scale) else branch


@dataclass(frozen=True, slots=True, kw_only=True)
class Recompute:
    """How to keep few activations: the encoder runs on `rows` images at a time (0: all), `blocks` one by one.

    Dropped activations are computed again in the backward pass, within `again()` (Chen et al. 2016, arXiv
    1604.06174).
    """

    rows: int = 0
    blocks: bool = False
    again: Callable[[], AbstractContextManager[object]] = nullcontext


_KEEP_ALL = Recompute()
_recompute: ContextVar[Recompute] = ContextVar("recompute", default=_KEEP_ALL)


@contextmanager
def recomputing(recompute: Recompute) -> Iterator[None]:
    """Within, encoders keep few activations, as `recompute` says."""
    token = _recompute.set(recompute)
    try:
        yield
    finally:
        _recompute.reset(token)


def initialise(module: nn.Module, seed: int, stream: str) -> None:
    """Linear layers and patches Xavier-uniform, tokens normal 0.02, biases 0, norms 1 (MAE, appendix A.1)."""
    if next(module.parameters()).is_meta:
        return  # only the shapes are needed
    rng = generator(seed, f"init|{stream}")
    norms = {id(weight) for part in module.modules() if _is_norm(part) for weight in part.parameters()}
    for name, parameter in module.named_parameters():
        shape = tuple(parameter.shape)
        if id(parameter) in norms:
            value = np.full(shape, float(name.endswith("weight")))
        elif name.endswith("bias"):
            value = np.zeros(shape)
        elif name.endswith("gamma"):
            continue  # layer scale keeps the value it was built with
        elif name.endswith(("token", "pos_embed")):
            value = 0.02 * rng.standard_normal(shape)
        else:
            value = _xavier(shape, rng)
        parameter.data.copy_(torch.from_numpy(value.astype(np.float32)))


def positions(width: int, side: int) -> Tensor:
    """Fixed 2-d sin-cos positions [1, 1 + side^2, width], zero for the class token (MAE, appendix A.1).

    Half of the width encodes the row and half the column, each as sines and cosines of frequencies
    10000^(-i/(width/4)). Raises OrchError if the width is not a multiple of 4.
    """
    if width % 4:
        message = f"sin-cos positions need a width that is a multiple of 4, not {width}"
        raise OrchError(message, hint="choose a width that is a multiple of 4")
    quarter = width // 4
    omega = 1 / 10000 ** (torch.arange(quarter, dtype=torch.float64) / quarter)
    phase = torch.arange(side, dtype=torch.float64)[:, None] * omega
    axis = torch.cat([phase.sin(), phase.cos()], 1)
    grid = torch.cat([axis.repeat(side, 1), axis.repeat_interleave(side, 0)], 1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), grid])[None].float()


def patchify(images: Tensor, patch: int) -> Tensor:
    """Patches [n, (h/p)(w/p), c p p] of images [n, c, h, w] by rows, values in the order of a kernel."""
    n, channels, height, width = images.shape
    grid = images.view(n, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(n, (height // patch) * (width // patch), -1)


def pick(tokens: Tensor, indices: Tensor) -> Tensor:
    """tokens[i, indices[i]]: [n, k, width] from [n, l, width] and [n, k]."""
    return tokens.gather(1, indices[:, :, None].expand(-1, -1, tokens.shape[2]))


def encode(
    encoder: VisionTransformer,
    patches: Tensor,
    seen: Tensor | None = None,
    *,
    replaced: Tensor | None = None,
    token: Tensor | None = None,
    uniform: Tensor | None = None,
) -> Tensor:
    """Tokens [n, 1 + k, width] after the final norm, class token first, of patches [n, l, pixels].

    seen:     [n, k], indices of the patches to encode (default: all)
    replaced: bool [n, l], patches that become `token` [1, 1, width]
    uniform:  [n, drop paths], numbers that decide which branches an image drops (default: none)

    Positions are interpolated for images smaller than the encoder's.
    """
    rows = _recompute.get().rows or len(patches)
    pieces = [
        _again(
            _encode,
            encoder,
            patches[part],
            None if seen is None else seen[part],
            None if replaced is None else replaced[part],
            token,
            None if uniform is None else uniform[part],
            now=rows >= len(patches),
        )
        for part in (slice(first, first + rows) for first in range(0, len(patches), rows))
    ]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _again(run: Callable[..., Tensor], *arguments: Any, now: bool) -> Tensor:
    """The result of `run`: activations are kept if `now` or without a backward pass, else computed again."""
    if now or not torch.is_grad_enabled():
        return run(*arguments)
    recompute = _recompute.get()
    result: Tensor = checkpoint(
        run,
        *arguments,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), recompute.again()),
    )
    return result


def _encode(
    encoder: VisionTransformer,
    patches: Tensor,
    seen: Tensor | None,
    replaced: Tensor | None,
    token: Tensor | None,
    uniform: Tensor | None,
) -> Tensor:
    position, class_token = _tables(encoder)
    grid = resized_positions(position[:, 1:], patches.shape[1]).expand(len(patches), -1, -1)
    if seen is not None:
        patches, grid = pick(patches, seen), pick(grid, seen)
    projection = encoder.patch_embed.proj
    tokens = functional.linear(patches, projection.weight.flatten(1), projection.bias)
    if replaced is not None and token is not None:
        tokens = torch.where(replaced[:, :, None], token.to(tokens.dtype), tokens)
    tokens = tokens + grid
    start = (class_token + position[:, :1]).expand(len(tokens), -1, -1)
    tokens = torch.cat([start, tokens], 1)
    for index, block in enumerate(encoder.blocks):
        drawn = tokens.new_empty(0) if uniform is None else uniform[:, 2 * index : 2 * index + 2]
        tokens = _again(_block, block, tokens, drawn, now=not _recompute.get().blocks)
    normed: Tensor = encoder.norm(tokens)
    return normed


def _block(block: nn.Module, tokens: Tensor, uniform: Tensor) -> Tensor:
    for column, path in enumerate(part for part in block.children() if isinstance(part, DropPath)):
        path.draw(uniform[:, column] if uniform.ndim == 2 else uniform)
    result: Tensor = block(tokens)
    return result


def resized_positions(grid: Tensor, count: int) -> Tensor:
    """Positions [1, count, width] of a square grid, resized (bicubic) if its size differs, as in DINO."""
    if grid.shape[1] == count:
        return grid
    side, wanted = math.isqrt(grid.shape[1]), math.isqrt(count)
    table = grid.transpose(1, 2).reshape(1, -1, side, side)
    resized = functional.interpolate(table, (wanted, wanted), mode="bicubic", antialias=True)
    return resized.flatten(2).transpose(1, 2)


def load_encoder(cell: Cell, path: Path) -> VisionTransformer:
    """The encoder that pretraining wrote; raises OrchError if it is missing, damaged, or of another shape."""
    encoder = build_encoder(cell)
    try:
        encoder.load_state_dict(load_file(path))
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        message = f"{path} is missing, damaged, or not the encoder of this cell: {error}"
        raise OrchError(message, hint="delete its record.json: `orch launch` then trains it again") from error
    return encoder.eval()


def _xavier(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    fan_out, fan_in = shape[0], math.prod(shape[1:])
    bound = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, shape)


def _tables(encoder: VisionTransformer) -> tuple[nn.Parameter, nn.Parameter]:
    position, token = encoder.pos_embed, encoder.cls_token
    assert position is not None
    assert token is not None
    return position, token


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm | nn.BatchNorm1d)
