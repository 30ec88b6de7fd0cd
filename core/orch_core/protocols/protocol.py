"""The type of a protocol: how a task is scored from an encoder's features of its images. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orch_core.recipes.base import Constant, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSize:
    """Size of a task, which sets the cost: images per split (`train` after the limit), classes."""

    train: int
    val: int
    test: int
    classes: int

    @property
    def images(self) -> int:
        """Images of all splits."""
        return self.train + self.val + self.test


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCost:
    """The work of one probe.

    solver_flops:   FLOPs of fitting and scoring, per unit of the encoder's width
    token_flops:    FLOPs of fitting and scoring, per unit of the encoder's width and patch token of an image
    encoder_images: images through the encoder, besides the one pass whose features all protocols of a task
    share
    """

    solver_flops: float = 0.0
    token_flops: float = 0.0
    encoder_images: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A probing protocol with its constants, named and versioned: `name@version`.

    display: its name in reports; cost: the work of one probe, from the size of its task.
    """

    name: str
    version: int
    summary: str
    display: str
    constants: Mapping[str, Constant]
    cost: Callable[[TaskSize], ProbeCost]

    @property
    def id(self) -> str:
        """`linear@1`."""
        return f"{self.name}@{self.version}"

    def value(self, name: str) -> Value:
        """A constant's value: protocols have no rules that depend on the cell."""
        value = self.constants[name].value
        assert not callable(value)
        return value
