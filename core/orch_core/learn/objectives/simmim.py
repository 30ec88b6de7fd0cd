"""SimMIM (Xie et al. 2022, section 3): all tokens are encoded; L1 loss on pixels of masked patches."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from orch_core.cell import Cell
from orch_core.learn.augment import View, draw_view
from orch_core.learn.data import Batch, to_device
from orch_core.learn.encoders import build_encoder, encode, initialise, patchify, pick
from orch_core.learn.masks import square_order
from orch_core.learn.objectives import Inputs, Objective
from orch_core.learn.randomness import Rows
from orch_core.recipes.base import Constants
from orch_core.recipes.simmim import masked


class SimMim(nn.Module):
    """Encoder, mask token and linear layer; the loss is the mean absolute error over the masked pixels."""

    def __init__(self, encoder: VisionTransformer, predict: nn.Linear, *, patch: int) -> None:
        super().__init__()
        self.encoder, self.predict, self.patch = encoder, predict, patch
        self.mask_token = nn.Parameter(torch.zeros(1, 1, encoder.embed_dim))

    def forward(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Loss of images [n, c, h, w] whose patches `hidden` [n, k] are masked."""
        patches = patchify(images, self.patch)
        replaced = torch.zeros(patches.shape[:2], dtype=torch.bool, device=images.device).scatter(
            1, hidden, value=True
        )
        tokens = encode(self.encoder, patches, replaced=replaced, token=self.mask_token)[:, 1:]
        target = pick(patches, hidden)
        loss: Tensor = (self.predict(pick(tokens, hidden)).to(target.dtype) - target).abs().mean()
        return loss


def build(cell: Cell, constants: Constants) -> Objective:
    """SimMIM for a cell."""
    encoder = build_encoder(cell)
    predict = nn.Linear(encoder.embed_dim, cell.patch * cell.patch * cell.channels)
    initialise(predict, cell.seed, "predict")
    view = View(
        side=cell.resolution, crop_min=float(constants["crop_min"]), crop_max=float(constants["crop_max"])
    )
    side = cell.resolution // cell.patch
    count = masked(side * side, float(constants["mask_ratio"]))
    unit = max(1, round(float(constants["mask_side"]) * side))

    def draw(batch: Batch, rng: Rows) -> Inputs:
        order = to_device(square_order(len(batch), side, unit, rng), batch.images.device)
        return draw_view(batch, view, rng), order[:, :count]

    return Objective(module=SimMim(encoder, predict, patch=cell.patch), encoder=encoder, draw=draw)
