"""Measured FLOPs and memory, beside the closed formulas of `orch_core.cost`."""

from __future__ import annotations

import resource
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def _forward(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    del out_shape
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _backward(
    gradient: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    del out_shape
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]


_CPU_ATTENTION = {  # torch's table has the GPU kernels alone
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}


def measured_flops(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """FLOPs of one forward and backward pass as FlopCounterMode counts them; gradients are left at None."""
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        module(*inputs).backward()
    module.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def use_accelerator() -> str:
    """Name of the GPU that training here uses; empty where there is none, and then training keeps to one thread."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    torch.set_num_threads(1)
    return ""


def peak_memory(device: torch.device) -> float:
    """Peak bytes of this process on its device (resident set on a CPU)."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
