"""The protocol `biovfm-linear`: batch norm without parameters and a linear layer on the mean patch token.

The control without an encoder has its principal components instead.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from orch_core.cell import Probe
from orch_core.images.npz import SPLITS
from orch_core.learn.probes.heads import Inputs, Rows, Trainer, Training, normal_
from orch_core.learn.probes.scoring import Scored, scored
from orch_core.learn.probes.subject import Features, Subject, device
from orch_core.learn.probes.task import Task
from orch_core.protocols.biovfm_linear import PROTOCOL


def evaluate(subject: Subject, task: Task, probe: Probe) -> Scored:
    """Train on train, keep the epoch of the smallest loss on val, score on test."""
    features = {split: _mean_patch_token(subject, part) for split, part in subject.features(task).items()}
    width, epochs = features["train"].shape[1], int(PROTOCOL.value("epochs"))
    layer = normal_(nn.Linear(width, probe.classes), float(PROTOCOL.value("init")), PROTOCOL.id)
    module = nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), layer).to(device())
    rate, decay = float(PROTOCOL.value("rate")), float(PROTOCOL.value("decay"))
    trainer = Trainer(
        module=module,
        optimiser=torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=decay),
        inputs={split: _inputs(features[split]) for split in SPLITS},
        labels=task.labels,
        probe=probe,
        training=Training(
            stream=PROTOCOL.id,
            epochs=epochs,
            batch=int(PROTOCOL.value("batch")),
            rate=lambda passed: (1 + math.cos(math.pi * (math.ceil(passed) - 1) / epochs)) / 2,
        ),
        check_stop=subject.check_stop,
    )
    trainer.train()
    best = {"val_loss": trainer.best_loss, "epoch": trainer.best_epoch}
    return scored(trainer.scores(), task, probe, features=width, **best)


def _mean_patch_token(subject: Subject, features: Features) -> Features:
    return features if subject.encoder is None else features[:, features.shape[1] // 2 :]


def _inputs(features: Features) -> Inputs:
    on_device = torch.from_numpy(features.astype(np.float32)).to(device())

    def rows(chosen: Rows) -> torch.Tensor:
        return on_device[torch.from_numpy(chosen).to(on_device.device)]

    return rows
