"""Learning rate and decay over a run, and which parameters decay."""

from __future__ import annotations

import math

import torch
from torch import nn

from orch_core.recipes import Constants


def learning_rate_at(step: int, steps: int, constants: Constants) -> float:
    """Linear warm-up over a share of the run, then half a cosine to zero (Loshchilov and Hutter 2017)."""
    peak, warm = float(constants["lr"]), max(1, round(float(constants["warmup"]) * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def build_optimiser(module: nn.Module, constants: Constants) -> torch.optim.AdamW:
    """AdamW; biases and norms (one-dimensional) do not decay."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": float(constants["weight_decay"])},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = (float(constants["beta1"]), float(constants["beta2"]))
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)
