"""Logistic regression for a path of regularisation strengths at once; convex, so it needs no seed.

For each strength lambda, the mean loss plus lambda/2 |w|^2 is minimised, the intercept unpenalised;
scikit-learn's C is 1 / (lambda n). All strengths share one matrix product per step. The basis is the
features' principal components, each scaled by its curvature (Boehning 1992: softmax's Hessian is at most 1/2
X^T X).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

TINY = 1e-300
HALVINGS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Solutions:
    """Weights [s, d, k] and intercepts [s, k], one per strength."""

    weights: Tensor
    intercepts: Tensor

    def scores(self, features: Tensor) -> NDArray[np.float64]:
        """Logits [s, n, k] of features [n, d]."""
        logits: NDArray[np.float64] = (features @ self.weights + self.intercepts[:, None]).numpy()
        return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Features in the basis of their principal components, for any strength.

    rotated:   [n, d] = features @ basis
    curvature: [d], variance along each component
    targets:   [n, k] of 0 and 1: one 1 per row if `softmax`, else independent labels
    """

    rotated: Tensor
    basis: Tensor
    curvature: Tensor
    targets: Tensor
    softmax: bool


def problem(features: Tensor, targets: Tensor, *, softmax: bool) -> Problem:
    """The problem of features [n, d] (float64, standardised) and targets [n, k]."""
    curvature, basis = torch.linalg.eigh(features.T @ features / len(features))
    return Problem(
        rotated=features @ basis,
        basis=basis,
        curvature=curvature.clamp(min=0),
        targets=targets,
        softmax=softmax,
    )


def fit_path(
    task: Problem, strengths: tuple[float, ...], start: Solutions | None = None, *, tolerance: float = 1e-5
) -> Solutions:
    """Minimise for every strength, starting from the last of `start`, or from the classes' frequencies.

    tolerance: on the largest entry of the gradient, in scaled coordinates.
    """
    d, k = len(task.curvature), task.targets.shape[1]
    lambdas = torch.tensor(strengths, dtype=task.rotated.dtype)
    scale = (task.curvature[None] * 0.25 + lambdas[:, None]).rsqrt()  # [s, d]
    z = torch.zeros(len(lambdas), d + 1, k, dtype=task.rotated.dtype)
    if start is None:
        prior = task.targets.mean(0).clamp(1e-6, 1 - 1e-6)
        z[:, d] = (prior.log() if task.softmax else torch.logit(prior)) / 2
    else:
        z[:, :d] = (task.basis.T @ start.weights[-1]) / scale[:, :, None]
        z[:, d] = start.intercepts[-1] / 2
    z = minimise(_Objective(task=task, strengths=lambdas, scale=scale), z, tolerance)
    return Solutions(weights=task.basis @ (z[:, :d] * scale[:, :, None]), intercepts=z[:, d] * 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Objective:
    task: Problem
    strengths: Tensor
    scale: Tensor

    def only(self, chosen: Tensor) -> _Objective:
        """The objective for the chosen strengths."""
        return replace(self, strengths=self.strengths[chosen], scale=self.scale[chosen])

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Objective [s] and gradient [s, d + 1, k] at scaled weights; the last row is half the intercept."""
        rotated, targets = self.task.rotated, self.task.targets[:, None]
        n, d = rotated.shape
        s, _, k = z.shape
        weights = z[:, :d] * self.scale[:, :, None]
        logits = (rotated @ weights.transpose(0, 1).reshape(d, s * k)).view(n, s, k) + 2 * z[:, d]
        if self.task.softmax:
            logs = functional.log_softmax(logits, 2)
            loss = -(logs * targets).sum((0, 2)) / n
            residual = logs.exp_() - targets
        else:
            loss = (functional.softplus(logits) - logits * targets).sum((0, 2)) / n
            residual = logits.sigmoid_() - targets
        gradient = (rotated.T @ residual.view(n, s * k)).view(d, s, k).transpose(0, 1) / n
        gradient = (gradient + self.strengths[:, None, None] * weights) * self.scale[:, :, None]
        intercept = residual.mean(0)[:, None] * 2
        value = loss + self.strengths / 2 * weights.square().sum((1, 2))
        return value, torch.cat([gradient, intercept], 1)


def minimise(
    objective: _Objective, z: Tensor, tolerance: float, *, iterations: int = 500, memory: int = 10
) -> Tensor:
    """L-BFGS (Nocedal and Wright 2006, algorithm 7.5), one problem per first index, all evaluated together.

    Each problem has its own step length (backtracking on Armijo's condition) and its own history, and is
    dropped once its gradient is below the tolerance.
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
    """Step, value and gradient after halving each problem's step until its value decreases enough."""
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
    """The approximate inverse Hessian times the gradient, per problem (algorithm 7.4)."""
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
