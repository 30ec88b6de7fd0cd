"""Logistic regression on frozen features, its regularisation chosen on the validation split."""

from __future__ import annotations

import math

from orch_core.protocols.protocol import ProbeCost, Protocol, TaskSize
from orch_core.recipes.base import Constant

SOLVER_FLOPS = 1e4
"""FLOPs per training image, class and unit of width: .3 us of a core, as `orch calibrate` measured."""


def cost(size: TaskSize) -> ProbeCost:
    """Fitting the path of strengths on the training images."""
    return ProbeCost(solver_flops=SOLVER_FLOPS * size.train * size.classes)


PROTOCOL = Protocol(
    name="linear",
    version=1,
    summary="logistic regression, its strength chosen on validation",
    display="linear probe",
    cost=cost,
    constants={
        "strongest": Constant(
            value=10.0,
            source="ours: 1 / (n C) in scikit-learn's terms; `C_at_edge` is recorded if an end is chosen",
        ),
        "weakest": Constant(value=1e-5, source="ours, as `strongest`"),
        "per_decade": Constant(value=2, source="ours: half decades"),
        "tolerance": Constant(
            value=1e-5, source="ours: of the largest gradient entry, in scaled coordinates"
        ),
    },
)


def strengths() -> tuple[float, ...]:
    """Strengths of the path, the strongest first."""
    high, low = float(PROTOCOL.value("strongest")), float(PROTOCOL.value("weakest"))
    steps = int(PROTOCOL.value("per_decade"))
    start, count = math.log10(high) * steps, round(math.log10(high / low) * steps) + 1
    return tuple(10.0 ** ((start - index) / steps) for index in range(count))


def tolerance() -> float:
    """The solver's tolerance."""
    return float(PROTOCOL.value("tolerance"))
