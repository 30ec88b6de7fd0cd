"""The supervised control (Beyer et al. 2022): cross-entropy of a linear head on mean patch tokens."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from orch_core.cell import Cell
from orch_core.errors import OrchError
from orch_core.learn.augment import View, draw_view
from orch_core.learn.data import Batch
from orch_core.learn.encoders import build_encoder, encode, initialise, patchify
from orch_core.learn.objectives import Inputs, Objective
from orch_core.learn.randomness import Rows
from orch_core.recipes.base import Constants


class Supervised(nn.Module):
    """Encoder and linear head."""

    def __init__(self, encoder: VisionTransformer, head: nn.Linear, *, patch: int) -> None:
        super().__init__()
        self.encoder, self.head, self.patch = encoder, head, patch

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of images [n, c, h, w] and labels [n]."""
        pooled = encode(self.encoder, patchify(images, self.patch))[:, 1:].mean(1)
        return functional.cross_entropy(self.head(pooled), labels)


def build(cell: Cell, constants: Constants) -> Objective:
    """The supervised control for a cell."""
    encoder, classes = build_encoder(cell), int(constants["classes"])
    head = nn.Linear(encoder.embed_dim, classes)
    initialise(head, cell.seed, "head")
    view = View(
        side=cell.resolution, crop_min=float(constants["crop_min"]), crop_max=float(constants["crop_max"])
    )

    def draw(batch: Batch, rng: Rows) -> Inputs:
        if int(batch.labels.min()) < 0:
            message = "some images of the sources have no label"
            raise OrchError(message, hint="the supervised control needs a label for every image: remove it")
        if int(batch.labels.max()) >= classes:
            message = f"the sources have {int(batch.labels.max()) + 1} classes, the head has {classes}"
            raise OrchError(message, hint="raise the recipe's `classes`")
        return draw_view(batch, view, rng), batch.labels

    return Objective(module=Supervised(encoder, head, patch=cell.patch), encoder=encoder, draw=draw)
