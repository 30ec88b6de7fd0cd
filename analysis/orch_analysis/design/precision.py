"""How precisely the cells of a plan can fit their laws: intervals expected before anything has run.

Intervals are computed by algorithm, mix and task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from orch_analysis.design import expected
from orch_analysis.design.expected import AssumedLaw, Expected
from orch_analysis.laws.law import Array
from orch_core.errors import OrchError
from orch_core.study.plan import Plan

BEYOND = 4.0  # the default target lies this factor beyond the largest model and the largest data size
ASSUMED_AUC = 0.9  # of a probe, for the sampling error of its test set

Group = tuple[str, str]  # recipe, mix


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Expected precision of the laws of one recipe and mix.

    data:    the meaning of D: `images`, or `samples_seen` if all cells draw from the same images for
             different lengths
    loss:    held-out loss by encoder parameters N and data D: intervals and prediction at `target`
    assumed: the origin of the assumed law
    slopes:  per task the half width of the 95% interval of d log(1 - AUC) / d log N, and of the same by D
    """

    recipe: str
    mix: str
    cells: int
    data: str
    target: Mapping[str, float]
    assumed: str
    loss: Expected
    slopes: Mapping[str, tuple[float, float]]

    def to_json(self) -> dict[str, Any]:
        """The content of `orch plan --json`; the ends of an unbounded interval are None."""
        parameters = {
            name: {"value": one.value, "lo": _finite(one.lo), "hi": _finite(one.hi)}
            for name, one in self.loss.parameters.items()
        }
        prediction = self.loss.prediction
        return {
            "recipe": self.recipe,
            "mix": self.mix,
            "cells": self.cells,
            "data": self.data,
            "scales": self.loss.scales,
            "law": self.loss.law,
            "assumed": self.assumed,
            "parameters": parameters,
            "target": dict(self.target),
            "prediction": prediction
            and {"value": prediction.value, "lo": _finite(prediction.lo), "hi": _finite(prediction.hi)},
            "task_slopes": {
                task: {"params": _finite(by_size), "images": _finite(by_data)}
                for task, (by_size, by_data) in self.slopes.items()
            },
            "warnings": list(self.loss.warnings),
        }


def expected_precision(
    plan: Plan,
    *,
    target: Mapping[str, float] | None = None,
    assumed_laws: Mapping[Group, AssumedLaw] | None = None,
) -> list[Precision]:
    """The expected precision of each recipe and mix of a plan.

    target: `params` and `samples` of the prediction; without it both 4x beyond the largest of the group.
    assumed_laws: laws from a pilot by (recipe, mix); the default is published exponents and 1% noise
                  (`expected.assumed`).
    """
    found = []
    for group, points in _groups(plan.frame):
        axis = data_axis(pl.DataFrame(points))
        x = {"params": points["params"], "samples": points[axis]}
        assumed_law = (assumed_laws or {}).get(group) or expected.assumed(x)
        at = dict(target or {name: BEYOND * float(values.max()) for name, values in x.items()})
        loss = expected.expected(assumed_law, x, target=at)
        extra = _training_length(points)
        found.append(
            Precision(
                recipe=group[0],
                mix=group[1],
                cells=int(points["params"].size),
                data=axis,
                target=at,
                assumed=assumed_law.source,
                loss=replace(loss, warnings=loss.warnings + extra),
                slopes={
                    task: _slopes(x["params"], x["samples"], noise)
                    for task, noise in _task_noise(plan).items()
                },
            )
        )
    return found


def read_target(text: str) -> dict[str, float]:
    """Read `params=1e9,samples=1e8`; raises OrchError for anything else."""
    try:
        pairs = {name.strip(): float(value) for name, value in (part.split("=") for part in text.split(","))}
    except ValueError:
        pairs = {}
    if set(pairs) != {"params", "samples"} or not all(0 < value < math.inf for value in pairs.values()):
        message = f"cannot read the target {text!r}"
        raise OrchError(
            message, hint="give params=1e9,samples=1e8: encoder parameters and pretraining images"
        )
    return pairs


def data_axis(cells: pl.DataFrame) -> str:
    """The column of D in a group's law: `samples_seen` if cells differ in length alone, else `images`."""
    lengths_alone = cells["images"].n_unique() == 1 and cells["samples_seen"].n_unique() > 1
    return "samples_seen" if lengths_alone else "images"


def _groups(frame: pl.DataFrame) -> Iterator[tuple[Group, dict[str, Array]]]:
    names = {"params": "params_encoder", "images": "images", "samples_seen": "samples_seen"}
    rows = frame.filter((pl.col("images") > 0) & (pl.col("params_encoder") > 0))
    columns = [pl.col(column).cast(pl.Float64).alias(name) for name, column in names.items()]
    for row in rows.group_by("recipe", "mix", maintain_order=True).agg(columns).iter_rows(named=True):
        yield (row["recipe"], row["mix"]), {name: np.asarray(row[name], dtype=float) for name in names}


def _training_length(points: Mapping[str, Array]) -> tuple[str, ...]:
    """A warning if data size and training length grow together, so that one exponent covers both."""
    logs = [np.log(points[name]) for name in ("images", "samples_seen")]
    if min(float(np.ptp(values)) for values in logs) == 0.0:
        return ()
    r = float(np.corrcoef(logs[0], logs[1])[0, 1])
    if abs(r) <= expected.CONFOUNDED:
        return ()
    effect = "the data exponent includes the effect of training length"
    return (f"data size and samples seen are correlated (r = {r:.2f}): {effect}",)


def _task_noise(plan: Plan) -> dict[str, float]:
    """Sd of log(1 - AUC) per task at an AUC of .9, from the size of its test set.

    Classes are assumed to be of one size, each against the rest. Cells share the test set, so their slopes
    vary less.
    """
    noise = {}
    for probe in plan.probes:
        images, classes = plan.test_images.get(probe.task, 0), max(probe.classes, 2)
        positives = images / (2 if probe.kind == "multi-label" else classes)
        if positives >= 1:
            error = expected.auc_standard_error(ASSUMED_AUC, positives, images - positives)
            noise[probe.task] = error / (1 - ASSUMED_AUC) / float(np.sqrt(classes if classes > 2 else 1))
    return noise


def _slopes(params: Array, data: Array, noise: float) -> tuple[float, float]:
    """Half widths of the slopes in size and in data if both enter the fit."""
    return _partial(params, data, noise), _partial(data, params, noise)


def _partial(x: Array, other: Array, noise: float) -> float:
    """Half width of the slope along log x in a plane over log x and log other."""
    ours, theirs = (np.log(values) - np.log(values).mean() for values in (x, other))
    spread = float(theirs @ theirs)
    rest = ours - (float(ours @ theirs) / spread if spread > 0 else 0.0) * theirs
    left = float(rest @ rest)
    dof = x.size - 2 - (spread > 0)
    if dof < 1 or left <= 1e-12 * max(float(ours @ ours), 1e-300):
        return float("inf")
    return expected.student(0.95, int(dof)) * noise / float(np.sqrt(left))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
