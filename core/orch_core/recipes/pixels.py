"""The control without an encoder: raw pixels, their first principal components, logistic regression."""

from __future__ import annotations

from orch_core.recipes.base import Constant, Recipe

RECIPE = Recipe(
    name="pixels",
    version=1,
    summary="principal components of raw pixels (floor)",
    display="the raw-pixel control",
    colour="#767676",
    constants={
        "components": Constant(
            value=100, source="ours: the floor of MedMNIST-like 28 px tasks, PCA-100", low=1, high=10_000
        )
    },
    uses_model=False,
    uses_data=False,
)
