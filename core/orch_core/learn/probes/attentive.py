"""The protocol `attentive`: learned queries pool the patch tokens of a frozen encoder for a linear layer."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from orch_core.cell import Probe
from orch_core.images.npz import SPLITS
from orch_core.learn.probes.heads import Inputs, Rows, Trainer, Training, cosine_after_warmup, normal_
from orch_core.learn.probes.scoring import Scored, scored
from orch_core.learn.probes.subject import Subject, Tokens, device
from orch_core.learn.probes.task import Task
from orch_core.learn.randomness import generator
from orch_core.protocols.attentive import PROTOCOL


class QueryPooling(nn.Module):
    """Learned queries [m, w] attend to tokens [n, l, w]; query j pools the j-th of m parts of their values.

    arXiv 2506.10178, section 3: scores are q . x / sqrt(w), keys are the tokens themselves, values have one
    projection. Values are projected after pooling, which is the same and costs less.
    """

    def __init__(self, width: int, queries: int, deviation: float) -> None:
        super().__init__()
        values = deviation * generator(0, f"{PROTOCOL.id}|queries").standard_normal((queries, width))
        self.queries = nn.Parameter(torch.from_numpy(values.astype(np.float32)))
        deviation = 1 / math.sqrt(3 * width)  # of PyTorch's uniform initial values
        self.values = normal_(nn.Linear(width, width, bias=False), deviation, PROTOCOL.id)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pooled values [n, w]."""
        count, width = self.queries.shape
        attention = (self.queries @ tokens.transpose(1, 2) / math.sqrt(width)).softmax(2)
        pooled = attention @ tokens  # [n, m, w]
        parts = self.values.weight.view(count, width // count, width)
        return torch.einsum("nmw,mdw->nmd", pooled, parts).flatten(1)


def evaluate(subject: Subject, task: Task, probe: Probe) -> Scored:
    """Train on train, stop by the loss on val, score on test."""
    with subject.tokens(task) as tokens:
        width = tokens["train"].shape[2]
        trainer = _trainer(subject, task, probe, tokens)
        trainer.train()
        best = {"val_loss": trainer.best_loss, "epoch": trainer.best_epoch, "epochs": trainer.epoch}
        return scored(trainer.scores(), task, probe, features=width, **best)


def _trainer(subject: Subject, task: Task, probe: Probe, tokens: dict[str, Tokens]) -> Trainer:
    width, epochs = tokens["train"].shape[2], int(PROTOCOL.value("epochs"))
    queries = math.gcd(int(PROTOCOL.value("queries")), width)
    module = nn.Sequential(
        QueryPooling(width, queries, float(PROTOCOL.value("query_init"))),
        nn.BatchNorm1d(width, affine=False, eps=1e-6),
        normal_(nn.Linear(width, probe.classes), float(PROTOCOL.value("init")), f"{PROTOCOL.id}|classes"),
    ).to(device())
    rate, decay = float(PROTOCOL.value("rate")), float(PROTOCOL.value("decay"))
    return Trainer(
        module=module,
        optimiser=torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=decay),
        inputs={split: _inputs(tokens[split]) for split in SPLITS},
        labels=task.labels,
        probe=probe,
        training=Training(
            stream=PROTOCOL.id,
            epochs=epochs,
            batch=int(PROTOCOL.value("batch")),
            rate=cosine_after_warmup(epochs, float(PROTOCOL.value("warmup"))),
            patience=int(PROTOCOL.value("patience")),
        ),
        check_stop=subject.check_stop,
    )


def _inputs(tokens: Tokens) -> Inputs:
    def rows(chosen: Rows) -> Tensor:
        return torch.from_numpy(tokens[chosen]).to(device()).float()

    return rows
