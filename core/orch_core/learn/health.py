"""Whether an encoder still tells images apart."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer

from orch_core.learn.augment import plain_view
from orch_core.learn.data import Batch
from orch_core.learn.encoders import encode, patchify

IMAGES = 128
LEAST_STD = 0.01
LEAST_RANK = 1.05
"""Below these an encoder is a constant: untrained ones lie at 0.2 and 2 and above."""


@torch.no_grad()
def feature_figures(
    encoder: VisionTransformer, held_out: Batch, patch: int, count: int = IMAGES
) -> dict[str, float]:
    """Spread of mean-pooled features of up to `count` held-out images.

    feature_std: root mean square over dimensions of the standard deviation of unit-length features, times
                 sqrt(width): 1 for isotropic features, 0 for a point (Chen and He 2021, SimSiam, section 4.1)
    rankme:      effective rank, exp of the entropy of the normalised singular values (Garrido et al. 2023, RankMe)
    """
    images = plain_view(held_out.images[:: max(1, len(held_out) // count)][:count])
    features = encode(encoder, patchify(images, patch))[:, 1:].mean(1).float()
    unit = features / features.norm(dim=1, keepdim=True).clamp(min=1e-12)
    spread = float((unit.var(0, unbiased=False).mean() * unit.shape[1]).sqrt())
    values = torch.linalg.svdvals(features.double())
    share = values / values.sum().clamp(min=1e-12) + 1e-7
    return {"feature_std": spread, "rankme": float((-(share * share.log()).sum()).exp())}


def collapse(figures: dict[str, float]) -> str:
    """What says that an encoder has collapsed, or nothing."""
    if figures["feature_std"] < LEAST_STD:
        return f"features of different images are one point (feature_std {figures['feature_std']:.2g})"
    if figures["rankme"] < LEAST_RANK:
        return f"features of different images lie on one line (rankme {figures['rankme']:.3g})"
    return ""
