"""A cell's frozen encoder, or the principal components of pixels, and the features of a task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer

from orch_core.cell import Cell
from orch_core.images.npz import Images
from orch_core.learn.augment import plain_view
from orch_core.learn.data import as_tensor
from orch_core.learn.encoders import encode, load_encoder, patchify
from orch_core.learn.probes.projection import principal_components
from orch_core.learn.probes.task import Task
from orch_core.learn.result import Stopped, never
from orch_core.recipes import constants, recipe_of

CHUNK = 256
Features = NDArray[np.float64]


class Subject:
    """A cell's encoder (None for raw pixels), and the features of the last task.

    Every method raises Stopped between batches of images once `should_stop()` is true.
    """

    def __init__(self, cell: Cell, folder: Path, should_stop: Callable[[], bool] = never) -> None:
        self.cell, self.should_stop = cell, should_stop
        uses_model = recipe_of(cell).uses_model
        self.encoder = load_encoder(cell, folder / "encoder.safetensors") if uses_model else None
        self._known: tuple[Task, dict[str, Features]] | None = None

    def features(self, task: Task) -> dict[str, Features]:
        """Features [n, d] of each split, computed once for all protocols of a task."""
        if self._known is None or self._known[0] is not task:
            self._known = (task, self._features(task))
        return self._known[1]

    def _features(self, task: Task) -> dict[str, Features]:
        if self.encoder is None:
            components = int(constants(self.cell)["components"])
            return principal_components(task.images, components, self.check_stop)
        return {split: self.encoded(self.encoder, images) for split, images in task.images.items()}

    @torch.inference_mode()
    def encoded(self, encoder: VisionTransformer, images: Images) -> Features:
        """Features [n, 2 width]: the class token and the mean patch token, after the final norm."""
        device, cell = encoder.patch_embed.proj.weight.device, self.cell
        parts = []
        for first in range(0, len(images), CHUNK):
            self.check_stop()
            chunk = as_tensor(
                images[first : first + CHUNK], resolution=cell.resolution, channels=cell.channels
            )
            tokens = encode(encoder, patchify(plain_view(chunk.to(device)), cell.patch))
            parts.append(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1).double().cpu())
        return torch.cat(parts).numpy()

    def check_stop(self) -> None:
        """Raise Stopped if the run was asked to stop."""
        if self.should_stop():
            message = "stopped while a task was probed"
            raise Stopped(message)
