"""The cost of a plan's cells on a device: hours, micro-batches that fit its memory, and size classes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from orch_core.cost import memory_bytes, micro_batch
from orch_core.device import DEVICES, Device, hours
from orch_core.errors import OrchError
from orch_core.grid.calibration import PIXEL_WIDTH, Calibration, ProbeLoad
from orch_core.grid.cells import rule_mask
from orch_core.grid.columns import COLUMNS, cell_of
from orch_core.grid.resources import DEFAULT, Cluster, ResourceClass, unshareable
from orch_core.study.plan import Plan
from orch_core.yaml import did_you_mean

USABLE = (
    0.9  # of a device's memory: the rest goes to its context, the allocator's slack and the data in flight
)
HOURS = ("hours_low", "hours_mid", "hours_high")
# the memory of a cell depends on all identifying fields except its data, its length and its seeds
PRICED = tuple(
    column.name
    for column in COLUMNS
    if column.field and column.field not in {"data", "samples_seen", "seed", "subset_seed"}
)
FLOPS_PAID = pl.col("samples_paid") * pl.col("flops_train_image")  # of a cell, with its share of a trunk


def device_named(name: str | None, precision: str) -> Device:
    """A device by its name (default: CPU); raises OrchError if it is unknown or lacks the precision."""
    if (name or "CPU") not in DEVICES:
        message = f"unknown device {name!r}{did_you_mean(str(name), DEVICES)}"
        raise OrchError(message, hint="set cluster.device to one of them")
    device = DEVICES[name or "CPU"]
    if precision not in device.peak:
        message = f"{device.name} does not support {precision}"
        raise OrchError(
            message, hint=f"set training.precision to {' or '.join(device.peak)}, or another cluster.device"
        )
    return device


def with_hours(
    frame: pl.DataFrame, *, load: ProbeLoad, device: Device, precision: str, measured: Calibration | None
) -> pl.DataFrame:
    """Add device-hours of training and probing (`hours_low`, `hours_mid`, `hours_high`) and `hours_probes`.

    With a calibration, hours are the measured seconds, 25% less and 25% more. Without one, they are FLOPs
    (including those of fitting the probes) at an assumed fraction of the device's peak. The `devices` of a
    cell share its training without loss; one of them runs the probes while the others are paid for too. Cells
    that share a device take as long as in sequence. For the control without an encoder, `memory_bytes`
    becomes the memory to project the pixels of its largest task.
    """
    if measured is not None:
        probing, training = measured.probing(load) / 3600, measured.training_seconds() / 3600
        spread = (0.8, 1.0, 1.25)
    else:
        rates = hours(1.0, device, precision)
        solver = load.solver_flops * pl.col("width").fill_null(PIXEL_WIDTH)
        probing = (load.images * pl.col("flops_forward") + load.on_tokens() + solver) * rates[1]
        training, spread = FLOPS_PAID * rates[1], (rates[0] / rates[1], 1.0, rates[2] / rates[1])
    pixels = pl.col("width").is_null()
    projection = load.projection_flops * hours(1.0, DEVICES["CPU"], "fp32")[1]  # numpy does not use a GPU
    probing = pl.col("devices").clip(lower_bound=1) * (
        probing + pl.when(pixels).then(projection).otherwise(0.0)
    )
    memory = pl.when(pixels).then(load.projection_bytes).otherwise(pl.col("memory_bytes"))
    columns = {name: (training + probing) * by for name, by in zip(HOURS, spread, strict=True)}
    return frame.with_columns(**columns, hours_probes=probing, memory_bytes=memory)


def with_micro_batches(frame: pl.DataFrame, device: Device) -> pl.DataFrame:
    """Add `micro_batch` and `checkpointing` that fit a device's memory (`cost.micro_batch`).

    `micro_batch` is 0 if one image does not fit (then `memory_bytes` is the minimum needed) or if the recipe
    does not train. `memory_bytes` becomes the peak on each of the cell's devices, which share the batch.
    """
    key = frame.select(*PRICED, "devices").hash_rows()
    firsts = key.arg_unique()
    rows = frame[firsts]
    found = [_fitted(row, USABLE * device.memory_bytes) for row in rows.iter_rows(named=True)]
    names = {"micro_batch": pl.Int32, "checkpointing": pl.Boolean, "memory_bytes": pl.Float64}
    table = pl.DataFrame(found, schema=names, orient="row")
    # looked up, not joined: a join would copy every other column
    place = key.replace_strict(key[firsts], pl.Series(range(rows.height), dtype=pl.UInt32))
    return frame.with_columns(table[name].gather(place) for name in names)


def _fitted(row: Mapping[str, Any], room: float) -> tuple[int, bool, float]:
    """Micro-batch, checkpointing and peak of a cell on each of its devices, which have `room` bytes each."""
    if not row["activation_bytes"]:
        return 0, False, row["memory_bytes"]
    cell = cell_of(row)
    share = dataclasses.replace(cell, batch=math.ceil(cell.batch / max(1, row["devices"])))
    micro, checkpointing = micro_batch(share, room * min(1, row["devices"]))
    peak = memory_bytes(share, micro or 1, checkpointing=checkpointing or not micro)
    return micro, checkpointing, float(peak)


def repriced(plan: Plan, classes: Mapping[str, ResourceClass]) -> Plan:
    """A plan with hours, memory and micro-batches for other resources.

    Raises OrchError if the devices of a class cannot share the batch.
    """
    old, numbers = pl.col("devices"), {name: asked.devices for name, asked in classes.items()}
    new = pl.col("size_class").cast(pl.String).replace_strict(numbers, default=numbers[DEFAULT])
    if plan.frame.select((old == new).all()).item():
        return plan
    for batch in plan.frame.filter(pl.col("batch") > 0)["batch"].unique():
        for name, message in unshareable(classes, batch).items():
            text = f"{name}: {message}"
            raise OrchError(text, hint="ask for another gpus_per_node or nodes")
    training = pl.col("hours_mid") - pl.col("hours_probes")
    probing = pl.col("hours_probes") / old.clip(lower_bound=1) * new.clip(lower_bound=1)
    spread = (training + probing) / pl.col("hours_mid")  # not a number for cells that take no time
    hours = (pl.col(name) * spread.fill_nan(1.0) for name in HOURS)
    frame = plan.frame.with_columns(*hours, hours_probes=probing, devices=new)
    return dataclasses.replace(plan, frame=with_micro_batches(frame, DEVICES[plan.device]))


def with_classes(frame: pl.DataFrame, cluster: Cluster) -> pl.DataFrame:
    """Add `size_class`, the first of `cluster.classes` whose rule matches (or `default`), and `devices`.

    Devices are those of a node times a job's nodes, divided among the cells of a job: below 1 they share one.
    """
    classes = cluster.resource_classes()
    found, devices = pl.lit(DEFAULT), pl.lit(classes[DEFAULT].devices, pl.Float64)
    for entry in reversed(cluster.classes):
        inside, own = rule_mask(entry.when), pl.lit(classes[entry.name].devices, pl.Float64)
        found = pl.when(inside).then(pl.lit(entry.name)).otherwise(found)
        devices = pl.when(inside).then(own).otherwise(devices)
    return frame.with_columns(size_class=found.cast(pl.Categorical), devices=devices)
