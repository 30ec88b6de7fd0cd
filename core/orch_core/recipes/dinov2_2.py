"""`dinov2@1` with a number of prototypes that does not depend on the encoder's width.

In `dinov2@1` there are 64 prototypes per unit of width. The chance level of the loss is the logarithm of
their number, so the loss rises with the encoder's size for this reason alone. Here the number depends on the
images' resolution only.
"""

from __future__ import annotations

import math
from dataclasses import replace

from orch_core.cell import Cell
from orch_core.recipes import dinov2
from orch_core.recipes.base import OURS, Constant


def prototypes(cell: Cell) -> int:
    """The official 65536 from 224 pixels a side; below, in proportion to area, down to a power of 2."""
    share = min(1.0, (cell.resolution / 224) ** 2)
    return max(16, 1 << math.floor(math.log2(65536 * share)))


RECIPE = replace(
    dinov2.RECIPE,
    version=2,
    summary="self-distillation with masked patches, as many prototypes at every size",
    colour="#5ec9a8",
    loss_unit="cross-entropy over K prototypes plus KoLeo; chance is ln K, the same at every size",
    loss_comparable_across=frozenset({"size"}),
    constants={
        **dinov2.RECIPE.constants,
        "prototypes": Constant(
            value=prototypes,
            low=16,
            high=1 << 20,
            source=OURS
            + "65536 (default configuration) at 224 pixels, in proportion to the image's area below",
        ),
    },
)
