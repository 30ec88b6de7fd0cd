"""Nearest centroid of few labelled images per class (SimpleShot: Wang et al. 2019, arXiv 1911.04623)."""

from __future__ import annotations

from orch_core.protocols.protocol import ProbeCost, Protocol, TaskSize
from orch_core.recipes.base import Constant

FEATURES_PER_WIDTH = 2  # class token and mean patch token
SHOTS = (1, 5, 10, 50, 100)
"""Labelled images per class: 1 and 5 as in SimpleShot's tables; 10, 50 and 100 are ours."""


def cost(size: TaskSize) -> ProbeCost:
    """Distances of val and test images to the centroids, in every draw of every number of shots."""
    distances = len(SHOTS) * int(PROTOCOL.value("draws")) * size.classes * (size.val + size.test)
    return ProbeCost(solver_flops=2 * FEATURES_PER_WIDTH * distances)


PROTOCOL = Protocol(
    name="fewshot",
    version=1,
    summary="nearest centroid of 1, 5, 10, 50 and 100 labelled images per class",
    display="few-shot probe",
    cost=cost,
    constants={
        "draws": Constant(
            value=100,
            source="ours: the mean over draws has a tenth of the spread of one (the paper: 10,000 tasks)",
        ),
        "reported_shots": Constant(
            value=10,
            source="ours: `auc` is that of 10 images per class, or of the most below that every class has",
        ),
    },
)
