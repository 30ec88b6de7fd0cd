"""Measured FLOPs, memory and energy, to compare with the closed formulas of `orch_core.cost`."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from orch_core.learn import distributed
from orch_core.learn.objectives import Inputs
from orch_core.learn.step import Step


def _forward(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    del out_shape
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _backward(
    gradient: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    del out_shape
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]


_CPU_ATTENTION = {  # torch's table contains the GPU kernels only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}


def measured_flops(take: Step, inputs: Inputs) -> int:
    """FLOPs of a gradient step on the global batch by FlopCounterMode, recomputed activations not counted.

    Leaves the gradients at None.
    """
    saved: list[int] = []

    @contextmanager
    def again() -> Iterator[None]:
        with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
            try:
                yield
            finally:  # torch leaves by an exception once it has what it needs, and does not compute the rest
                saved.append(counter.get_total_flops())

    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        take.gradients(inputs, again)
    take.optimiser.zero_grad(set_to_none=True)
    flops = float(counter.get_total_flops() - sum(saved))
    return round(distributed.average(torch.tensor(flops, dtype=torch.float64)) * distributed.world())


def compiled(module: nn.Module, device: torch.device) -> None:
    """Compile transformer blocks at their first step, on a GPU."""
    if device.type == "cuda":
        torch.compiler.reset()  # graphs of cells trained earlier in this process count towards torch's limit
        for part in module.modules():
            if isinstance(part, Block):
                part.compile()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; a CPU's is a RuntimeError of the default allocator."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


class Meter:
    """Energy used by a device since the meter was made: NVML on NVIDIA GPUs, RAPL on Linux CPUs."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.start = device, _joules(device)

    def read(self) -> dict[str, float]:
        """`energy_joules`, or an empty dict if the device does not report energy."""
        now = _joules(self.device)
        known = now is not None and self.start is not None and now >= self.start
        return {"energy_joules": now - self.start} if known else {}  # type: ignore[operator]


RAPL = Path("/sys/class/powercap")


def _joules(device: torch.device) -> float | None:
    """The device's energy counter in joules; NVML counts millijoules, RAPL microjoules per CPU package."""
    return _nvml_joules(device) if device.type == "cuda" else _rapl_joules()


def _nvml_joules(device: torch.device) -> float | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
    except pynvml.NVMLError:
        return None


def _rapl_joules() -> float | None:
    try:
        packages = [int(path.read_text()) for path in RAPL.glob("intel-rapl:[0-9]/energy_uj")]
    except (OSError, ValueError):
        return None
    return sum(packages) / 1e6 if packages else None


def use_accelerator() -> str:
    """Name of the GPU that training here uses; empty without a GPU, and then torch uses one thread."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    torch.set_num_threads(1)
    return ""


def peak_memory(device: torch.device) -> float:
    """Peak bytes of this process on its device (resident set size on a CPU)."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
