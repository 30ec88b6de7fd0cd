"""What the cells of a plan take on a device: hours, micro-batches that fit its memory, resource classes, money."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from orch.planning.calibration import PIXEL_WIDTH, Calibration, ProbeLoad
from orch.planning.enumerate import holds
from orch_core.device import DEVICES, Device, hours
from orch_core.errors import OrchError
from orch_core.grid import Cluster, SizeClass
from orch_core.load import did_you_mean

USABLE = (
    0.9  # of a device's memory: the rest goes to its context, the allocator's slack and the data in flight
)
# FLOPs of fitting a probe, for a training image, class and unit of width: .3 us of a core, measured (`orch calibrate`)
SOLVER_FLOPS = 1e4
FILES_PER_CELL = 10  # config, record, curves, encoder, four of an attempt, two checkpoints of a long run
FILES_PER_PROBE = 2  # record, and the bootstrap's AUCs
FLOPS_PAID = pl.col("samples_paid") * pl.col(
    "flops_train_image"
)  # what a cell has to train, its share of a trunk alone


def device_named(name: str | None) -> Device:
    """A device by its name, CPU without one; raises OrchError for an unknown one."""
    if (name or "CPU") not in DEVICES:
        message = f"unknown device {name!r}{did_you_mean(str(name), DEVICES)}"
        raise OrchError(message, hint="set cluster.device to one of them")
    return DEVICES[name or "CPU"]


def with_hours(
    frame: pl.DataFrame, *, load: ProbeLoad, device: Device, precision: str, measured: Calibration | None
) -> pl.DataFrame:
    """Add device-hours of training and probing, `hours_low`, `hours_mid`, `hours_high`, and `hours_probes` of probing.

    With a calibration hours are measured seconds, with 25% either way; else FLOPs at an assumed share of the device's
    peak, those of fitting the probes included. A worker holds `devices` of them and trains on one, so that all count.
    """
    names = ("hours_low", "hours_mid", "hours_high")
    if measured is not None:
        probing, training = measured.probing(load) / 3600, measured.training_seconds() / 3600
        mid, spread = training + probing, (0.8, 1.0, 1.25)
    else:
        rates = hours(1.0, device, precision)
        solver = SOLVER_FLOPS * load.fit * pl.col("width").fill_null(PIXEL_WIDTH)
        probing = (load.images * pl.col("flops_forward") + solver) * rates[1]
        mid = FLOPS_PAID * rates[1] + probing
        spread = (rates[0] / rates[1], 1.0, rates[2] / rates[1])
    held = pl.col("devices")
    columns = {name: held * mid * by for name, by in zip(names, spread, strict=True)}
    return frame.with_columns(**columns, hours_probes=held * probing)


def hours_left(probes: int, column: str = "hours_mid") -> pl.Expr:
    """Device-hours still to come of a row: all for a new cell, those of its missing probes for a trained one."""
    ratio = pl.when(pl.col("hours_mid") > 0).then(pl.col(column) / pl.col("hours_mid")).otherwise(0.0)
    probing = ratio * pl.col("hours_probes") * pl.col("probes_left") / max(probes, 1)
    return pl.when(pl.col("state") == "new").then(pl.col(column)).otherwise(probing).alias(column)


def with_micro_batches(frame: pl.DataFrame, device: Device) -> pl.DataFrame:
    """Add `micro_batch`: the largest halving of the batch whose memory fits the device; 0 where one image does not.

    Steps then accumulate batch / micro_batch gradients. Controls, which train nothing, have 0 too.
    """
    fixed = pl.col("memory_bytes") - pl.col("batch") * pl.col("memory_image")
    room = (USABLE * device.memory_bytes - fixed) / pl.col("memory_image")
    halvings = (pl.col("batch") / room).log(2).ceil().clip(lower_bound=0)
    micro = pl.when(room >= 1).then(pl.col("batch") // pl.lit(2.0).pow(halvings)).otherwise(0.0)
    trained = pl.col("memory_image") > 0
    return frame.with_columns(micro_batch=pl.when(trained).then(micro).otherwise(0.0).cast(pl.Int32))


def with_classes(frame: pl.DataFrame, cluster: Cluster) -> pl.DataFrame:
    """Add `size_class`, the first of `cluster.classes` whose rule holds, else `default`, and the `devices` a worker holds."""
    found, devices = pl.lit("default"), pl.lit(_devices(cluster, None), pl.Int32)
    for entry in reversed(cluster.classes):
        inside = holds(entry.when)
        found = pl.when(inside).then(pl.lit(entry.name)).otherwise(found)
        devices = pl.when(inside).then(pl.lit(_devices(cluster, entry), pl.Int32)).otherwise(devices)
    return frame.with_columns(size_class=found.cast(pl.Categorical), devices=devices)


def _devices(cluster: Cluster, entry: SizeClass | None) -> int:
    """GPUs of a worker: those of a node times its nodes; one where a grid asks for none."""
    own = entry.gpus_per_node if entry and entry.gpus_per_node is not None else cluster.gpus_per_node
    nodes = entry.nodes if entry and entry.nodes is not None else cluster.nodes
    return max(1, own or 1) * nodes


def resources(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Slurm's options of every size class: those of the cluster, changed by those of the class."""
    shared = cluster.model_dump(exclude={"classes"})
    found = {"default": shared}
    for entry in cluster.classes:
        own = {name: value for name, value in entry.model_dump().items() if value is not None}
        options = {**shared["sbatch"], **own.pop("sbatch")}
        found[entry.name] = {
            **shared,
            **{k: v for k, v in own.items() if k not in {"name", "when"}},
            "sbatch": options,
        }
    return found


def money(hours_of_devices: float, price: float | None) -> float | None:
    """Money for device-hours; None without a price."""
    return None if price is None else hours_of_devices * price


def logistics(frame: pl.DataFrame) -> Mapping[str, int]:
    """Sbatch calls (one array per size class) and files that what is left will make."""
    open_, new = pl.col("state") != "done", pl.col("state") == "new"
    calls, cells, probes = frame.select(
        pl.col("size_class").filter(open_).n_unique(), new.sum().alias("new"), pl.col("probes_left").sum()
    ).row(0)
    return {"sbatch_calls": calls, "files": FILES_PER_CELL * cells + FILES_PER_PROBE * probes}
