"""The protocol `finetune`: the whole encoder trained on the task, with smaller rates in earlier layers.

Its state is kept after every epoch beside the probe's record, and a later attempt goes on from there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from orch_core.cell import Probe
from orch_core.images.npz import SPLITS, Images
from orch_core.learn.encoders import build_encoder, encode
from orch_core.learn.probes.heads import Inputs, Rows, Trainer, Training, cosine_after_warmup, normal_
from orch_core.learn.probes.scoring import Scored, scored
from orch_core.learn.probes.subject import Subject, device
from orch_core.learn.probes.task import Task
from orch_core.learn.randomness import generator
from orch_core.learn.result import NotDefined
from orch_core.learn.step import autocast
from orch_core.protocols.finetune import PROTOCOL

ROWS = 32
"""Images at a time: the gradient of a batch is added up, so that its memory does not depend on the batch."""


class Classifier(nn.Module):
    """An encoder and a linear layer on its mean patch token, in the cell's precision (fp32 for fp16)."""

    calls: Tensor

    def __init__(self, encoder: VisionTransformer, layer: nn.Linear, precision: str) -> None:
        super().__init__()
        self.encoder, self.layer, self.precision = encoder, layer, precision
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, patches: Tensor) -> Tensor:
        """Logits [n, k] of patches [n, l, pixels]; in training images leave out some residual branches."""
        drops = self._uniform(patches) if self.training else None
        with autocast(patches.device, "fp32" if self.precision == "fp16" else self.precision):
            tokens = encode(self.encoder, patches, uniform=drops)
            logits: Tensor = self.layer(tokens[:, 1:].mean(1))
        return logits

    def _uniform(self, patches: Tensor) -> Tensor:
        """What decides which branches are left out: a function of the number of calls, which is saved."""
        rng = generator(0, f"{PROTOCOL.id}|drop path", int(self.calls))
        self.calls += 1
        draws = rng.random((len(patches), 2 * len(self.encoder.blocks)), dtype=np.float32)
        return torch.from_numpy(draws).to(patches.device)


def evaluate(subject: Subject, task: Task, probe: Probe) -> Scored:
    """Train on train, keep the epoch of the smallest loss on val, score on test.

    Raises NotDefined without an encoder.
    """
    if subject.encoder is None:
        message = f"{PROTOCOL.id} is not defined for {subject.cell.recipe}: it has no encoder to train"
        raise NotDefined(message)
    module = _classifier(subject, probe)
    trainer = Trainer(
        module=module,
        optimiser=_optimiser(module),
        inputs={split: _inputs(subject, task.images[split]) for split in SPLITS},
        labels=task.labels,
        probe=probe,
        training=_training(subject.probe_folder(probe) / "finetune.safetensors"),
        check_stop=subject.check_stop,
    )
    trainer.train()
    best = {"val_loss": trainer.best_loss, "epoch": trainer.best_epoch}
    result = scored(trainer.scores(), task, probe, features=module.layer.in_features, **best)
    trainer.forget()
    return result


def _classifier(subject: Subject, probe: Probe) -> Classifier:
    cell = subject.cell
    encoder = build_encoder(cell, drop_path=float(PROTOCOL.value("drop_path")))
    encoder.load_state_dict(load_file(subject.weights))
    layer = nn.Linear(encoder.embed_dim, probe.classes)
    layer = normal_(layer, float(PROTOCOL.value("init")), PROTOCOL.id)
    return Classifier(encoder, layer, cell.precision).to(device())


def _training(resume: Path) -> Training:
    epochs = int(PROTOCOL.value("epochs"))
    return Training(
        stream=PROTOCOL.id,
        epochs=epochs,
        batch=int(PROTOCOL.value("batch")),
        rate=cosine_after_warmup(epochs, float(PROTOCOL.value("warmup"))),
        rows=ROWS,
        resume=resume,
    )


def _optimiser(module: Classifier) -> torch.optim.AdamW:
    """A group per parameter: rate x layer_decay^(layers above it), decay for matrices alone."""
    batch, depth = int(PROTOCOL.value("batch")), len(module.encoder.blocks)
    rate = float(PROTOCOL.value("rate")) * batch / 256
    groups = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            above = depth + 1 - layer_of(name, depth)
            is_matrix = parameter.ndim > 1 and not name.endswith(("token", "pos_embed"))
            groups.append(
                {
                    "params": [parameter],
                    "lr": rate * float(PROTOCOL.value("layer_decay")) ** above,
                    "weight_decay": float(PROTOCOL.value("decay")) if is_matrix else 0.0,
                }
            )
    return torch.optim.AdamW(groups)


def layer_of(name: str, depth: int) -> int:
    """Layer of a Classifier's parameter: 0 for the embedding, 1 .. depth for blocks, then depth + 1."""
    parts = name.split(".")
    if parts[:2] == ["encoder", "blocks"]:
        return int(parts[2]) + 1
    return depth + 1 if parts[0] == "layer" or parts[1] == "norm" else 0


def _inputs(subject: Subject, images: Images) -> Inputs:
    def rows(chosen: Rows) -> Tensor:
        return subject.patches(images[chosen])

    return rows
