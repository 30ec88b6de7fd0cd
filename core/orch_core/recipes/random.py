"""The untrained control: the encoder as MAE initialises it, never trained; the baseline of probes."""

from __future__ import annotations

from orch_core.recipes.base import Recipe

RECIPE = Recipe(
    name="random",
    version=1,
    summary="untrained encoder (floor)",
    display="the random control",
    colour="#767676",
    constants={},
    uses_data=False,
)
