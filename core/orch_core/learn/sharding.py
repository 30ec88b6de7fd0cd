"""Sharding of a large model's parameters, gradients, moments (FSDP2: Zhao et al. 2023, arXiv 2304.11277)."""

from __future__ import annotations

from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from orch_core.learn import distributed

LARGE = 5e8
"""Parameters from which a model is sharded: ViT-H has 632 M, and 12 bytes each of gradient and moments."""


def is_large(module: nn.Module) -> bool:
    """Whether the module has enough trained parameters to shard it."""
    return sum(part.numel() for part in module.parameters() if part.requires_grad) >= LARGE


def shard(module: nn.Module) -> None:
    """Shard the module's parameters in place, block by block."""
    device = next(module.parameters()).device.type
    mesh = init_device_mesh(device, (distributed.world(),))
    for part in module.modules():
        if isinstance(part, Block):
            fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)


def set_gradient_sync(module: nn.Module, *, wanted: bool) -> None:
    """Set whether the next backward pass sums the gradients of all processes."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(wanted)


def reshard(module: nn.Module) -> None:
    """Shard again the parameters that a forward pass without backward has gathered."""
    if isinstance(module, FSDPModule):
        module.reshard()


def unshard(module: nn.Module) -> None:
    """Gather the root's parameters, for computations that bypass its forward."""
    if isinstance(module, FSDPModule):
        module.unshard()


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, sharded ones gathered; all processes must call it."""
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in tensors.items()
    }


def local(tensors: list[Tensor]) -> list[Tensor]:
    """Each tensor's shard in this process."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
