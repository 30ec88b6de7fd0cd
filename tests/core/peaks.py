"""What a training step really takes: every allocation of torch in it, in order, and the process's resident set."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from orch_core.cell import Cell
from orch_core.learn.data import Batch
from orch_core.learn.objectives import build_objective
from orch_core.learn.randomness import Rows, generator
from orch_core.learn.schedule import schedule_of
from orch_core.learn.step import MemoryPlan, build_step
from orch_core.recipes import constants


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Bytes: `allocated` by torch at the fullest moment of a step; `resident`, what the process grew by up to then."""

    allocated: int
    resident: int


def peak_of(cell: Cell, memory_plan: MemoryPlan) -> Peak:
    """The peak of a training step once the optimiser has its moments; the batch itself is not counted."""
    before = _resident("VmRSS")
    objective = build_objective(cell)
    schedule = schedule_of(cell.steps, cell.batch, constants(cell))
    device = torch.device("cpu")
    take = build_step(objective, schedule, device=device, precision=cell.precision, memory_plan=memory_plan)
    images = torch.randint(0, 256, (cell.batch, cell.channels, cell.resolution, cell.resolution))
    labels = torch.arange(cell.batch) % 2
    batch = Batch(images=images.to(torch.uint8), orientation_free=labels.bool(), labels=labels)
    rng = Rows(generator(0, "views", 0), slice(0, cell.batch), cell.batch)
    inputs = objective.draw(batch, rng)
    take(0, inputs)
    module = objective.module
    moments = [value for state in take.optimiser.state.values() for value in state.values()]
    held = [*module.parameters(), *module.buffers(), *(value for value in moments if torch.is_tensor(value))]
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    take(1, inputs)
    resident = _resident("VmHWM") - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        take(2, inputs)
    events = [
        (event.start_ns(), event.nbytes())
        for event in profiled.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    now = most = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        now += size
        most = max(most, now)
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
    return Peak(allocated=sum(sizes.values()) + most, resident=resident)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
