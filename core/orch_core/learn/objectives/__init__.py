"""One file per algorithm, named like its recipe, with `build(cell, constants) -> Objective`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from orch_core.cell import Cell
from orch_core.learn.data import Batch
from orch_core.learn.randomness import Rows
from orch_core.recipes import constants, recipe_of

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A parameter's learning rate: `scale` times the schedule's, zero for the share `frozen` of the run."""

    scale: float = 1.0
    frozen: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is, in shares: `early` counts from its start, `late` reaches 1 at its end.

    They differ under a schedule with a cool-down (see `orch_core.learn.schedule.Schedule.progress`).
    """

    early: float
    late: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A pretraining objective.

    module:  `module(*inputs)` is the loss, a scalar function of its inputs and state only. A checkpoint
             contains its
             state dict: student, teacher, heads, centres.
    encoder: the part that is probed
    draw:    augmented, masked inputs of a batch; all randomness is here
    before_step, after_step: called around the gradient step with the run's progress (momentum, centres)
    rate:    learning rate of a parameter, by its name in `module`
    figures: further signs of healthy training, from images [n, c, h, w] without augmentation
    coupled: whether the loss of an image depends on others of its batch; if not, it is a mean over the rows
             of inputs
    """

    module: nn.Module
    encoder: VisionTransformer
    draw: Callable[[Batch, Rows], Inputs]
    before_step: Callable[[Progress], None] = lambda _progress: None
    after_step: Callable[[Progress], None] = lambda _progress: None
    rate: Callable[[str], Rate] = lambda _name: Rate()
    figures: Callable[[Tensor], dict[str, float]] = lambda _images: {}
    coupled: bool = False


def build_objective(cell: Cell) -> Objective:
    """The objective of the cell's recipe."""
    name = recipe_of(cell).name.replace("-", "_")
    objective: Objective = importlib.import_module(f"orch_core.learn.objectives.{name}").build(
        cell, constants(cell)
    )
    return objective
