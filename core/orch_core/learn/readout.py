"""Evaluation of a model in training, without changing it: held-out loss, health, k-NN, a linear read-out."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

from orch_core.learn import sharding
from orch_core.learn.augment import plain_view
from orch_core.learn.data import Batch, chunks_of
from orch_core.learn.encoders import encode, patchify
from orch_core.learn.health import health
from orch_core.learn.objectives import Objective
from orch_core.learn.randomness import Rows, generator
from orch_core.learn.step import autocast

CHUNK = 128
"""Images of one held-out loss term; fixed, because a contrastive loss depends on how many it contrasts."""
NEIGHBOURS, TEMPERATURE = 20, 0.07
"""Of the weighted nearest-neighbour vote (Wu et al. 2018, section 3.4; DINO's evaluation)."""
RIDGE = 1e-3


@torch.no_grad()
def online_metrics(
    objective: Objective, held_out: Batch, gallery: Batch, patch: int, precision: str
) -> dict[str, float]:
    """Metrics of the model: `heldout_loss` on draws that all cells share, spread of features, accuracies.

    The read-outs are fitted on the gallery and tested on as many held-out images.
    """
    module, total, chunks = objective.module, 0.0, max(1, len(held_out) // CHUNK)
    queries = held_out.rows(slice(len(gallery)))
    module.eval()
    for index in range(chunks):
        chunk = held_out.rows(slice(index * CHUNK, (index + 1) * CHUNK))
        rng = Rows(generator(0, "held out", index), slice(0, len(chunk)), len(chunk))
        with autocast(held_out.images.device, precision):
            total += float(module(*objective.draw(chunk, rng)))
    sharding.unshard(module)
    known, asked = (features(objective.encoder, batch.images, patch) for batch in (gallery, queries))
    figures = health(objective, held_out, patch) | accuracies(known, asked, gallery.labels, queries.labels)
    sharding.reshard(module)
    module.train()
    return {"heldout_loss": total / chunks, **figures}


@torch.no_grad()
def spread(objective: Objective, held_out: Batch, patch: int, images: int) -> dict[str, float]:
    """How different the features of `images` held-out images are (see `health.health`)."""
    module = objective.module
    module.eval()
    sharding.unshard(module)
    figures = health(objective, held_out, patch, images)
    sharding.reshard(module)
    module.train()
    return figures


def features(encoder: VisionTransformer, images: Tensor, patch: int) -> Tensor:
    """Mean-pooled tokens [n, width] of uint8 images without augmentation, fp32."""
    return torch.cat(
        [
            encode(encoder, patchify(plain_view(part), patch))[:, 1:].mean(1).float()
            for part in chunks_of(images, CHUNK)
        ]
    )


def accuracies(gallery: Tensor, queries: Tensor, known: Tensor, wanted: Tensor) -> dict[str, float]:
    """Accuracies on queries [m, width] of read-outs of the gallery's features [n, width] and labels [n].

    A label below 0 is unknown. The result is empty if the gallery has fewer than two classes.

    knn_accuracy:    vote of the 20 nearest by cosine, weighted exp(cosine / 0.07) (Wu et al. 2018)
    linear_accuracy: ridge regression on one-hot labels, features standardised by the gallery, penalty 1e-3 n
    """
    gallery, known = gallery[known >= 0], known[known >= 0]
    queries, wanted = queries[wanted >= 0], wanted[wanted >= 0]
    if not len(wanted) or not len(known) or bool((known == known[0]).all()):
        return {}
    classes = int(torch.cat([known, wanted]).max()) + 1
    hot = functional.one_hot(known, classes).double()
    cosine = functional.normalize(queries.double(), dim=1) @ functional.normalize(gallery.double(), dim=1).T
    near, where = cosine.topk(min(NEIGHBOURS, len(gallery)), dim=1)
    votes = ((near / TEMPERATURE).exp()[:, :, None] * hot[where]).sum(1)
    mean, scale = gallery.double().mean(0), gallery.double().std(0).clamp(min=1e-6)
    x, y = (gallery - mean) / scale, hot - hot.mean(0)
    penalty = RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weights = torch.linalg.solve(x.T @ x + penalty, x.T @ y)
    linear = (queries - mean) / scale @ weights + hot.mean(0)
    return {
        "knn_accuracy": float((votes.argmax(1) == wanted).double().mean()),
        "linear_accuracy": float((linear.argmax(1) == wanted).double().mean()),
    }
