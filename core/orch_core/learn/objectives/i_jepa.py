"""I-JEPA (Assran et al. 2023, section 3): predict the teacher's features of target blocks from a context."""

from __future__ import annotations

import copy

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from orch_core.cell import Cell
from orch_core.learn import sharding
from orch_core.learn.augment import View, draw_view
from orch_core.learn.data import Batch, to_device
from orch_core.learn.encoders import build_encoder, encode, initialise, patchify, pick, positions
from orch_core.learn.masks import apart
from orch_core.learn.objectives import Inputs, Objective, Progress
from orch_core.learn.randomness import Rows
from orch_core.recipes.base import Constants
from orch_core.recipes.i_jepa import context, target_block


class Predictor(nn.Module):
    """A narrow transformer on a context and the mask tokens of one block."""

    def __init__(self, width: int, predictor_width: int, depth: int, side: int) -> None:
        super().__init__()
        self.embed = nn.Linear(width, predictor_width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, predictor_width))
        self.register_buffer("positions", positions(predictor_width, side)[:, 1:], persistent=False)
        heads = max(1, predictor_width // 32)
        self.blocks = nn.Sequential(*[Block(predictor_width, heads, qkv_bias=True) for _ in range(depth)])
        self.norm = nn.LayerNorm(predictor_width, eps=1e-6)
        self.predict = nn.Linear(predictor_width, width)

    def forward(self, tokens: Tensor, seen: Tensor, targets: Tensor) -> Tensor:
        """Predictions [n b, area, width] of blocks `targets` [n, b, area], tokens [n, k, width] at `seen`."""
        grid, blocks = self.get_buffer("positions").expand(len(tokens), -1, -1), targets.shape[1]
        visible = (self.embed(tokens) + pick(grid, seen)).repeat_interleave(blocks, 0)
        hidden = self.mask_token + pick(grid.repeat_interleave(blocks, 0), targets.flatten(0, 1))
        decoded = self.norm(self.blocks(torch.cat([visible, hidden.to(visible.dtype)], 1)))
        predicted: Tensor = self.predict(decoded[:, visible.shape[1] :])
        return predicted


class IJepa(nn.Module):
    """Encoder, predictor, and the encoder's moving average, whose normalised output is the target."""

    def __init__(self, encoder: VisionTransformer, predictor: Predictor, *, patch: int) -> None:
        super().__init__()
        self.encoder, self.predictor, self.patch = encoder, predictor, patch
        self.teacher_encoder = copy.deepcopy(encoder).requires_grad_(requires_grad=False)

    def forward(self, images: Tensor, seen: Tensor, targets: Tensor) -> Tensor:
        """Loss of images [n, c, h, w], context `seen` [n, k] and blocks `targets` [n, b, area]."""
        patches = patchify(images, self.patch)
        with torch.no_grad():
            whole = encode(self.teacher_encoder, patches)[:, 1:]
            whole = functional.layer_norm(whole, whole.shape[-1:])
            wanted = pick(whole.repeat_interleave(targets.shape[1], 0), targets.flatten(0, 1))
        predicted = self.predictor(encode(self.encoder, patches, seen)[:, 1:], seen, targets)
        return functional.smooth_l1_loss(predicted.to(wanted.dtype), wanted)

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Teacher = momentum x teacher + (1 - momentum) x student."""
        teacher, student = list(self.teacher_encoder.parameters()), list(self.encoder.parameters())
        torch._foreach_lerp_(sharding.local([*teacher]), sharding.local([*student]), 1 - momentum)


def build(cell: Cell, constants: Constants) -> Objective:
    """I-JEPA for a cell."""
    encoder, side = build_encoder(cell), cell.resolution // cell.patch
    predictor = Predictor(
        encoder.embed_dim, int(constants["predictor_width"]), int(constants["predictor_depth"]), side
    )
    initialise(predictor, cell.seed, "predictor")
    module = IJepa(encoder, predictor, patch=cell.patch)
    view = View(
        side=cell.resolution,
        crop_min=float(constants["crop_min"]),
        crop_max=float(constants["crop_max"]),
        flip=False,
    )
    height, width = target_block(side, constants)
    keep, blocks, start = context(side, constants), int(constants["targets"]), float(constants["momentum"])

    def draw(batch: Batch, rng: Rows) -> Inputs:
        block = (height, width) if rng.random() < 0.5 else (width, height)  # one shape per batch
        targets, others = apart(len(batch), side, block, blocks, rng)
        device = batch.images.device
        seen = to_device(others[:, :keep], device)
        return draw_view(batch, view, rng), seen, to_device(targets, device)

    def after_step(progress: Progress) -> None:
        module.update_teacher(start + (1 - start) * progress.late)

    return Objective(module=module, encoder=encoder, draw=draw, after_step=after_step)
