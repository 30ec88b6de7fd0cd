"""DINOv2 (Oquab et al. 2023, section 4): a student matches its moving average on crops and masked patches."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from orch_core.cell import Cell
from orch_core.learn import distributed, sharding
from orch_core.learn.augment import View, draw_view
from orch_core.learn.data import Batch, to_device
from orch_core.learn.encoders import build_encoder, encode, initialise, patchify
from orch_core.learn.masks import block_masks
from orch_core.learn.objectives import Inputs, Objective, Progress, Rate
from orch_core.learn.randomness import Rows
from orch_core.learn.schedule import cosine, linear_warmup
from orch_core.recipes.base import Constants
from orch_core.recipes.dinov2 import GLOBALS, head_sizes, masked_counts


class Head(nn.Module):
    """MLP with GELU, unit length, cosine to prototypes (DINO's section 3.1 and appendix C)."""

    def __init__(self, sizes: tuple[int, ...], prototypes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(len(sizes) - 1):
            layers += [nn.GELU()] if index else []
            layers.append(nn.Linear(sizes[index], sizes[index + 1]))
        self.mlp = nn.Sequential(*layers)
        self.prototypes = nn.Parameter(torch.empty(prototypes, sizes[-1]))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [rows, prototypes] of tokens [rows, width]."""
        return functional.linear(
            functional.normalize(self.mlp(tokens), dim=1), functional.normalize(self.prototypes, dim=1)
        )


class DinoV2(nn.Module):
    """Student, teacher (momentum copy), one head each, and a centre each for class tokens and for patches."""

    class_centre: Tensor
    patch_centre: Tensor
    temperature: Tensor

    def __init__(
        self, encoder: VisionTransformer, head: Head, *, patch: int, prototypes: int, constants: Constants
    ) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.mask_token = nn.Parameter(torch.zeros(1, 1, encoder.embed_dim))
        self.teacher_encoder = copy.deepcopy(encoder).requires_grad_(requires_grad=False)
        self.teacher_head = copy.deepcopy(head).requires_grad_(requires_grad=False)
        self.register_buffer("class_centre", torch.zeros(1, prototypes))
        self.register_buffer("patch_centre", torch.zeros(1, prototypes))
        self.register_buffer("temperature", torch.tensor(float(constants["teacher_temperature_start"])))
        self.patch, self.constants = patch, constants
        self.means: tuple[Tensor, Tensor] | None = None

    def forward(
        self, crops: Tensor, masked: Tensor, small: Tensor, where: Tensor, *uniform: Tensor
    ) -> Tensor:
        """Loss of global crops [2n, c, h, w] (all first ones, then all second), masks [2n, l], local crops.

        small: [k n, ...]; uniform: drop path's numbers for global and local crops, [2n, paths] and [k n,
               paths].
        where: places of the masked patches in `masked`, flattened; counting them here would wait for the GPU
        """
        drop, drop_small = uniform or (None, None)
        student_temperature = float(self.constants["student_temperature"])
        targets, patch_targets = self._teach(crops, where)
        tokens = encode(
            self.encoder, patchify(crops, self.patch), replaced=masked, token=self.mask_token, uniform=drop
        )
        classes, rows = tokens[:, 0], [tokens[:, 0]]
        if len(small):
            rows.append(encode(self.encoder, patchify(small, self.patch), uniform=drop_small)[:, 0])
        seen = len(crops) + len(small)
        hidden = tokens[:, 1:].flatten(0, 1)[where]
        logits = self.head(torch.cat([*rows, hidden])) / student_temperature
        loss = distillation(logits[:seen].log_softmax(1), targets)
        if len(where):
            share = masked.sum(1).clamp(min=1).to(logits.dtype).reciprocal()
            weight = share.repeat_interleave(masked.shape[1])[where]
            each = -(patch_targets * logits[seen:].log_softmax(1)).sum(1)
            loss = loss + float(self.constants["ibot_weight"]) * (each * weight).sum() / len(crops)
        if self.constants["koleo_weight"]:
            spread = sum(
                (koleo(part) for part in classes.chunk(GLOBALS)), torch.zeros((), device=loss.device)
            )
            loss = loss + float(self.constants["koleo_weight"]) * spread
        return loss

    @torch.no_grad()
    def _teach(self, crops: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher's distributions of crops [2n, k] and of masked patches, with the last step's centres."""
        tokens = encode(self.teacher_encoder, patchify(crops, self.patch))
        logits = self.teacher_head(torch.cat([tokens[:, 0], tokens[:, 1:].flatten(0, 1)[where]]))
        whole, parts = logits[: len(crops)], logits[len(crops) :]
        self.means = (_mean(whole, self.class_centre), _mean(parts, self.patch_centre))
        return (
            ((whole - self.class_centre) / self.temperature).softmax(1),
            ((parts - self.patch_centre) / self.temperature).softmax(1),
        )

    @torch.no_grad()
    def figures(self, images: Tensor) -> dict[str, float]:
        """Entropies of the teacher's distributions of images [n, c, h, w], over the log of the prototypes.

        teacher_entropy: mean over images, 1 if all are uniform; teacher_usage: that of the mean distribution,
                         0 if all images
        are assigned to one prototype. Caron et al. 2021 (DINO, section 5.3) describe both collapses.
        """
        tokens = encode(self.teacher_encoder, patchify(images, self.patch))[:, 0]
        shares = ((self.teacher_head(tokens) - self.class_centre) / self.temperature).double().softmax(1)
        most = math.log(shares.shape[1])
        return {
            "teacher_entropy": float(torch.special.entr(shares).sum(1).mean()) / most,
            "teacher_usage": float(torch.special.entr(shares.mean(0)).sum()) / most,
        }

    @torch.no_grad()
    def move_centres(self) -> None:
        """Centre = momentum x centre + (1 - momentum) x mean of the last step's teacher logits."""
        assert self.means is not None
        for centre, mean in zip((self.class_centre, self.patch_centre), self.means, strict=True):
            centre.lerp_(mean.to(centre.dtype), 1 - float(self.constants["centre_momentum"]))

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Teacher = momentum x teacher + (1 - momentum) x student."""
        student = [*self.encoder.parameters(), *self.head.parameters()]
        teacher = [*self.teacher_encoder.parameters(), *self.teacher_head.parameters()]
        torch._foreach_lerp_(sharding.local([*teacher]), sharding.local([*student]), 1 - momentum)


def _mean(rows: Tensor, otherwise: Tensor) -> Tensor:
    """Mean [1, k] over the rows of all processes; `otherwise` if there are none."""
    count = distributed.total(rows.new_full((), len(rows), dtype=torch.float32))
    mean = distributed.total(rows.sum(0, keepdim=True)) / count.clamp(min=1)
    return torch.where(count > 0, mean, otherwise)


def distillation(logs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over all pairs of a student's crop and another, global crop of the teacher.

    logs: [(2 + k) n, prototypes], crop by crop; targets: [2 n, prototypes].
    """
    n = len(targets) // GLOBALS
    # unbind, because the gradient of an index is as large as the indexed tensor, for every pair
    student, teacher = logs.view(-1, n, logs.shape[1]).unbind(), targets.view(GLOBALS, n, -1).unbind()
    terms = [
        -(teacher[t] * student[s]).sum(1).mean()
        for s in range(len(student))
        for t in range(GLOBALS)
        if s != t
    ]
    return torch.stack(terms).mean()


def koleo(features: Tensor) -> Tensor:
    """-mean log distance to the nearest neighbour of unit vectors (Sablayrolles et al. 2019), at least fp32.

    The neighbours include the vectors of all processes.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = functional.normalize(
            features if features.dtype == torch.float64 else features.float(), dim=1, eps=1e-8
        )
        others = distributed.gathered(unit)
        shift = distributed.rank() * len(unit) if distributed.world() > 1 else 0
        with torch.no_grad():
            similar = unit @ others.T
            mine = torch.arange(len(unit), device=unit.device)[:, None]
            nearest = similar.scatter_(1, mine + shift, -1).argmax(1)
        return -(functional.pairwise_distance(unit, others[nearest], eps=1e-8) + 1e-8).log().mean()


def build(cell: Cell, constants: Constants) -> Objective:
    """DINOv2 for a cell."""
    encoder = build_encoder(cell, drop_path=float(constants["drop_path"]))
    prototypes = int(constants["prototypes"])
    head = Head(head_sizes(encoder.embed_dim, constants), prototypes)
    initialise(head, cell.seed, "head")
    module = DinoV2(encoder, head, patch=cell.patch, prototypes=prototypes, constants=constants)
    first, second, local = views(cell, constants)
    side = cell.resolution // cell.patch

    def draw(batch: Batch, rng: Rows) -> Inputs:
        crops = torch.cat([draw_view(batch, view, rng) for view in (first, second)])
        count = int(constants["local_crops"])
        small = [draw_view(batch, local, rng) for _ in range(count)]
        counts = rng.shuffled(np.array(masked_counts(GLOBALS * rng.total, side * side, constants)))
        masked = np.concatenate([block_masks(part, side, rng) for part in counts])
        hidden, where = (to_device(array, crops.device) for array in (masked, np.flatnonzero(masked)))
        inputs = crops, hidden, torch.cat(small) if small else crops[:0], where
        return (
            inputs if not constants["drop_path"] else (*inputs, *_uniform(len(encoder.blocks), inputs, rng))
        )

    def before_step(progress: Progress) -> None:
        warm = linear_warmup(progress.early, float(constants["teacher_warmup"]))
        low, high = float(constants["teacher_temperature_start"]), float(constants["teacher_temperature"])
        module.temperature.fill_(low + (high - low) * warm)

    def after_step(progress: Progress) -> None:
        module.move_centres()
        module.update_teacher(cosine(progress.late, float(constants["momentum"]), 1.0))

    def rate(name: str) -> Rate:
        return layer_rate(name, len(encoder.blocks), constants)

    return Objective(
        module=module,
        encoder=encoder,
        draw=draw,
        before_step=before_step,
        after_step=after_step,
        rate=rate,
        figures=module.figures,
        coupled=True,
    )


def _uniform(depth: int, inputs: Inputs, rng: Rows) -> Inputs:
    """Drop path's numbers for the student's crops: two branches per block."""
    device, n = inputs[0].device, len(inputs[0]) // GLOBALS
    drawn = [
        np.concatenate(
            [rng.random((n, 2 * depth)) for _ in range(len(crops) // n)] or [np.empty((0, 2 * depth))]
        )
        for crops in (inputs[0], inputs[2])
    ]
    return tuple(to_device(numbers, device) for numbers in drawn)


def layer_rate(name: str, depth: int, constants: Constants) -> Rate:
    """The learning rate falls by `layer_decay` per block towards the input; prototypes start frozen."""
    if name == "head.prototypes":
        return Rate(frozen=float(constants["last_layer_frozen"]))
    if not name.startswith("encoder."):
        return Rate()
    parts = name.split(".")
    layer = int(parts[2]) + 1 if parts[1] == "blocks" else depth + 1 if parts[1] == "norm" else 0
    embed = float(constants["patch_embed_rate"]) if parts[1] == "patch_embed" else 1.0
    return Rate(scale=embed * math.pow(float(constants["layer_decay"]), depth + 1 - layer))


def views(cell: Cell, constants: Constants) -> tuple[View, View, View]:
    """First global, second global, and local crop."""
    jitter = {name: float(constants[name]) for name in ("brightness", "contrast", "jitter_share")}
    size = {
        "side": cell.resolution,
        "crop_min": float(constants["crop_min"]),
        "crop_max": float(constants["crop_max"]),
    }
    first = View(**size, **jitter, blur_share=float(constants["blur_share_1"]))  # type: ignore[arg-type]
    second = View(
        **size,  # type: ignore[arg-type]
        **jitter,  # type: ignore[arg-type]
        blur_share=float(constants["blur_share_2"]),
        solarize_share=float(constants["solarize_share"]),
    )
    local = View(
        side=int(constants["local_side"]),
        crop_min=float(constants["local_min"]),
        crop_max=float(constants["local_max"]),
        **jitter,  # type: ignore[arg-type]
        blur_share=float(constants["blur_share_local"]),
    )
    return first, second, local
