"""A cell's frozen encoder, or the principal components of pixels, and the features of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from orch_core.cell import Cell, Probe
from orch_core.images.npz import Images
from orch_core.learn.augment import plain_view
from orch_core.learn.data import as_tensor
from orch_core.learn.encoders import encode, load_encoder, patchify
from orch_core.learn.probes.projection import principal_components
from orch_core.learn.probes.task import Task
from orch_core.learn.result import Stopped, never
from orch_core.recipes import constants, recipe_of
from orch_core.study.stored import PROBES

CHUNK = 256
Features = NDArray[np.float64]
Tokens = NDArray[np.float16]


def device() -> torch.device:
    """What encoders are probed on: this process's GPU, or the CPU where there is none."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


class Subject:
    """A cell's encoder (None for raw pixels), and the features of the last task.

    Every method raises Stopped between batches of images once `should_stop()` is true.
    """

    def __init__(self, cell: Cell, folder: Path, should_stop: Callable[[], bool] = never) -> None:
        self.cell, self.folder, self.should_stop = cell, folder, should_stop
        uses_model = recipe_of(cell).uses_model
        self.encoder = load_encoder(cell, self.weights).to(device()) if uses_model else None
        self._known: tuple[Task, dict[str, Features]] | None = None

    @property
    def weights(self) -> Path:
        """The file of the encoder's weights."""
        return self.folder / "encoder.safetensors"

    def probe_folder(self, probe: Probe) -> Path:
        """Where a probe may keep its state: the folder of its record."""
        return self.folder / PROBES / probe.folder

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

    def encoded(self, encoder: VisionTransformer, images: Images) -> Features:
        """Features [n, 2 width]: the class token and the mean of the patch tokens, after the last norm."""
        parts = []
        for patches in self._patches(images):
            with torch.inference_mode():
                tokens = encode(encoder, patches)
                parts.append(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1).double().cpu())
        return torch.cat(parts).numpy()

    @contextmanager
    def tokens(self, task: Task) -> Iterator[dict[str, Tokens]]:
        """Patch tokens [n, patches, width] of each split after the last norm, in a file removed afterwards.

        The control without an encoder has the pixels of the patches themselves.
        """
        with TemporaryFile(dir=self.folder) as file:
            ends = {split: self._write_tokens(file, images) for split, images in task.images.items()}
            file.flush()
            found: dict[str, Tokens] = {}
            first = 0
            for split, shape in ends.items():
                found[split] = np.memmap(file, np.float16, "r", offset=first, shape=shape)
                first += found[split].nbytes
            yield found

    def _write_tokens(self, file: IO[bytes], images: Images) -> tuple[int, ...]:
        shape: tuple[int, ...] = ()
        for patches in self._patches(images):
            with torch.inference_mode():
                tokens = patches if self.encoder is None else encode(self.encoder, patches)[:, 1:]
            file.write(tokens.to(torch.float16).cpu().numpy().tobytes())
            shape = tuple(tokens.shape[1:])
        return (len(images), *shape)

    def _patches(self, images: Images) -> Iterator[Tensor]:
        """Patches [CHUNK, l, pixels] of plain views, chunk by chunk."""
        for first in range(0, len(images), CHUNK):
            self.check_stop()
            yield self.patches(images[first : first + CHUNK])

    def patches(self, images: Images) -> Tensor:
        """Patches [n, l, pixels] of plain views of images [n, h, w, c], on the device."""
        resized = as_tensor(images, resolution=self.cell.resolution, channels=self.cell.channels)
        return patchify(plain_view(resized.to(device())), self.cell.patch)

    def check_stop(self) -> None:
        """Raise Stopped if the run was asked to stop."""
        if self.should_stop():
            message = "stopped while a task was probed"
            raise Stopped(message)
