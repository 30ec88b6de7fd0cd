"""Names of ViT shapes: the published size ladder, and timm's plain ViTs.

`LADDER` is big_vision's ladder (google-research/big_vision, models/vit.py, `decode_variant`; the shapes of
Dosovitskiy et al. 2021 and Zhai et al. 2022). `TIMM` lists the architectures of timm 1.0.31's
`vision_transformer` that are plain ViTs: class token, learned or fixed positions, MLP blocks, no registers,
other norms or poolings. tests/core/test_models.py builds each and compares.
"""

from __future__ import annotations

from orch_core.cell import Model

LADDER: dict[str, tuple[int, int, int, float]] = {
    "mu": (32, 1, 2, 4.0),
    "Ti": (192, 12, 3, 4.0),
    "S": (384, 12, 6, 4.0),
    "M": (512, 12, 8, 4.0),
    "B": (768, 12, 12, 4.0),
    "L": (1024, 24, 16, 4.0),
    "So400m": (1152, 27, 16, 4304 / 1152),
    "H": (1280, 32, 16, 4.0),
    "g": (1408, 40, 16, 6144 / 1408),
    "G": (1664, 48, 16, 8192 / 1664),
}

_PATCHES = {
    "vit_tiny": ("Ti", ("16_224", "16_384")),
    "vit_small": ("S", ("8_224", "16_224", "16_384", "32_224", "32_384")),
    "vit_base": ("B", ("8_224", "16_224", "16_384", "32_224", "32_384")),
    "vit_large": ("L", ("14_224", "16_224", "16_384", "32_224", "32_384")),
    "vit_huge": ("H", ("14_224",)),
    "vit_giant": ("g", ("14_224",)),
    "vit_gigantic": ("G", ("14_224",)),
}

TIMM: dict[str, tuple[int, int, int, float]] = {
    f"{family}_patch{patch}": LADDER[size]
    for family, (size, patches) in _PATCHES.items()
    for patch in patches
}


def known_models() -> list[str]:
    """Every name that `named_model` takes."""
    return [f"ViT-{size}" for size in LADDER] + list(TIMM)


def named_model(name: str) -> Model:
    """The shape behind `ViT-S` or a timm name; raises KeyError for an unknown one."""
    width, depth, heads, mlp_ratio = TIMM[name] if name in TIMM else LADDER[name.removeprefix("ViT-")]
    return Model(name=name, width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio)
