"""MoCo v3 (Chen, Xie, He 2021, algorithm 1): a view identifies the momentum encoder's other view."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from orch_core.cell import Cell
from orch_core.cost import encoder_shape
from orch_core.learn import distributed, sharding
from orch_core.learn.augment import View, draw_view
from orch_core.learn.data import Batch
from orch_core.learn.encoders import build_encoder, encode, initialise, patchify
from orch_core.learn.objectives import Inputs, Objective, Progress
from orch_core.learn.randomness import Rows
from orch_core.learn.schedule import cosine
from orch_core.recipes.base import Constants
from orch_core.recipes.moco_v3 import sizes


class MocoV3(nn.Module):
    """Student (encoder, projector, predictor) and momentum teacher (encoder, projector)."""

    def __init__(
        self,
        encoder: VisionTransformer,
        projector: nn.Module,
        predictor: nn.Module,
        *,
        patch: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.encoder, self.projector, self.predictor = encoder, projector, predictor
        self.teacher_encoder = copy.deepcopy(encoder).requires_grad_(requires_grad=False)
        self.teacher_projector = copy.deepcopy(projector).requires_grad_(requires_grad=False)
        self.patch, self.temperature = patch, temperature

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Symmetric loss of two views [n, c, h, w]."""
        patches = [patchify(view, self.patch) for view in (first, second)]
        queries = [self.predictor(self.projector(encode(self.encoder, view)[:, 0])) for view in patches]
        with torch.no_grad():
            keys = [self.teacher_projector(encode(self.teacher_encoder, view)[:, 0]) for view in patches]
        return contrast(queries[0], keys[1], self.temperature) + contrast(
            queries[1], keys[0], self.temperature
        )

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Teacher = momentum x teacher + (1 - momentum) x student."""
        student = [*self.encoder.parameters(), *self.projector.parameters()]
        teacher = [*self.teacher_encoder.parameters(), *self.teacher_projector.parameters()]
        torch._foreach_lerp_(sharding.local([*teacher]), sharding.local([*student]), 1 - momentum)


def contrast(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """InfoNCE of unit vectors, times 2 x temperature (algorithm 1 and its note): query i belongs to key i.

    The keys of all processes are candidates.
    """
    queries, keys = functional.normalize(queries, dim=1), functional.normalize(keys, dim=1)
    labels = torch.arange(len(queries), device=queries.device)
    if distributed.world() > 1:
        labels, keys = labels + distributed.rank() * len(queries), distributed.gathered(keys)
    return functional.cross_entropy(queries @ keys.T / temperature, labels) * (2 * temperature)


class BatchNorm(nn.BatchNorm1d):
    """Batch norm with the statistics of the batch over all processes, without running statistics."""

    def __init__(self, features: int, *, affine: bool = True) -> None:
        super().__init__(features, affine=affine, track_running_stats=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Normed rows [n, features]."""
        if distributed.world() == 1:
            return super().forward(rows)
        values, n = rows.float(), len(rows) * distributed.world()
        mean = distributed.total(values.sum(0)) / n
        variance = distributed.total((values - mean).square().sum(0)) / n
        normed = (values - mean) * (variance + self.eps).rsqrt()
        return (normed if self.weight is None else normed * self.weight + self.bias).to(rows.dtype)


def head(layers: tuple[int, ...], *, last_norm: bool = True) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between; the last norm is not affine (section 4.1)."""
    parts: list[nn.Module] = []
    for index, (a, b) in enumerate(pairwise(layers)):
        parts.append(nn.Linear(a, b, bias=False))
        if index < len(layers) - 2:
            parts += [BatchNorm(b), nn.ReLU(inplace=True)]
        elif last_norm:
            parts.append(BatchNorm(b, affine=False))
    return nn.Sequential(*parts)


def build(cell: Cell, constants: Constants) -> Objective:
    """MoCo v3 for a cell."""
    encoder = build_encoder(cell)
    if constants["freeze_patch_embed"]:
        encoder.patch_embed.requires_grad_(requires_grad=False)
    projector_sizes, predictor_sizes = sizes(encoder_shape(cell), constants)
    projector, predictor = head(projector_sizes), head(predictor_sizes)
    initialise(projector, cell.seed, "projector")
    initialise(predictor, cell.seed, "predictor")
    module = MocoV3(
        encoder, projector, predictor, patch=cell.patch, temperature=float(constants["temperature"])
    )
    first, second = (_view(cell, constants, number) for number in (1, 2))

    def draw(batch: Batch, rng: Rows) -> Inputs:
        return draw_view(batch, first, rng), draw_view(batch, second, rng)

    def before_step(progress: Progress) -> None:
        module.update_teacher(cosine(progress.late, float(constants["momentum"]), 1.0))

    return Objective(module=module, encoder=encoder, draw=draw, before_step=before_step, coupled=True)


def _view(cell: Cell, constants: Constants, number: int) -> View:
    return View(
        side=cell.resolution,
        crop_min=float(constants["crop_min"]),
        crop_max=float(constants["crop_max"]),
        brightness=float(constants["brightness"]),
        contrast=float(constants["contrast"]),
        jitter_share=float(constants["jitter_share"]),
        blur_share=float(constants[f"blur_share_{number}"]),
        solarize_share=float(constants["solarize_share"]) if number == 2 else 0.0,
    )
