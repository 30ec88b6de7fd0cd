"""The type of recipes; every other module here contains one.

A module of this folder defines one recipe as `RECIPE`. Adding one adds its module here and, if it trains, a
module of the same name in `orch_core.learn.objectives`. A later version of a recipe shares the objective of
the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from orch_core.cell import Cell
from orch_core.vit import Activations, Flops, Shape

OURS = "ours, extrapolated: "  # opens the source of a constant that no paper gives at the sizes here
Value = bool | int | float | str
Constants = Mapping[str, Value]
LossAxis = Literal["size", "batch"]
NOTHING = Flops()


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A hyperparameter: a number, or a rule that computes it for a cell, with its source.

    low, high: bounds of an override, inclusive
    """

    value: Value | Callable[[Cell], Value]
    source: str
    low: float = -math.inf
    high: float = math.inf

    def of(self, cell: Cell) -> Value:
        """The constant's value for a cell."""
        return self.value(cell) if callable(self.value) else self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCost:
    """The cost of training on one image, without the encoder's parameters.

    params_head:   trained and dropped before probing (decoder, projector, predictor)
    params_frozen: copies that are not trained (momentum encoder and its head)
    flops:         all views, teacher included
    tokens:        tokens that pass through the trained encoder
    views:         activations of the trained encoder, view by view
    head_bytes:    activations of everything behind the encoder, the loss included, at their peak
    coupled:       the loss of an image depends on the others of its batch, so only the encoder is split into
                   micro-batches
    """

    params_head: int = 0
    params_frozen: int = 0
    flops: Flops = NOTHING
    tokens: int = 0
    views: tuple[Activations, ...] = ()
    head_bytes: int = 0
    coupled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """An algorithm with its hyperparameters, named and versioned: `name@version`.

    display: the algorithm's name in reports; colour: its colour in figures, as `#rrggbb`.
    loss_unit: what the pretraining loss measures; empty for a control, which has none.
    loss_comparable_across: axes along which the loss measures the same quantity, so that a law may be fitted
        along them: `size` (the encoder's shape) and `batch`. Data size and length of training always are;
        resolution, patch, mix and recipe constants change the quantity.
    uses_model: False for a control without encoder (raw pixels).
    uses_data: False for a control without training.
    learned_positions: position embedding trained with the encoder, else fixed sin-cos.
    layer_scale: residual branches have a scale (Touvron et al. 2021, CaiT), which starts at the constant
                 `layer_scale`.
    training_cost: cost of one training image, from the cell, its encoder's shape and its constants.
    """

    name: str
    version: int
    summary: str
    display: str
    colour: str
    constants: Mapping[str, Constant]
    loss_unit: str = ""
    loss_comparable_across: frozenset[LossAxis] = frozenset()
    uses_model: bool = True
    uses_data: bool = True
    learned_positions: bool = False
    layer_scale: bool = False
    training_cost: Callable[[Cell, Shape, Constants], TrainingCost] = lambda _cell, _shape, _constants: (
        TrainingCost()
    )

    @property
    def id(self) -> str:
        """`mae@1`."""
        return f"{self.name}@{self.version}"


SCHEDULE: Mapping[str, Constant] = {
    "cooldown": Constant(
        value=0.0,
        low=0,
        high=1,
        source="none: the papers' cosine over the whole run; a share of the run, 0.2 in Hägele et al. 2024 "
        "(2405.18392)",
    ),
    "warmup_samples": Constant(
        value=0,
        low=0,
        source="none: the papers' share `warmup`; samples of warm-up, whatever the run's length",
    ),
}
"""Constants of every recipe that trains; with both, runs that differ only in length share a trunk."""


def warmup_steps(steps: int, batch: int, constants: Constants) -> int:
    """Steps of warm-up of a run, at least one."""
    samples = int(constants["warmup_samples"])
    return max(1, round(samples / batch) if samples else round(float(constants["warmup"]) * steps))


def branch_step(steps: int, constants: Constants) -> int:
    """Steps before the cool-down; all steps without a cool-down."""
    return steps - round(float(constants["cooldown"]) * steps)


def width_of(cell: Cell) -> int:
    """The encoder's width, 0 without one."""
    return cell.model.width if cell.model else 0


def scaled_rate(cell: Cell, rate: float, *, batch: int, width: int) -> float:
    """A paper's learning rate at its batch and width, carried to the cell's.

    Square root of the batch (Malladi et al. 2022, for Adam), width to the power -0.75 below the paper's
    width: ours, between muP's -1 (Yang et al. 2022, hidden layers under Adam) and none, measured at width 64
    only.
    """
    narrow = min(1.0, width_of(cell) / width) or 1.0
    return rate * math.sqrt(cell.batch / batch) / math.pow(narrow, 0.75)
