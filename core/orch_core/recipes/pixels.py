"""The control without an encoder: raw pixels, their first principal components, and a probe of these.

Up to EXACT images or pixels the components are exact, from the eigenvectors of the smaller matrix of inner
products. Beyond, they come from a randomised subspace iteration (Halko, Martinsson, Tropp 2011, arXiv
0909.4061).
"""

from __future__ import annotations

from orch_core.recipes.base import Constant, Recipe

COMPONENTS = 100
EXACT = 2560
"""Images or pixels up to which components are exact: the pixels of 28 x 28 in colour are 2,352."""
BATCH_BYTES = 2**25
"""Bytes of the images that are floating-point numbers at a time."""
OVERSAMPLED, ITERATIONS = 28, 6
"""Directions beyond the components, and passes over the images, of the subspace iteration."""


def projection_flops(train: int, images: int, pixels: int, components: int) -> float:
    """FLOPs to find components in `train` images of `pixels` values, and to project `images` onto them."""
    small = min(train, pixels)
    if small <= EXACT:
        finding = 2 * train * pixels * small + 9 * small**3
    else:
        finding = 4 * (ITERATIONS + 1) * train * pixels * (components + OVERSAMPLED)
    return float(finding + 2 * (train + images) * pixels * components)


def projection_bytes(train: int, images: int, pixels: int, components: int) -> float:
    """Peak bytes of that: the images as they are stored, the matrices, three batches, and the scores."""
    small = min(train, pixels)
    matrices = 3 * small**2 if small <= EXACT else 3 * pixels * (components + OVERSAMPLED)
    scores = (images + pixels) * components
    return float(images * pixels + 8 * (matrices + scores) + 3 * BATCH_BYTES)


RECIPE = Recipe(
    name="pixels",
    version=1,
    summary="principal components of raw pixels (floor)",
    display="the raw-pixel control",
    colour="#767676",
    constants={
        "components": Constant(
            value=COMPONENTS,
            source="ours: the floor of MedMNIST-like 28 px tasks, PCA-100",
            low=1,
            high=10_000,
        )
    },
    uses_model=False,
    uses_data=False,
)
