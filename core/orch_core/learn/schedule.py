"""Learning rate, weight decay and momentum over a run, and the parameters that decay."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from orch_core.learn.objectives import Objective, Progress
from orch_core.recipes.base import Constants, branch_step, warmup_steps


def cosine(progress: float, start: float, end: float) -> float:
    """From `start` at progress 0 to `end` at 1 along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def linear_warmup(progress: float, share: float) -> float:
    """Rises from 0 to 1 over the first `share` of the run, then stays at 1."""
    return min(1.0, progress / share) if share > 0 else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A run's learning rate by step: `warm` steps of warm-up; from step `branch` it falls to zero.

    Without a cool-down it falls along half a cosine from the end of the warm-up (Loshchilov and Hutter 2017).
    With one it is constant in between and falls as 1 - sqrt (Hägele et al. 2024, arXiv 2405.18392, section
    3), so runs of all lengths agree up to `branch`.
    """

    steps: int
    warm: int
    branch: int
    constants: Constants

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        peak = float(self.constants["lr"])
        if step < self.warm:
            return peak * (step + 1) / self.warm
        if not self.constants["cooldown"]:
            return cosine((step - self.warm) / max(1, self.steps - self.warm), peak, 0.0)
        return peak * (1 - math.sqrt(self._fallen(step)))

    def progress(self, step: int) -> Progress:
        """How far the run is before a step.

        If the warm-up is absolute, `early` is a fraction of a nominal run with that warm-up, so it does not
        depend on the run's length. With a cool-down, `late` runs from 0 to 1 during it.
        """
        whole = step / self.steps
        share = max(0.01, float(self.constants["warmup"]))
        nominal = self.warm / share if self.constants["warmup_samples"] else self.steps
        late = self._fallen(step) if self.constants["cooldown"] else whole
        return Progress(early=step / nominal, late=late)

    def _fallen(self, step: int) -> float:
        return max(0, step - self.branch) / max(1, self.steps - self.branch)


def schedule_of(steps: int, batch: int, constants: Constants) -> Schedule:
    """The schedule of a run of `steps` steps of `batch` samples."""
    return Schedule(
        steps=steps,
        warm=warmup_steps(steps, batch, constants),
        branch=branch_step(steps, constants),
        constants=constants,
    )


def build_optimiser(objective: Objective, constants: Constants) -> torch.optim.AdamW:
    """AdamW in groups of equal rate and decay; one-dimensional parameters do not decay."""
    groups: dict[tuple[bool, float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in objective.module.named_parameters():
        if parameter.requires_grad:
            rate = objective.rate(name)
            groups.setdefault((parameter.ndim > 1, rate.scale, rate.frozen), []).append(parameter)
    betas = (float(constants["beta1"]), float(constants["beta2"]))
    return torch.optim.AdamW(
        [
            {"params": members, "decays": decays, "scale": scale, "frozen": frozen}
            for (decays, scale, frozen), members in groups.items()
        ],
        lr=0.0,
        betas=betas,
        fused=True,
    )


def set_schedule(optimiser: torch.optim.Optimizer, schedule: Schedule, step: int) -> None:
    """Set the learning rate and weight decay of every group for a step."""
    rate, progress = schedule.rate(step), schedule.progress(step)
    start = float(schedule.constants["weight_decay"])
    decay = cosine(progress.late, start, float(schedule.constants.get("weight_decay_end", start)))
    for group in optimiser.param_groups:
        group["lr"] = 0.0 if progress.early < group["frozen"] else rate * group["scale"]
        group["weight_decay"] = decay if group["decays"] else 0.0
