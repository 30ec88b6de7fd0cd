"""One pretraining run: resumes exactly, stops when told, leaves an encoder, a curve and a result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from orch_core.cell import Cell
from orch_core.cost import price
from orch_core.learn.checkpoint import load_checkpoint, save_checkpoint, save_tensors
from orch_core.learn.curve import append_row, cut_after
from orch_core.learn.data import Batch, held_out_set, pretraining_set
from orch_core.learn.encoders import build_encoder
from orch_core.learn.health import collapse, feature_figures
from orch_core.learn.ledger import measured_flops, peak_memory
from orch_core.learn.objectives import Objective, build_objective
from orch_core.learn.randomness import epoch_indices, generator
from orch_core.learn.result import Result
from orch_core.learn.schedule import Schedule, build_optimiser, schedule_of, set_schedule
from orch_core.recipe import constants, recipe_of
from orch_core.recipes import Constants
from orch_core.record import Reason

CHECKPOINT_SECONDS = 60.0
ROW_SECONDS = 5.0
TAIL = 0.05
"""Share of the run, at its end, over which `train_loss` is the mean."""
HELD_OUT_POINTS = 8
HELD_OUT_CHUNK = 128
"""Images of one held-out loss term: fixed, for a contrastive loss depends on how many it contrasts."""


class Stopped(Exception):  # noqa: N818
    """The run was asked to stop, and its state is saved."""


def never() -> bool:
    """Do not stop."""
    return False


@dataclass(slots=True, kw_only=True)
class _Run:
    cell: Cell
    folder: Path
    constants: Constants
    schedule: Schedule
    device: torch.device
    objective: Objective
    optimiser: torch.optim.Optimizer
    images: Batch
    held_out: Batch
    step: int = 0
    tail: float = 0.0
    recent: float = 0.0
    recent_steps: int = 0

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.ndjson"


def pretrain(
    cell: Cell,
    folder: Path,
    *,
    should_stop: Callable[[], bool] = never,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Result:
    """Train the cell in `folder`, from its newest checkpoint if there is one.

    Writes `metrics.ndjson`, `checkpoint/` and `encoder.safetensors`. Raises Stopped, the state saved, at the first step
    after `should_stop()` turns true, and OrchError where data or checkpoint do not belong to the cell.
    """
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    recipe = recipe_of(cell)
    if recipe.uses_model and recipe.uses_data:
        return _trained(_start(cell, folder), began, should_stop, checkpoint_seconds)
    if recipe.uses_model:
        save_tensors(folder / "encoder.safetensors", build_encoder(cell).state_dict())
    return Result(status="done", values=_ledger(cell, 0), cost={"seconds": time.monotonic() - began})


def _trained(run: _Run, began: float, should_stop: Callable[[], bool], checkpoint_seconds: float) -> Result:
    flops = _measure(run) * run.cell.steps
    trained = _train(run, should_stop, checkpoint_seconds)
    paid = {
        "seconds": time.monotonic() - began,
        "images_per_second": trained.pop("images_per_second"),
        "peak_memory_bytes": peak_memory(run.device),
    }
    values = {**_ledger(run.cell, flops), **trained, "images": len(run.images)}
    reason = _reason(run, trained)
    if reason:
        known = {name: value for name, value in values.items() if math.isfinite(value)}
        return Result(status="diverged", values=known, cost=paid, reason=reason)
    save_tensors(run.folder / "encoder.safetensors", run.objective.encoder.state_dict())
    return Result(status="done", values=values, cost=paid)


def _reason(run: _Run, trained: dict[str, float]) -> Reason | None:
    """Why the run has no result: it stopped at a loss that is not a number, or at a collapsed encoder."""
    if math.isfinite(trained["train_loss"]):
        return None
    where = f"by step {run.step} of {run.cell.steps}"
    evidence = collapse(trained) if "feature_std" in trained else ""
    if evidence:
        message = f"the encoder had collapsed {where}: {evidence}; lower `lr`, or change what keeps it from collapse"
        return Reason(cause="collapsed", message=message)
    message = f"the loss was not a number {where}: lower `lr`, or raise `warmup`"
    return Reason(cause="diverged", message=message)


def _start(cell: Cell, folder: Path) -> _Run:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    objective = build_objective(cell)
    objective.module.to(device)
    values = constants(cell)
    run = _Run(
        cell=cell,
        folder=folder,
        constants=values,
        schedule=schedule_of(cell.steps, cell.batch, values),
        device=device,
        objective=objective,
        optimiser=build_optimiser(objective, values),
        images=pretraining_set(cell).to(device),
        held_out=held_out_set(cell).to(device),
    )
    state = load_checkpoint(folder / "checkpoint", cell.id, device)
    if state:
        objective.module.load_state_dict(state["module"])
        run.optimiser.load_state_dict(state["optimiser"])
        run.step, run.tail = state["step"], state["tail"]
    cut_after(run.metrics, run.step)
    return run


def _train(run: _Run, should_stop: Callable[[], bool], checkpoint_seconds: float) -> dict[str, float]:
    cell, first = run.cell, run.step
    began = saved = shown = time.monotonic()
    looks = held_out_steps(cell.steps)
    figures: dict[str, float] = {}
    while run.step < cell.steps:
        _one_step(run)
        now = time.monotonic()
        row_due = run.step % max(1, cell.steps // 100) == 0 or run.step in looks or now - shown > ROW_SECONDS
        if row_due:
            shown = now
            speed = (run.step - first) * cell.batch / (now - began)
            loss = run.recent / run.recent_steps
            figures = _held_out(run) if run.step in looks and math.isfinite(loss) else {}
            _row(run, loss, speed, figures)
            if not math.isfinite(loss) or (figures and collapse(figures)):
                return {"train_loss": math.nan, "images_per_second": speed, **figures}
        stop = should_stop()
        if run.step < cell.steps and (stop or now - saved > checkpoint_seconds):
            _save(run)
            saved = time.monotonic()
            if stop:
                message = f"stopped after step {run.step} of {cell.steps}"
                raise Stopped(message)
    if time.monotonic() - began > checkpoint_seconds:
        _save(run)
    speed = (run.step - first) * cell.batch / max(1e-9, time.monotonic() - began)
    return {
        "train_loss": run.tail / _tail_steps(cell.steps),
        "images_per_second": speed,
        **(figures or _held_out(run)),
    }


def _one_step(run: _Run) -> None:
    """Draw, loss, gradient step: a function of the state and the step's number alone."""
    cell, step = run.cell, run.step
    inputs = _inputs(run, step)
    torch.manual_seed(int(generator(cell.seed, "layers", step).integers(2**63)))  # for drop-path
    run.objective.before_step(run.schedule.progress(step))
    set_schedule(run.optimiser, run.schedule, step)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=cell.precision == "bf16"):
        loss = run.objective.module(*inputs)
    loss.backward()
    if run.constants["clip"]:
        for part in run.objective.module.children():
            torch.nn.utils.clip_grad_norm_(part.parameters(), float(run.constants["clip"]))
    run.optimiser.step()
    run.objective.after_step(run.schedule.progress(step))
    run.optimiser.zero_grad(set_to_none=True)
    value = float(loss.detach())
    run.step += 1
    run.recent, run.recent_steps = run.recent + value, run.recent_steps + 1
    if run.step > cell.steps - _tail_steps(cell.steps):
        run.tail += value


