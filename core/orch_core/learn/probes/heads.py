"""Training of a head, or of an encoder with one, by AdamW; the epoch of the smallest val loss is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from orch_core.cell import Probe
from orch_core.errors import OrchError
from orch_core.learn.checkpoint import save_tensors, training_state
from orch_core.learn.probes.subject import Features, device
from orch_core.learn.randomness import generator

Rows = NDArray[np.int64]
Inputs = Callable[[Rows], Tensor]
"""Inputs of the module, [n, ...], of the images at some rows of a split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How long and how fast a module is trained.

    rate:     factor of the groups' learning rates, by the epochs that have passed (a fraction within an
    epoch)
    patience: epochs without a smaller validation loss after which it stops; 0 for never
    rows:     images at a time in a forward pass; 0 for the batch
    resume:   file of the state after each epoch; None to keep none
    """

    stream: str
    epochs: int
    batch: int
    rate: Callable[[float], float]
    patience: int = 0
    rows: int = 0
    resume: Path | None = None


def cosine_after_warmup(epochs: int, warmup: float) -> Callable[[float], float]:
    """From 0 to 1 over `warmup` epochs, then to 0 along half a cosine (Loshchilov and Hutter 2017)."""

    def rate(passed: float) -> float:
        if passed < warmup:
            return passed / warmup
        return (1 + math.cos(math.pi * (passed - warmup) / (epochs - warmup))) / 2

    return rate


def normal_(layer: nn.Linear, deviation: float, stream: str) -> nn.Linear:
    """The layer with normal weights and zero biases, the same in every process."""
    values = deviation * generator(0, f"{stream}|weights").standard_normal(tuple(layer.weight.shape))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(values.astype(np.float32)))
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def targets_of(labels: NDArray[np.int64], probe: Probe) -> Tensor:
    """Targets of the loss: classes [n], or labels [n, k] of a multi-label task."""
    if probe.kind == "multi-label":
        return torch.from_numpy(labels).float().to(device())
    return torch.from_numpy(labels[:, 0].copy()).to(device())


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over images (and labels) of the log loss."""
    if targets.ndim == 2:
        return functional.binary_cross_entropy_with_logits(logits.float(), targets)
    return functional.cross_entropy(logits.float(), targets)


def probabilities(logits: Tensor, probe: Probe) -> Features:
    """Scores [n, k] as metrics take them, from logits; [n, 1] of the positive class for a binary task."""
    independent = probe.kind == "multi-label"
    shares = logits.double().sigmoid() if independent else logits.double().softmax(1)
    values: Features = (shares[:, 1:] if probe.kind == "binary-class" else shares).cpu().numpy()
    return values


@dataclass(slots=True, kw_only=True)
class Trainer:
    """Trains a module on the split `train`, and keeps the weights of the epoch of the smallest loss on `val`.

    inputs: of each split; labels: of each split; groups of the optimiser keep the ratios of their rates
    epoch:  epochs done; best_epoch, best_loss: the epoch that is kept and its loss on val
    """

    module: nn.Module
    optimiser: torch.optim.AdamW
    inputs: Mapping[str, Inputs]
    labels: Mapping[str, NDArray[np.int64]]
    probe: Probe
    training: Training
    check_stop: Callable[[], None]
    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    weights: dict[str, Tensor] = field(default_factory=dict)

    def train(self) -> None:
        """Train to the end; raises what `check_stop` raises, and OrchError if no loss on val is finite."""
        targets = {split: targets_of(self.labels[split], self.probe) for split in ("train", "val")}
        rates = [group["lr"] for group in self.optimiser.param_groups]
        self._restore()
        while self.epoch < self.training.epochs and not self._is_spent():
            self._one_epoch(targets["train"], rates)
            loss = float(loss_of(self._logits("val"), targets["val"]))
            self.epoch += 1
            if loss < self.best_loss:
                self.best_loss, self.best_epoch = loss, self.epoch
                self.weights = {name: part.clone() for name, part in self.module.state_dict().items()}
            self._save()
        if not self.weights:
            message = f"{self.probe.task}: the loss on validation is not finite in any of {self.epoch} epochs"
            raise OrchError(message, hint="the encoder's features may not be finite: look at its curves")
        self.module.load_state_dict(self.weights)

    def scores(self) -> dict[str, Features]:
        """Probabilities of `val` and `test`."""
        return {split: probabilities(self._logits(split), self.probe) for split in ("val", "test")}

    def forget(self) -> None:
        """Remove the saved state."""
        if self.training.resume is not None:
            self.training.resume.unlink(missing_ok=True)

    def _is_spent(self) -> bool:
        patience = self.training.patience
        return bool(patience) and self.epoch - self.best_epoch >= patience

    @torch.no_grad()
    def _logits(self, split: str) -> Tensor:
        self.module.eval()
        count, parts = len(self.labels[split]), []
        for first in range(0, count, self.training.batch):
            self.check_stop()
            rows = np.arange(first, min(first + self.training.batch, count))
            parts.append(self.module(self.inputs[split](rows)))
        return torch.cat(parts)

    def _one_epoch(self, targets: Tensor, rates: Sequence[float]) -> None:
        """Whole batches in random order; the rest is left out, for a batch of one image has no variance."""
        self.module.train()
        order = generator(0, f"{self.training.stream}|order", self.epoch).permutation(len(targets))
        size = min(self.training.batch, len(order))
        steps = len(order) // size
        for step in range(steps):
            self.check_stop()
            factor = self.training.rate(self.epoch + (step + 1) / steps)
            for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            self._step(order[step * size : (step + 1) * size], targets)

    def _step(self, batch: Rows, targets: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        rows = self.training.rows or len(batch)
        for first in range(0, len(batch), rows):
            some = batch[first : first + rows]
            truth = targets[torch.from_numpy(some).to(targets.device)]
            loss = loss_of(self.module(self.inputs["train"](some)), truth)
            torch.autograd.backward(loss * (len(some) / len(batch)))
        self.optimiser.step()

    def _save(self) -> None:
        path = self.training.resume
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            numbers = torch.tensor([self.epoch, self.best_epoch, self.best_loss], dtype=torch.float64)
            best = {f"best.{name}": part for name, part in self.weights.items()}
            save_tensors(path, {**training_state(self.module, self.optimiser), **best, "numbers": numbers})

    def _restore(self) -> None:
        """Go on from the saved state; from the beginning if there is none that is whole and fits."""
        path = self.training.resume
        if path is None or not path.exists():
            return
        state = training_state(self.module, self.optimiser)
        try:
            saved = load_file(path)
        except SafetensorError:
            return
        if any(name not in saved or saved[name].shape != part.shape for name, part in state.items()):
            return
        with torch.no_grad():
            for name, part in state.items():
                part.copy_(saved[name])
        self.epoch, self.best_epoch = int(saved["numbers"][0]), int(saved["numbers"][1])
        self.best_loss = float(saved["numbers"][2])
        self.weights = {
            name.removeprefix("best."): part for name, part in saved.items() if name.startswith("best.")
        }
