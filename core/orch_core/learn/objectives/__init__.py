"""One file per algorithm, each with `build(cell, constants) -> Objective`, named like its recipe."""

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
    """A parameter's learning rate: `scale` of the schedule's, none for the first share `frozen` of the run."""

    scale: float = 1.0
    frozen: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is: `early` counts shares of it from its start, `late` goes to 1 at its end.

    They differ under a schedule with a cool-down (see `orch_core.learn.schedule.Schedule.progress`).
    """

    early: float
    late: float


def _nothing(_progress: Progress) -> None:
    return None


def _none(_images: Tensor) -> dict[str, float]:
    return {}


def _same(_name: str) -> Rate:
    return Rate()


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A pretraining objective.

    module:  `module(*inputs)` is the loss, a scalar; a function of its inputs and state alone. Its state dict is what
             a checkpoint holds: student, teacher, heads, centres.
    encoder: the part that is probed
    draw:    augmented, masked inputs of a batch; all randomness is here
    before_step, after_step: what happens around the gradient step, by the run's progress (momentum, centres)
    rate:    learning rate of a parameter, by its name in `module`
    figures: what else tells whether training is healthy, of plain images [n, c, h, w]
    coupled: the loss of an image depends on the others of its batch; else it is a mean over images, of inputs whose
             rows are images
    """

    module: nn.Module
    encoder: VisionTransformer
    draw: Callable[[Batch, Rows], Inputs]
    before_step: Callable[[Progress], None] = _nothing
    after_step: Callable[[Progress], None] = _nothing
    rate: Callable[[str], Rate] = _same
    figures: Callable[[Tensor], dict[str, float]] = _none
    coupled: bool = False


def build_objective(cell: Cell) -> Objective:
    """The objective of the cell's recipe."""
    name = recipe_of(cell).name.replace("-", "_")
    objective: Objective = importlib.import_module(f"orch_core.learn.objectives.{name}").build(
        cell, constants(cell)
    )
    return objective
