"""A cell: one pretraining run, and its probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orch_core.identity import digest

Override = tuple[str, bool | int | float | str]


def algorithm_of(recipe: str) -> str:
    """A recipe's label in names and tables: `mae` for `mae@1`. A later version keeps its number (`dinov2@2`).

    Two versions are two algorithms: no table may pool their runs.
    """
    return recipe.removesuffix("@1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Shape of a ViT (Dosovitskiy et al. 2021): `depth` blocks of `width` with `heads` heads.

    `name` is a label; the shape is the identity. `mlp_ratio` is the MLP's hidden width over `width`.
    """

    name: str
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSubset:
    """The images that a cell draws from one source: the first `images` by hash rank.

    `fingerprint` is the source's content hash; `path` (absolute) and `source` are its present place and name.
    """

    source: str
    modality: str
    images: int
    fingerprint: str
    path: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Everything that can change a pretraining run's numbers, and labels that cannot.

    model:        the encoder; None for a control without one (raw pixels)
    recipe:       algorithm and version, `mae@1`
    overrides:    recipe constants that the grid changes, sorted by name
    data:         portions of the pretraining sources, sorted by source; empty for untrained controls
    resolution:   pixels a side; `patch` pixels a side of a token; `channels` 1 or 3
    samples_seen: images shown in training, repeats included; a multiple of `batch`
    batch:        global batch, images per step
    precision:    fp32, bf16 or fp16
    seed:         of initialisation, order, augmentation and masks; `subset_seed` of the data's hash rank
    mix, images:  labels: the named modality mix and the requested data size
    label:        its unique name in its plan; "" in studies of orch before 0.2
    """

    model: Model | None
    recipe: str
    overrides: tuple[Override, ...] = ()
    data: tuple[SourceSubset, ...] = ()
    resolution: int
    patch: int
    channels: int
    samples_seen: int
    batch: int
    precision: str = "fp32"
    seed: int = 0
    subset_seed: int = 0
    mix: str = ""
    images: int = 0
    label: str = field(default="", compare=False)

    @property
    def id(self) -> str:
        """128-bit identity as 32 hexadecimal digits: equal for equal numbers, on any machine."""
        return digest(self.identity())

    @property
    def algorithm(self) -> str:
        """The recipe's label: see `algorithm_of`."""
        return algorithm_of(self.recipe)

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.samples_seen // self.batch if self.batch else 0

    @property
    def name(self) -> str:
        """A readable label, never parsed: `mae-w64-all-2000-s0`."""
        if self.label:
            return self.label
        shape = self.model.name if self.model else ""
        size = str(self.images) if self.images else ""
        parts = (self.algorithm, shape, self.mix, size, f"s{self.seed}")
        return "-".join(part for part in parts if part)

    def identity(self) -> dict[str, Any]:
        """The fields that can change a number, as canonical JSON values, without labels and places."""
        return {
            "model": identity_of_model(self.model),
            "recipe": self.recipe,
            "overrides": dict(self.overrides),
            "data": identity_of_data(self.data),
            "resolution": self.resolution,
            "patch": self.patch,
            "channels": self.channels,
            "samples_seen": self.samples_seen,
            "batch": self.batch,
            "precision": self.precision,
            "seed": self.seed,
            "subset_seed": self.subset_seed if self.data else 0,
        }

    def to_json(self) -> dict[str, Any]:
        """The cell as written to `cell.json`, its id included."""
        return {"id": self.id, **asdict(self)}


def identity_of_model(model: Model | None) -> list[float] | None:
    """The identity of an encoder: its shape, without its name; None for a control without an encoder."""
    return [model.width, model.depth, model.heads, model.mlp_ratio] if model else None


def identity_of_data(data: Sequence[SourceSubset]) -> list[list[str | int]]:
    """The identity of the images of a cell: fingerprints and counts, without names and places."""
    return [[subset.fingerprint, subset.images] for subset in data]


def cell_from_json(document: Mapping[str, Any]) -> Cell:
    """The cell that `to_json` wrote; raises KeyError or TypeError on another document."""
    fields = {key: value for key, value in document.items() if key != "id"}
    model = fields.pop("model")
    return Cell(
        **fields
        | {
            "model": Model(**model) if model else None,
            "overrides": tuple((name, value) for name, value in fields["overrides"]),
            "data": tuple(SourceSubset(**portion) for portion in fields["data"]),
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A probe of one task by a protocol (`orch_core.protocols`).

    task:        label; `path`: present place of the npz; neither enters the identity
    fingerprint: content hash of the task's npz
    kind:        multi-class, binary-class, multi-label or ordinal-regression (MedMNIST's terms)
    classes:     number of classes (labels for multi-label)
    train_limit: at most this many training images, stratified by class and hash rank; 0 for all
    protocol:    name and version of how it is scored, `linear@1`
    """

    task: str
    fingerprint: str
    kind: str
    classes: int
    train_limit: int = 0
    protocol: str = "linear@1"
    path: str = field(default="", compare=False)

    @property
    def id(self) -> str:
        """128-bit identity of the probe (without its cell)."""
        return digest(
            {
                "task": self.fingerprint,
                "kind": self.kind,
                "train_limit": self.train_limit,
                "protocol": self.protocol,
            }
        )

    @property
    def folder(self) -> str:
        """Name of the folder of its record in that of its cell."""
        return f"{self.task}-{self.id[:8]}"


def probe_from_json(document: Mapping[str, Any]) -> Probe:
    """The probe that `asdict` wrote; raises TypeError on another document."""
    return Probe(**document)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A row of a plan: a cell, its probes, and the expected cost.

    seconds: expected wall time of training and probes on its `devices`, below 1 if cells share one;
             memory_bytes: expected peak of training on each;
    size_class: of the grid's `cluster.classes`, or `default`
    micro_batch: images at a time that fit each device, 0 for all
    checkpointing: whether blocks are computed again in the backward pass to fit
    """

    cell: Cell
    probes: tuple[Probe, ...] = ()
    seconds: float = 0.0
    memory_bytes: float = 0.0
    size_class: str = "default"
    micro_batch: int = 0
    checkpointing: bool = False
    devices: float = 1.0

    @property
    def device_hours(self) -> float:
        """The device-hours that the job is expected to spend."""
        return self.seconds * self.devices / 3600

    def to_json(self) -> dict[str, Any]:
        """The job as a line of a launch manifest."""
        return {
            "cell": self.cell.to_json(),
            "probes": [asdict(probe) for probe in self.probes],
            "seconds": self.seconds,
            "memory_bytes": self.memory_bytes,
            "size_class": self.size_class,
            "micro_batch": self.micro_batch,
            "checkpointing": self.checkpointing,
            "devices": self.devices,
        }


def job_from_json(document: Mapping[str, Any]) -> Job:
    """The job that `to_json` wrote; raises KeyError or TypeError on another document."""
    return Job(
        cell=cell_from_json(document["cell"]),
        probes=tuple(probe_from_json(probe) for probe in document["probes"]),
        seconds=document["seconds"],
        memory_bytes=document["memory_bytes"],
        size_class=document["size_class"],
        micro_batch=document.get("micro_batch", 0),
        checkpointing=document.get("checkpointing", False),
        devices=document.get("devices", 1.0),
    )
