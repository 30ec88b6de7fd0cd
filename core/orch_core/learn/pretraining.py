"""One pretraining run: resumes exactly, saves before it stops, writes an encoder, a curve and a result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orch_core.cell import Cell
from orch_core.cost import price
from orch_core.errors import OrchError
from orch_core.learn import distributed, sharding
from orch_core.learn.checkpoint import KEPT, load_checkpoint, save_checkpoint, save_tensors, training_state
from orch_core.learn.data import Batch, Packed, batches, held_out_set, pretraining_set, workers_here
from orch_core.learn.encoders import build_encoder
from orch_core.learn.health import collapse
from orch_core.learn.ledger import Meter, compiled, is_out_of_memory, measured_flops, peak_memory
from orch_core.learn.objectives import Inputs, Objective, build_objective
from orch_core.learn.randomness import Rows, generator
from orch_core.learn.readout import online_metrics, spread
from orch_core.learn.result import Result, Stopped, never
from orch_core.learn.schedule import schedule_of
from orch_core.learn.step import MemoryPlan, Step, build_step, rows_here
from orch_core.monitoring import GALLERY, GALLERY_MOST, HEALTH_IMAGES, READ_OUTS, ROWS
from orch_core.recipes import constants, recipe_of, trunk
from orch_core.study.curves import append_row, cut_after, read_rows, write_rows
from orch_core.study.folder import CHECKPOINT, CURVES, ENCODER
from orch_core.study.record import Cause, Reason

CHECKPOINT_SECONDS = 60.0
ROW_SECONDS = 5.0
TAIL = 0.05
"""`train_loss` is the mean over this share of the run, at its end; over the cool-down if that is shorter."""

WHOLE = MemoryPlan()


@dataclass(slots=True, kw_only=True)
class _Run:
    """`loss` sums over the steps since the last row, `tail` over the run's end; both of this process only."""

    cell: Cell
    folder: Path
    trunks: Path | None
    objective: Objective
    gradient_step: Step
    images: Batch | Packed
    held_out: Batch
    local_rows: slice
    batches: Iterator[Batch]
    loss: Tensor
    tail: Tensor
    step: int = 0
    summed: int = 0

    @property
    def metrics(self) -> Path:
        return self.folder / CURVES

    @property
    def trunk(self) -> Path | None:
        """Folder of the states that runs of other lengths share with this one."""
        name = trunk(self.cell)
        return self.trunks / name if self.trunks and name else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    """values: finite numbers of the run; fault: why it ended early, None if it reached its last step."""

    values: dict[str, float]
    images_per_second: float
    fault: Reason | None = None


def pretrain(
    cell: Cell,
    folder: Path,
    *,
    should_stop: Callable[[], bool] = never,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    memory_plan: MemoryPlan = WHOLE,
    trunks: Path | None = None,
) -> Result:
    """Train the cell in `folder`, from its newest checkpoint if any, on all processes of the group.

    Writes `metrics.ndjson`, `checkpoint/` and `encoder.safetensors`. Under a schedule with a cool-down, the
    run starts from the newest state in `trunks` that it shares with runs of other lengths, and leaves a state
    there before its cool-down. If a micro-batch does not fit into memory, a single process continues from the
    last checkpoint with half.

    Raises Stopped, after saving, at the first step after `should_stop()` turns true in any process. Raises
    OrchError if data or checkpoint do not belong to the cell, the batch cannot be divided, or one image does
    not fit into memory.
    """
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    recipe = recipe_of(cell)
    if not (recipe.uses_model and recipe.uses_data):
        if recipe.uses_model:
            save_tensors(folder / ENCODER, build_encoder(cell).state_dict())
        return Result(status="done", values=_ledger(cell, 0), cost={"seconds": time.monotonic() - began})
    while True:
        try:
            run = _start(cell, folder, trunks, memory_plan)
            return _trained(run, began, should_stop, checkpoint_seconds)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or distributed.world() > 1:
                raise
            memory_plan = _smaller(memory_plan, cell, error)
        run = None  # type: ignore[assignment]  # frees its memory before the next try


