"""Images as a tensor, with their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """images: uint8 [n, channels, resolution, resolution]; orientation_free: bool [n], no up or down.

    labels: int64 [n], the first label of each image, -1 for none; each source's labels follow those of the
            sources before.
    """

    images: Tensor
    orientation_free: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, indices: NDArray[np.int64] | slice) -> Batch:
        """The images at `indices`."""
        where = indices if isinstance(indices, slice) else to_device(indices, self.images.device)
        return Batch(
            images=self.images[where],
            orientation_free=self.orientation_free[where],
            labels=self.labels[where],
        )

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; a copy from pinned memory runs in parallel with the device's work."""
        images, orientation_free, labels = (
            part.to(device, non_blocking=True) for part in (self.images, self.orientation_free, self.labels)
        )
        return Batch(images=images, orientation_free=orientation_free, labels=labels)

    def pin_memory(self) -> Batch:
        """The batch in pinned memory, which a GPU reads directly."""
        return Batch(
            images=self.images.pin_memory(),
            orientation_free=self.orientation_free.pin_memory(),
            labels=self.labels.pin_memory(),
        )


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array as a tensor on a device; the copy is queued, so the host can draw while a GPU computes."""
    return torch.from_numpy(array).to(device, non_blocking=True)


def joined(parts: list[Batch]) -> Batch:
    """The batches as one."""
    if len(parts) == 1:
        return parts[0]
    return Batch(
        images=torch.cat([part.images for part in parts]),
        orientation_free=torch.cat([part.orientation_free for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
    )


def as_tensor(images: NDArray[np.uint8], *, resolution: int, channels: int) -> Tensor:
    """Images [n, h, w, c] as uint8 [n, channels, resolution, resolution], in luma if `channels` is 1."""
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    if channels == 1 and tensor.shape[1] == 3:
        luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R BT.601, as PIL's convert("L")
        tensor = (tensor * luma).sum(1, keepdim=True).round().to(torch.uint8)
    if tensor.shape[-2:] != (resolution, resolution):
        resized = [
            functional.interpolate(
                chunk.float(), (resolution, resolution), mode="bilinear", align_corners=False, antialias=True
            )
            .round()
            .clamp(0, 255)
            .to(torch.uint8)
            for chunk in chunks_of(tensor, 1024)
        ]
        tensor = torch.cat(resized)
    return tensor.expand(-1, channels, -1, -1) if tensor.shape[1] != channels else tensor


def chunks_of(tensor: Tensor, size: int) -> list[Tensor]:
    """Slices of up to `size` rows."""
    return [tensor[start : start + size] for start in range(0, len(tensor), size)]
