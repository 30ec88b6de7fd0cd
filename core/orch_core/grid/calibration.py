"""Measured training speeds of a machine in the user's folder, which plans prefer to assumed utilisation.

A run's seconds are modelled as fixed + steps x overhead + images x (each + FLOPs / rate + bytes / bandwidth):
small models wait for the interpreter, narrow ones for memory, wide ones for arithmetic (Williams et al. 2009,
the roofline model). Coefficients are fitted per recipe by `orch calibrate`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from orch_core.errors import OrchError
from orch_core.files import dumps, write_atomic
from orch_core.monitoring import HEALTH_IMAGES, HELD_OUT, READ_OUTS, ROWS
from orch_core.protocols.linear import SOLVER_FLOPS
from orch_core.recipes.pixels import COMPONENTS
from orch_core.user_settings import folder

SCHEMA_VERSION = 1
# half the number of components that the control without an encoder fits
PIXEL_WIDTH = COMPONENTS // 2

Number = TypeVar("Number", float, pl.Expr)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeLoad:
    """The work of one cell's probes.

    tasks:  number of probes; images: through the encoder; test: test images x classes, summed
    solver_flops:     FLOPs of fitting and scoring, per unit of the encoder's width
    token_flops:      the same, per unit of the encoder's width and patch token of an image
    projection_flops: FLOPs of the control without an encoder, which projects pixels instead
    projection_bytes: peak memory of this projection
    """

    tasks: int = 0
    images: int = 0
    test: int = 0
    solver_flops: float = 0.0
    token_flops: float = 0.0
    projection_flops: float = 0.0
    projection_bytes: float = 0.0

    def on_tokens(self) -> pl.Expr:
        """FLOPs of heads on patch tokens, over the columns of a plan."""
        tokens = (pl.col("resolution") // pl.col("patch")) ** 2
        return self.token_flops * pl.col("width").fill_null(PIXEL_WIDTH) * tokens


@dataclass(frozen=True, slots=True)
class Rate:
    """Seconds `fixed` per run, per `step`, `image` and `flop`, and per `byte` of an image's activations."""

    fixed: float = 0.0
    step: float = 0.0
    image: float = 0.0
    flop: float = 0.0
    byte: float = 0.0


@dataclass(frozen=True, slots=True)
class ProbeRate:
    """Seconds of probes: `fixed` per task, per `image`, per encoder's `flop`, per `test` image and class.

    `fit` is per training image, class and unit of the encoder's width, of the protocol `linear@1`.
    """

    fixed: float = 0.0
    image: float = 0.0
    flop: float = 0.0
    fit: float = 0.0
    test: float = 0.0


def work(
    *,
    samples: Number,
    held_out: float,
    watched: Number | float,
    flops_train_image: Number,
    flops_forward: Number,
    activation_bytes: Number,
) -> tuple[Number, Number, Number]:
    """Images, FLOPs and bytes of a run.

    A held-out evaluation is a forward pass of the objective and one of the encoder; a watched image is one of
    the encoder.
    """
    looks = held_out * (flops_train_image / 3 + flops_forward) + watched * flops_forward
    return (
        samples + held_out,
        samples * flops_train_image + looks,
        (samples + held_out / 3) * activation_bytes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Rates of training by recipe and of probing, their origin, and the fit's median relative `error`."""

    device: str
    precision: str
    machine: str
    measured: str
    training: Mapping[str, Rate]
    probe: ProbeRate
    error: float

    def training_seconds(self) -> pl.Expr:
        """Wall seconds of pretraining a cell, over the columns of a plan.

        A recipe that was not measured gets the rates of the slowest measured one.
        """
        columns = {name: pl.col(name) for name in ("flops_train_image", "flops_forward", "activation_bytes")}
        steps = pl.col("samples_paid") / pl.col("batch").clip(lower_bound=1)
        images, flops, moved = work(
            samples=pl.col("samples_paid"),
            held_out=READ_OUTS * HELD_OUT,
            watched=HEALTH_IMAGES * steps.clip(upper_bound=ROWS),
            **columns,
        )
        slowest = max(self.training.values(), key=lambda rate: rate.flop + rate.byte, default=Rate())
        run = pl.lit(0.0)
        for recipe, rate in [("", slowest), *self.training.items()]:
            seconds = rate.fixed + rate.step * steps + rate.image * images + rate.flop * flops
            seconds = seconds + rate.byte * moved
            run = pl.when(pl.col("recipe") == recipe).then(seconds).otherwise(run) if recipe else seconds
        return pl.when(pl.col("samples_seen") > 0).then(run).otherwise(0.0)

    def probing(self, load: ProbeLoad) -> pl.Expr:
        """Wall seconds of a cell's probes, over the columns of a plan."""
        rate, width = self.probe, pl.col("width").fill_null(PIXEL_WIDTH)
        encoder = rate.flop * (load.images * pl.col("flops_forward") + load.on_tokens())
        fixed = rate.fixed * load.tasks + rate.image * load.images + rate.test * load.test
        return fixed + encoder + rate.fit / SOLVER_FLOPS * load.solver_flops * width


def _path(device: str, precision: str) -> Path:
    return folder() / f"calibration-{device}-{precision}.json"


def load(device: str, precision: str) -> Calibration | None:
    """The calibration of a device, or None; raises OrchError for a damaged file."""
    path = _path(device, precision)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return _from_json(document) if document["schema_version"] == SCHEMA_VERSION else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"cannot read the calibration {path}: {error}"
        raise OrchError(message, hint="run `orch calibrate` again, or delete the file") from error


def save(calibration: Calibration) -> Path:
    """Save a calibration; raises OrchError if the user's folder cannot be written."""
    path = _path(calibration.device, calibration.precision)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, dumps({"schema_version": SCHEMA_VERSION, **asdict(calibration)}))
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}"
        raise OrchError(message, hint="set ORCH_HOME to a writable folder") from error
    return path


def _from_json(document: Mapping[str, Any]) -> Calibration:
    fields = {name: document[name] for name in ("device", "precision", "machine", "measured", "error")}
    training = {recipe: Rate(**rate) for recipe, rate in document["training"].items()}
    return Calibration(**fields, training=training, probe=ProbeRate(**document["probe"]))
