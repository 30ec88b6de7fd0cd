"""Parameters, gradients and moments of a large model divided among processes (FSDP2: Zhao et al. 2023, arXiv 2304.11277)."""

from __future__ import annotations

from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from orch_core.learn import distributed

LARGE = 5e8
"""Parameters from which on a model is divided: ViT-H has 632 M, and 12 bytes each of gradient and moments."""


def is_large(module: nn.Module) -> bool:
    """Whether its trained parameters are worth dividing."""
    return sum(part.numel() for part in module.parameters() if part.requires_grad) >= LARGE


def shard(module: nn.Module) -> None:
    """Divide the module's parameters in place, block by block."""
    device = next(module.parameters()).device.type
    mesh = init_device_mesh(device, (distributed.world(),))
    for part in module.modules():
        if isinstance(part, Block):
            fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)


def set_gradient_sync(module: nn.Module, *, wanted: bool) -> None:
    """Whether the next backward pass adds up the gradients of all processes."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(wanted)


def reshard(module: nn.Module) -> None:
    """Divide again what a forward pass without backward has put together."""
    if isinstance(module, FSDPModule):
        module.reshard()


def unshard(module: nn.Module) -> None:
    """Have the root's parameters whole, for what does not go through its forward."""
    if isinstance(module, FSDPModule):
        module.unshard()


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with every divided one put together; all processes must call it."""
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in tensors.items()
    }


def local(tensors: list[Tensor]) -> list[Tensor]:
    """The own part of each tensor."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
