"""Logistic regression over a whole path of regularisations at once, convex and without a seed.

For each strength the mean loss plus lambda/2 |w|^2 is minimised (intercept free); scikit-learn's C is 1 / (lambda n).
All strengths share one matrix product per step, in the basis of the features' principal components, each
coordinate scaled by the curvature that it has (after Boehning 1992: softmax's Hessian is at most 1/2 X^T X).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

STRENGTHS = tuple(10.0 ** (k / 2) for k in range(-10, 3))
"""lambda from 1e-5 to 10 in half decades."""
TINY = 1e-300
HALVINGS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """scores(features)[s] are the scores under strength s: weights [s, d, k], intercepts [s, k]."""

    weights: Tensor
    intercepts: Tensor

    def scores(self, features: Tensor) -> NDArray[np.float64]:
        """Probabilities [s, n, k] are the caller's to take; these are logits."""
        logits: NDArray[np.float64] = (
            torch.matmul(features, self.weights) + self.intercepts[:, None]
        ).numpy()
        return logits


def fit_path(features: Tensor, targets: Tensor, *, softmax: bool, tolerance: float = 1e-5) -> Path:
    """Minimise for every strength.

    features: [n, d] float64, standardised; targets: [n, k] of 0 and 1, one 1 a row where `softmax`, else independent labels.
    tolerance: of the largest gradient entry in scaled coordinates.
    """
    n, d = features.shape
    strengths = torch.tensor(STRENGTHS, dtype=features.dtype)
    values, basis = torch.linalg.eigh(features.T @ features / n)
    scale = (values.clamp(min=0)[None] * 0.25 + strengths[:, None]).rsqrt()  # [s, d]
    rotated = features @ basis
    prior = targets.mean(0).clamp(1e-6, 1 - 1e-6)
    start = prior.log() if softmax else torch.logit(prior)
    z = torch.zeros(len(strengths), d + 1, targets.shape[1], dtype=features.dtype)
    z[:, d] = start * 0.5
    solver = _Objective(rotated=rotated, targets=targets, strengths=strengths, scale=scale, softmax=softmax)
    z = minimise(solver, z, tolerance)
    return Path(weights=basis @ (z[:, :d] * scale[:, :, None]), intercepts=z[:, d] * 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Objective:
    rotated: Tensor
    targets: Tensor
    strengths: Tensor
    scale: Tensor
    softmax: bool

    def only(self, chosen: Tensor) -> _Objective:
        """The objective of the chosen problems."""
        return replace(self, strengths=self.strengths[chosen], scale=self.scale[chosen])

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Objective [s] and gradient [s, d + 1, k] at scaled weights; the last row is half the intercept."""
        n, d = self.rotated.shape
        s, _, k = z.shape
        weights = z[:, :d] * self.scale[:, :, None]
        logits = (self.rotated @ weights.transpose(0, 1).reshape(d, s * k)).view(n, s, k) + 2 * z[:, d]
        if self.softmax:
            logs = functional.log_softmax(logits, 2)
            loss = -(logs * self.targets[:, None]).sum((0, 2)) / n
            residual = logs.exp_() - self.targets[:, None]
        else:
            loss = (functional.softplus(logits) - logits * self.targets[:, None]).sum((0, 2)) / n
            residual = logits.sigmoid_() - self.targets[:, None]
        gradient = (self.rotated.T @ residual.view(n, s * k)).view(d, s, k).transpose(0, 1) / n
        gradient = (gradient + self.strengths[:, None, None] * weights) * self.scale[:, :, None]
        intercept = residual.mean(0)[:, None] * 2
        value = loss + self.strengths / 2 * weights.square().sum((1, 2))
        return value, torch.cat([gradient, intercept], 1)


def minimise(
    objective: _Objective, z: Tensor, tolerance: float, *, iterations: int = 500, memory: int = 10
) -> Tensor:
    """L-BFGS (Nocedal and Wright 2006, algorithm 7.5), one problem per first index, all evaluated together.

    Each problem has its own step length (backtracking on Armijo's condition) and history, and leaves once
    its gradient is below the tolerance.
    """
    solution, left = z.clone(), torch.arange(len(z))
    value, gradient = objective(z)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(iterations):
        active = gradient.abs().amax((1, 2)) > tolerance
        if not active.all():
            solution[left] = z
            left, z, value, gradient = left[active], z[active], value[active], gradient[active]
            steps = [(moved[active], turned[active], inverse[active]) for moved, turned, inverse in steps]
            objective = objective.only(active)
        if not active.any():
            break
        direction = -_two_loops(gradient, steps)
        moved, value, turned_gradient = _line_search(objective, z, value, gradient, direction)
        turned = turned_gradient - gradient
        curvature = (moved * turned).sum((1, 2))
        inverse = torch.where(curvature > TINY, 1 / curvature.clamp(min=TINY), torch.zeros_like(curvature))
        steps = [*steps, (moved, turned, inverse)][-memory:]
        z, gradient = z + moved, turned_gradient
    solution[left] = z
    return solution


def _line_search(
    objective: _Objective, z: Tensor, value: Tensor, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Step, value and gradient after halving each problem's step until its value falls enough."""
    slope = (direction * gradient).sum((1, 2))
    length = torch.ones_like(slope)
    for _ in range(HALVINGS):
        moved = length[:, None, None] * direction
        reached, turned = objective(z + moved)
        poor = reached > value + 1e-4 * length * slope + 1e-14 * value.abs()
        if not poor.any():
            break
        length = torch.where(poor, length / 2, length)
    return moved, reached, turned


def _two_loops(gradient: Tensor, steps: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The inverse Hessian's approximation times the gradient (algorithm 7.4), per problem."""
    q, weights = gradient.clone(), []
    for moved, turned, inverse in reversed(steps):
        weight = inverse * (moved * q).sum((1, 2))
        q -= weight[:, None, None] * turned
        weights.append(weight)
    if steps:
        moved, turned, inverse = steps[-1]
        size = (turned * turned).sum((1, 2)) * inverse
        q *= torch.where(size > 0, 1 / size.clamp(min=TINY), torch.ones_like(size))[:, None, None]
    for (moved, turned, inverse), weight in zip(steps, reversed(weights), strict=True):
        back = inverse * (turned * q).sum((1, 2))
        q += (weight - back)[:, None, None] * moved
    return q