def _inputs(run: _Run, step: int) -> tuple[torch.Tensor, ...]:
    cell = run.cell
    rows = epoch_indices(step * cell.batch, cell.batch, len(run.images), cell.seed)
    return run.objective.draw(run.images.rows(rows), generator(cell.seed, "views", step))


def _measure(run: _Run) -> int:
    return measured_flops(run.objective.module, _inputs(run, 0))


def _tail_steps(steps: int) -> int:
    return max(1, round(TAIL * steps))


def held_out_steps(steps: int) -> set[int]:
    """Steps after which the held-out loss is taken: about eight, evenly in log, the last included."""
    return {round(step) for step in np.geomspace(max(1, steps / 128), steps, HELD_OUT_POINTS)}


@torch.no_grad()
def _held_out(run: _Run) -> dict[str, float]:
    """Loss on the held-out images with draws that every cell shares, and how far features spread."""
    module, total, chunks = run.objective.module, 0.0, max(1, len(run.held_out) // HELD_OUT_CHUNK)
    module.eval()
    for index in range(chunks):
        chunk = run.held_out.rows(slice(index * HELD_OUT_CHUNK, (index + 1) * HELD_OUT_CHUNK))
        inputs = run.objective.draw(chunk, generator(0, "held out", index))
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.cell.precision == "bf16"):
            total += float(module(*inputs))
    figures = feature_figures(run.objective.encoder, run.held_out, run.cell.patch)
    module.train()
    return {"heldout_loss": total / chunks, **figures}


def _row(run: _Run, loss: float, speed: float, figures: dict[str, float]) -> None:
    """Write a line of the curve: `loss` is the mean since the last one."""
    cell = run.cell
    run.recent, run.recent_steps = 0.0, 0
    row: dict[str, float] = {
        "step": run.step,
        "samples_seen": run.step * cell.batch,
        "loss": loss,
        "lr": run.schedule.rate(run.step - 1),
        "images_per_second": speed,
        "eta_seconds": (cell.steps - run.step) * cell.batch / speed,
        "time": time.time(),
        **figures,
    }
    append_row(run.metrics, {name: value for name, value in row.items() if math.isfinite(value)})


def _save(run: _Run) -> None:
    state = {
        "cell": run.cell.id,
        "step": run.step,
        "tail": run.tail,
        "module": run.objective.module.state_dict(),
        "optimiser": run.optimiser.state_dict(),
    }
    save_checkpoint(run.folder / "checkpoint", run.step, state)


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
