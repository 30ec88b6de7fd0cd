"""Several processes that train one cell, each on its rows of the global batch.

A cell's results depend on the number of processes by rounding only. Every process draws the random numbers of
the whole batch and keeps its rows (`randomness.Rows`), and whatever couples the images of a batch (batch
norm, negatives, KoLeo, centres) is computed over all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

TIMEOUT = timedelta(minutes=10)
"""A process that waits for a dead one fails after this time."""

_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def group() -> Iterator[None]:
    """The process group of torchrun's environment: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.

    NCCL exchanges tensors on GPUs, one GPU per process; gloo exchanges the rest, so agreeing does not wait
    for a GPU. Does nothing if WORLD_SIZE is 1 or missing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield
        dist.barrier()  # gloo's threads fail if a peer has already left
    finally:
        dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process computes without the others, for example to evaluate a model."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def world() -> int:
    """Processes that train this cell together."""
    return dist.get_world_size() if dist.is_initialized() and not _alone.get() else 1


def rank() -> int:
    """Rank of this process; rank 0 writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def total(tensor: Tensor) -> Tensor:
    """Sum over all processes, differentiable."""
    return _Total.apply(tensor) if world() > 1 else tensor


def gathered(tensor: Tensor) -> Tensor:
    """Rows of all processes [world x n, ...] from each one's [n, ...], by rank, differentiable."""
    if world() == 1:
        return tensor
    places = torch.zeros(world(), *tensor.shape, dtype=tensor.dtype, device=tensor.device)
    at = torch.full((1, *tensor.shape), rank(), device=tensor.device)
    return total(places.scatter(0, at, tensor[None])).flatten(0, 1)


def agreed(*flags: bool) -> tuple[bool, ...]:
    """Each flag, true if it is true in any process."""
    if world() == 1:
        return flags
    shared = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return tuple(bool(flag) for flag in shared.tolist())


def gpu_names() -> list[str]:
    """The GPUs that this process sees."""
    return [torch.cuda.get_device_name(one) for one in range(torch.cuda.device_count())]


def check_sum(backend: str) -> None:
    """Add up all ranks by `gloo`, or by `nccl` on the GPU; raises RuntimeError for a wrong sum."""
    device = "cuda" if backend == "nccl" else "cpu"
    summed = float(total(torch.tensor(float(rank()), device=device)))
    if summed != world() * (world() - 1) / 2:
        message = f"{backend} adds the ranks of {world()} processes up to {summed:g}"
        raise RuntimeError(message)


def average(value: Tensor) -> float:
    """Mean of a number over all processes."""
    return float(total(value.cpu())) / world()


def from_first(value: Any) -> Any:
    """Rank 0's value, in every process."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def from_all(value: Any) -> list[Any]:
    """Every process's value, by rank."""
    if world() == 1:
        return [value]
    boxes = [None] * world()
    dist.all_gather_object(boxes, value)
    return boxes


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: FunctionCtx, tensor: Tensor) -> Tensor:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(_ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient
