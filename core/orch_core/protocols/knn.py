"""Weighted nearest neighbours on frozen features (Wu et al. 2018, arXiv 1805.01978, section 3.4)."""

from __future__ import annotations

from orch_core.protocols.protocol import ProbeCost, Protocol, TaskSize
from orch_core.recipes.base import Constant

FEATURES_PER_WIDTH = 2  # class token and mean patch token


def cost(size: TaskSize) -> ProbeCost:
    """The cosine of every scored image with every training image: 2 FLOPs per feature."""
    return ProbeCost(solver_flops=2 * FEATURES_PER_WIDTH * size.train * (size.val + size.test))


PROTOCOL = Protocol(
    name="knn",
    version=1,
    summary="vote of the nearest training images by cosine",
    display="nearest neighbours",
    cost=cost,
    constants={
        "neighbours": Constant(
            value=20,
            source="Caron et al. 2021 (DINO, arXiv 2104.14294), section 3.2: best in most of their runs",
        ),
        "temperature": Constant(value=0.07, source="Wu et al. 2018, section 3.4; eval_knn.py of DINO"),
    },
)
