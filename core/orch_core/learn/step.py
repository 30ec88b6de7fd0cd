"""One gradient step on the global batch, with micro-batches, mixed precision and several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from orch_core.errors import OrchError
from orch_core.learn import distributed, sharding
from orch_core.learn.encoders import Recompute, recomputing
from orch_core.learn.objectives import Inputs, Objective
from orch_core.learn.schedule import Schedule, build_optimiser, set_schedule

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """How a batch fits into memory; results depend on it by rounding only.

    micro_batch:   images at a time in each process; 0 for all
    checkpointing: blocks keep no activations and run their forward pass twice
    """

    micro_batch: int = 0
    checkpointing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Takes gradient steps of an objective.

    forward: the objective's module, wrapped for several processes if there are several
    """

    objective: Objective
    forward: torch.nn.Module
    optimiser: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    schedule: Schedule
    device: torch.device
    precision: str
    memory_plan: MemoryPlan

    def __call__(self, step: int, inputs: Inputs) -> Tensor:
        """Take step number `step` on this process's rows of the batch; returns their loss (float64)."""
        progress = self.schedule.progress(step)
        self.objective.before_step(progress)
        set_schedule(self.optimiser, self.schedule, step)
        loss = self.gradients(inputs)
        clip = float(self.schedule.constants["clip"])
        if clip:
            self.scaler.unscale_(self.optimiser)
            for part in self.objective.module.children():
                torch.nn.utils.clip_grad_norm_(part.parameters(), clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.objective.after_step(progress)
        self.optimiser.zero_grad(set_to_none=True)
        return loss

    def gradients(
        self, inputs: Inputs, again: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> Tensor:
        """Add the gradients of the batch to the parameters; returns the loss, a float64 scalar.

        Micro-batches sum up a mean over images. If images are coupled, the encoder runs on one micro-batch at
        a time, and again in the backward pass (Gao et al. 2021, arXiv 2101.06983), while heads and loss see
        the whole batch. `again` is entered around recomputation.
        """
        n, micro = len(inputs[0]), self.memory_plan.micro_batch
        coupled = self.objective.coupled
        recompute = Recompute(
            rows=micro if coupled else 0, blocks=self.memory_plan.checkpointing, again=again
        )
        parts = [inputs] if coupled else list(_parts(inputs, micro or n))
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for index, part in enumerate(parts):
            with self._shared(last=index == len(parts) - 1), recomputing(recompute):
                with autocast(self.device, self.precision):
                    loss = self.forward(*part)
                share = len(part[0]) / n
                self.scaler.scale(loss if share == 1 else loss * share).backward()
            total += loss.detach().double() * share
        return total

    def _shared(self, *, last: bool) -> AbstractContextManager[object]:
        """Let processes exchange gradients only after the last micro-batch."""
        if isinstance(self.forward, DistributedDataParallel):
            return nullcontext() if last else self.forward.no_sync()
        sharding.set_gradient_sync(self.forward, wanted=last)
        return nullcontext()


def build_step(
    objective: Objective, schedule: Schedule, *, device: torch.device, precision: str, memory_plan: MemoryPlan
) -> Step:
    """The step of an objective on a device; raises OrchError if the device does not support the precision."""
    if (
        precision == "bf16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        message = f"{torch.cuda.get_device_name(device)} does not support bf16"
        raise OrchError(message, hint="set `precision: fp16` or `fp32`, or choose another partition")
    module: torch.nn.Module = objective.module
    if distributed.world() > 1 and sharding.is_large(module):
        sharding.shard(module)
    elif distributed.world() > 1:
        devices = [device.index] if device.type == "cuda" else None
        module = DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)
    return Step(
        objective=objective,
        forward=module,
        optimiser=build_optimiser(objective, schedule.constants),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        schedule=schedule,
        device=device,
        precision=precision,
        memory_plan=memory_plan,
    )


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products in the cell's precision."""
    return torch.autocast(device.type, HALF.get(precision, torch.bfloat16), enabled=precision in HALF)


def rows_here(batch: int) -> slice:
    """The rows of the global batch for this process; raises OrchError if they cannot be equally many."""
    world = distributed.world()
    if batch % world:
        message = f"{world} processes cannot share a batch of {batch}"
        raise OrchError(message, hint="choose a batch that the number of processes divides")
    each = batch // world
    return slice(distributed.rank() * each, (distributed.rank() + 1) * each) if world > 1 else slice(0, batch)


def _parts(inputs: Inputs, rows: int) -> Iterator[Inputs]:
    for first in range(0, len(inputs[0]), rows):
        yield tuple(tensor[first : first + rows] for tensor in inputs)
