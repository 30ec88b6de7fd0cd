"""Learning rate, decay and momentum over a run, and which parameters decay."""

from __future__ import annotations

import math

import torch

from orch_core.learn.objectives import Objective
from orch_core.recipes import Constants


def cosine(progress: float, start: float, end: float) -> float:
    """From `start` at progress 0 to `end` at 1 along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def linear_warmup(progress: float, share: float) -> float:
    """0 to 1 over the first share of the run, then 1."""
    return min(1.0, progress / share) if share > 0 else 1.0


def learning_rate_at(step: int, steps: int, constants: Constants) -> float:
    """Linear warm-up over a share of the run, then half a cosine to zero (Loshchilov and Hutter 2017)."""
    peak, warm = float(constants["lr"]), max(1, round(float(constants["warmup"]) * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return cosine((step - warm) / max(1, steps - warm), peak, 0.0)


def build_optimiser(objective: Objective, constants: Constants) -> torch.optim.AdamW:
    """AdamW in groups of equal rate and decay; biases, norms and scales (one-dimensional) do not decay."""
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


def set_schedule(optimiser: torch.optim.Optimizer, step: int, steps: int, constants: Constants) -> None:
    """Learning rate and decay of every group for a step."""
    rate, progress = learning_rate_at(step, steps, constants), step / steps
    start = float(constants["weight_decay"])
    decay = cosine(progress, start, float(constants.get("weight_decay_end", start)))
    for group in optimiser.param_groups:
        group["lr"] = 0.0 if progress < group["frozen"] else rate * group["scale"]
        group["weight_decay"] = decay if group["decays"] else 0.0
