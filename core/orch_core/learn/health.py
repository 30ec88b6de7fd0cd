"""Whether an encoder has collapsed, measured from its features of held-out images."""

from __future__ import annotations

import math

import torch

from orch_core.learn.augment import plain_view
from orch_core.learn.data import Batch
from orch_core.learn.encoders import encode, patchify
from orch_core.learn.objectives import Objective

IMAGES = 128
LEAST_STD = 0.01
LEAST_RANK = 1.05
"""Below these values an encoder is constant: untrained encoders have at least 0.2 and 2."""

UNIFORM, ONE = 0.999, 0.02
"""Beyond these values a teacher's prototypes do not distinguish images: an untrained one has 0.8 and 0.8."""


@torch.no_grad()
def health(objective: Objective, held_out: Batch, patch: int, count: int = IMAGES) -> dict[str, float]:
    """How different the mean-pooled features of `count` held-out images are.

    feature_std: root mean square over dimensions of the standard deviation of unit-length features, times
                 sqrt(width): 1 for isotropic features, 0 for a point (Chen and He 2021, SimSiam, section 4.1)
    rankme:      effective rank, exp of the entropy of the normalised singular values (Garrido et al. 2023,
                 RankMe)

    Includes the objective's figures. Features that are not finite give NaN.
    """
    images = plain_view(held_out.images[:: max(1, len(held_out) // count)][:count])
    features = encode(objective.encoder, patchify(images, patch))[:, 1:].mean(1).float()
    if not features.isfinite().all():
        return {"feature_std": math.nan, "rankme": math.nan}
    unit = features / features.norm(dim=1, keepdim=True).clamp(min=1e-12)
    spread = float((unit.var(0, unbiased=False).mean() * unit.shape[1]).sqrt())
    values = torch.linalg.svdvals(features.double())
    share = values / values.sum().clamp(min=1e-12) + 1e-7
    rank = float((-(share * share.log()).sum()).exp())
    return {"feature_std": spread, "rankme": rank, **objective.figures(images)}


def collapse(figures: dict[str, float], *, warm: bool = True) -> str:
    """Evidence that an encoder has collapsed, or an empty string.

    Before the learning rate is `warm`, a teacher may find all prototypes equally likely: healthy runs start
    like that.
    """
    if figures["feature_std"] < LEAST_STD:
        return f"features of different images are one point (feature_std {figures['feature_std']:.2g})"
    if figures["rankme"] < LEAST_RANK:
        return f"features of different images lie on one line (rankme {figures['rankme']:.3g})"
    if warm and figures.get("teacher_entropy", 0.0) > UNIFORM:
        return "the teacher finds every prototype equally likely: the loss is pinned at ln K"
    if warm and figures.get("teacher_usage", 1.0) < ONE:
        return f"all images are assigned to one prototype (teacher_usage {figures['teacher_usage']:.2g})"
    return ""