def _smaller(memory_plan: MemoryPlan, cell: Cell, error: BaseException) -> MemoryPlan:
    rows = memory_plan.micro_batch or cell.batch
    if rows == 1 and memory_plan.checkpointing:
        message = f"out of memory with one image at a time: {error}"
        raise OrchError(message, hint="choose a device with more memory, or a smaller model") from None
    return (
        replace(memory_plan, checkpointing=True) if rows == 1 else replace(memory_plan, micro_batch=rows // 2)
    )


def _trained(run: _Run, began: float, should_stop: Callable[[], bool], checkpoint_seconds: float) -> Result:
    meter, device = Meter(run.gradient_step.device), run.gradient_step.device
    flops = measured_flops(run.gradient_step, _first_inputs(run)) * run.cell.steps
    compiled(run.objective.module, device)
    trained = _train(run, should_stop, checkpoint_seconds)
    paid = {
        "seconds": time.monotonic() - began,
        "images_per_second": trained.images_per_second,
        "peak_memory_bytes": peak_memory(device),
        "micro_batch": run.gradient_step.memory_plan.micro_batch
        or run.local_rows.stop - run.local_rows.start,
        "processes": distributed.world(),
        **meter.read(),
    }
    values = {**_ledger(run.cell, flops), **trained.values, "images": len(run.images)}
    if trained.fault:
        return Result(status="diverged", values=values, cost=paid, reason=trained.fault)
    weights = sharding.whole(run.objective.encoder.state_dict())
    if distributed.rank() == 0:
        save_tensors(run.folder / ENCODER, weights)
    return Result(status="done", values=values, cost=paid)


def _fault(run: _Run, figures: dict[str, float]) -> Reason | None:
    """Why the run must end now: its loss is not finite (then no `figures`), or its encoder collapsed."""
    where = f"by step {run.step} of {run.cell.steps}"
    if not figures or not math.isfinite(figures["feature_std"]):
        message = f"the loss or a feature was not finite {where}: lower `lr`, or raise `warmup`"
        return Reason(cause=Cause.DIVERGED, message=message)
    evidence = collapse(figures, warm=run.step > run.gradient_step.schedule.warm)
    if not evidence:
        return None
    message = f"the encoder had collapsed {where}: {evidence}; lower `lr`, or change what prevents collapse"
    return Reason(cause=Cause.COLLAPSED, message=message)


def _start(cell: Cell, folder: Path, trunks: Path | None, memory_plan: MemoryPlan) -> _Run:
    device = (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )
    objective = build_objective(cell)
    objective.module.to(device)
    schedule = schedule_of(cell.steps, cell.batch, constants(cell))
    images, local_rows = pretraining_set(cell), rows_here(cell.batch)
    images = images.to(device) if isinstance(images, Batch) else images
    gradient_step = build_step(
        objective, schedule, device=device, precision=cell.precision, memory_plan=memory_plan
    )
    state = _newest(cell, folder, trunks, gradient_step)
    zero = torch.zeros((), dtype=torch.float64, device=device)
    run = _Run(
        cell=cell,
        folder=folder,
        trunks=trunks,
        objective=objective,
        gradient_step=gradient_step,
        images=images,
        held_out=held_out_set(cell).to(device),
        local_rows=local_rows,
        batches=batches(
            images, cell, state["step"] if state else 0, workers_here(), device=device, share=local_rows
        ),
        loss=zero.clone(),
        tail=zero.clone(),
    )
    if state:
        if state["scaler"]:
            gradient_step.scaler.load_state_dict(state["scaler"])
        run.step, run.tail = state["step"], zero + state["tail"]
    if distributed.rank() == 0:
        if state and "rows" in state:
            write_rows(run.metrics, state["rows"])
        cut_after(run.metrics, run.step)
    return run


def _newest(cell: Cell, folder: Path, trunks: Path | None, gradient_step: Step) -> dict[str, Any] | None:
    """Load the cell's newest checkpoint, else the newest of its trunk up to the branch; its facts."""
    tensors, name = training_state(gradient_step.objective.module, gradient_step.optimiser), trunk(cell)
    state = load_checkpoint(folder / CHECKPOINT, cell.id, tensors, last=cell.steps)
    if state is None and trunks and name:
        state = load_checkpoint(trunks / name, name, tensors, last=gradient_step.schedule.branch)
    return state


def _train(run: _Run, should_stop: Callable[[], bool], checkpoint_seconds: float) -> _Trained:
    cell, first, steps = run.cell, run.step, run.cell.steps
    began = saved = shown = time.monotonic()
    evaluated, branch = evaluation_steps(steps), run.gradient_step.schedule.branch
    figures: dict[str, float] = {}
    while run.step < steps:
        if run.step == branch < steps:
            _save_trunk(run)
        _one_step(run)
        now = time.monotonic()
        stop, late, due = distributed.agreed(
            should_stop(), now - shown > ROW_SECONDS, now - saved > checkpoint_seconds
        )
        if late or run.step in evaluated or run.step % max(1, steps // ROWS) == 0:
            shown = now
            speed = (run.step - first) * cell.batch / (now - began)
            loss = distributed.average(run.loss) / run.summed
            figures = _online_metrics(run) if run.step in evaluated and math.isfinite(loss) else {}
            _row(run, loss, speed, figures)
            health = figures or _health(run) if math.isfinite(loss) else {}
            fault = _fault(run, health)
            if fault:
                known = {name: value for name, value in health.items() if math.isfinite(value)}
                return _Trained(values=known, images_per_second=speed, fault=fault)
        if run.step < steps and (stop or due):
            _save(run)
            saved = time.monotonic()
            if stop:
                message = f"stopped after step {run.step} of {steps}"
                raise Stopped(message)
    if time.monotonic() - began > checkpoint_seconds:
        _save(run)
    speed = (run.step - first) * cell.batch / max(1e-9, time.monotonic() - began)
    loss = distributed.average(run.tail) / _tail_steps(run)
    values = {"train_loss": loss, **(figures or _online_metrics(run))}
    return _Trained(values=values, images_per_second=speed)


def _one_step(run: _Run) -> None:
    """Draw, loss, gradient step: a function of the state and the step number only."""
    loss = run.gradient_step(run.step, _inputs(run, next(run.batches), run.step))
    run.step += 1
    run.loss, run.summed = run.loss + loss, run.summed + 1
    if run.step > run.cell.steps - _tail_steps(run):
        run.tail = run.tail + loss


def _inputs(run: _Run, batch: Batch, step: int) -> Inputs:
    """The rows of a step's batch that this process trains on, augmented and masked."""
    cell = run.cell
    return run.objective.draw(batch, Rows(generator(cell.seed, "views", step), run.local_rows, cell.batch))


def _first_inputs(run: _Run) -> Inputs:
    batch = next(batches(run.images, run.cell, device=run.gradient_step.device, share=run.local_rows))
    return _inputs(run, batch, 0)


def _tail_steps(run: _Run) -> int:
    cooldown = float(run.gradient_step.schedule.constants["cooldown"]) or TAIL
    return max(1, round(min(TAIL, cooldown) * run.cell.steps))


def evaluation_steps(steps: int) -> set[int]:
    """Steps after which the model is evaluated: about eight, evenly spaced in log, the last included."""
    return {round(step) for step in np.geomspace(max(1, steps / 128), steps, READ_OUTS)}


def _online_metrics(run: _Run) -> dict[str, float]:
    cell = run.cell
    size = min(len(run.images), max(GALLERY, min(cell.samples_seen // 100, GALLERY_MOST)))
    spread_out = np.linspace(0, len(run.images) - 1, size).astype(np.int64)  # sources follow one another
    gallery = run.images.rows(spread_out).to(run.gradient_step.device)
    with distributed.alone():
        return online_metrics(run.objective, run.held_out, gallery, cell.patch, cell.precision)


def _health(run: _Run) -> dict[str, float]:
    with distributed.alone():
        return spread(run.objective, run.held_out, run.cell.patch, HEALTH_IMAGES)


def _row(run: _Run, loss: float, speed: float, figures: dict[str, float]) -> None:
    """Append a line to the curve: `loss` is the mean since the last line."""
    cell = run.cell
    run.loss, run.summed = torch.zeros_like(run.loss), 0
    row: dict[str, float] = {
        "step": run.step,
        "samples_seen": run.step * cell.batch,
        "loss": loss,
        "lr": run.gradient_step.schedule.rate(run.step - 1),
        "images_per_second": speed,
        "eta_seconds": (cell.steps - run.step) * cell.batch / speed,
        "time": time.time(),
        **figures,
    }
    if distributed.rank() == 0:
        append_row(run.metrics, {name: value for name, value in row.items() if math.isfinite(value)})


def _save(run: _Run) -> None:
    _save_state(run, run.folder / CHECKPOINT, {"cell": run.cell.id})


def _save_trunk(run: _Run) -> None:
    """Save the state before the cool-down, and the curve up to it, for runs of other lengths."""
    if run.trunk and run.step:
        _save_state(run, run.trunk, {"cell": run.trunk.name, "rows": read_rows(run.metrics)}, keep=None)


def _save_state(run: _Run, folder: Path, facts: dict[str, Any], keep: int | None = KEPT) -> None:
    tensors = training_state(run.objective.module, run.gradient_step.optimiser)
    tail, scaler = distributed.average(run.tail), run.gradient_step.scaler.state_dict()
    facts = {**facts, "step": run.step, "tail": tail, "scaler": scaler}
    save_checkpoint(folder, tensors, facts, keep=keep, scratch=run.folder / CHECKPOINT)


def _ledger(cell: Cell, measured: int) -> dict[str, float]:
    cost = price(cell)
    trains = recipe_of(cell).uses_data
    return {
        "params_encoder": cost.params_encoder,
        "params_head": cost.params_head,
        "params_total": cost.params_total,
        "samples_seen": cell.samples_seen if trains else 0,
        "steps": cell.steps if trains else 0,
        "tokens": cost.tokens,
        "flops_forward": cost.flops_forward,
        "flops_train": cost.flops_train,
        "flops_hardware": cost.flops_hardware,
        "flops_train_measured": measured,
    }
