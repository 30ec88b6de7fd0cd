"""MAE (He et al. 2022, section 3): encode the visible patches, decode all, predict masked pixels."""

from __future__ import annotations

import numpy as np
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from orch_core.cell import Cell
from orch_core.learn.augment import View, draw_view
from orch_core.learn.data import Batch, to_device
from orch_core.learn.encoders import build_encoder, encode, initialise, patchify, pick, positions
from orch_core.learn.objectives import Inputs, Objective
from orch_core.learn.randomness import Rows
from orch_core.recipes.base import Constants
from orch_core.recipes.mae import kept


class Decoder(nn.Module):
    """A small transformer on visible tokens and mask tokens in any order, with their positions."""

    def __init__(self, width: int, decoder_width: int, depth: int, side: int, pixels: int) -> None:
        super().__init__()
        self.embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_width))
        self.register_buffer("positions", positions(decoder_width, side), persistent=False)
        heads = max(1, decoder_width // 32)  # 16 heads at the official 512
        self.blocks = nn.Sequential(*[Block(decoder_width, heads, qkv_bias=True) for _ in range(depth)])
        self.norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.predict = nn.Linear(decoder_width, pixels)

    def forward(self, tokens: Tensor, seen: Tensor, masked: Tensor) -> Tensor:
        """Predicted pixels [n, masked, pixels] from encoder tokens [n, 1 + seen, width]."""
        n, grid = len(tokens), self.get_buffer("positions").expand(len(tokens), -1, -1)
        visible = self.embed(tokens) + torch.cat([grid[:, :1], pick(grid[:, 1:], seen)], 1)
        hidden = self.mask_token.expand(n, masked.shape[1], -1) + pick(grid[:, 1:], masked)
        decoded = self.norm(self.blocks(torch.cat([visible, hidden], 1)))
        predicted: Tensor = self.predict(decoded[:, visible.shape[1] :])
        return predicted


class Mae(nn.Module):
    """Encoder and decoder; the loss is the mean squared error over the masked patches."""

    def __init__(
        self, encoder: VisionTransformer, decoder: Decoder, *, patch: int, norm_pixels: bool
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.patch, self.norm_pixels = patch, norm_pixels

    def forward(self, images: Tensor, seen: Tensor, masked: Tensor) -> Tensor:
        """Loss of images [n, c, h, w] with visible patches `seen` [n, k] and masked `masked` [n, l - k]."""
        patches = patchify(images, self.patch)
        predicted = self.decoder(encode(self.encoder, patches, seen), seen, masked)
        target = pick(patches, masked)
        if self.norm_pixels:
            target = normalised(target)
        loss: Tensor = (predicted.to(target.dtype) - target).square().mean()
        return loss


def normalised(patches: Tensor) -> Tensor:
    """Each patch with mean 0 and unbiased variance 1 over its pixels, epsilon 1e-6 (section 4.1)."""
    mean = patches.mean(-1, keepdim=True)
    return (patches - mean) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()


def build(cell: Cell, constants: Constants) -> Objective:
    """MAE for a cell."""
    encoder = build_encoder(cell)
    side = cell.resolution // cell.patch
    decoder = Decoder(
        encoder.embed_dim,
        int(constants["decoder_width"]),
        int(constants["decoder_depth"]),
        side,
        cell.patch * cell.patch * cell.channels,
    )
    initialise(decoder, cell.seed, "decoder")
    view = View(
        side=cell.resolution, crop_min=float(constants["crop_min"]), crop_max=float(constants["crop_max"])
    )
    keep = kept(side * side, float(constants["mask_ratio"]))

    def draw(batch: Batch, rng: Rows) -> Inputs:
        order = to_device(np.argsort(rng.random((len(batch), side * side)), axis=1), batch.images.device)
        return draw_view(batch, view, rng), order[:, :keep], order[:, keep:]

    module = Mae(encoder, decoder, patch=cell.patch, norm_pixels=bool(constants["norm_pixels"]))
    return Objective(module=module, encoder=encoder, draw=draw)
