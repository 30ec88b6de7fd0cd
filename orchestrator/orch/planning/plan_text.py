"""A plan as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from orch.planning.diff import Diff, ProbeChange
from orch_analysis.design.precision import BEYOND, Precision
from orch_core.formatting import columns, duration, quantity
from orch_core.grid.pricing import FLOPS_PAID
from orch_core.study.plan import Plan, hours_left
from orch_core.study.summary import PlanSummary

MOST_GROUPS = 12  # recipes x mixes that the terminal shows
SIGNS = {"added": "+", "changed": "~", "dropped": "-"}  # of probes in a diff
SHOWN = 20  # cells of each kind that a diff shows
UNDETERMINED = "not determined"  # an interval that the cells do not determine


def render(
    plan: Plan,
    numbers: PlanSummary,
    root: Path,
    precision: Sequence[Precision],
    *,
    target: Mapping[str, float] | None = None,
    beyond: Sequence[str] = (),
) -> str:
    """Cells to run and done, cost, expected precision, cells beyond the budget, and the next command.

    target: `params` and `samples` to predict at, None for the default target of each group.
    """
    states = numbers.states
    counts = (
        f"{plan.study}: {numbers.cells:,} cells, {states['done']:,} done, {states['partial']:,} to probe, "
        f"{states['new']:,} to train; {numbers.probes_left:,} probes to run"
    )
    lines = [counts, "", _table(plan), "", *_cost(plan, numbers), "", *_precision(precision, target), *beyond]
    lines += [f"note: {note}" for note in plan.notes]
    if plan.absent:
        lines.append(f"note: cannot be launched here: {', '.join(plan.absent)} not on this machine")
    left = states["new"] + states["partial"]
    lines += ["", f"plan {numbers.plan[:12]} written to {root}"]
    lines.append("next: orch launch --cluster local (or slurm)" if left else "next: orch fit-laws")
    return "\n".join(lines)


def _cost(plan: Plan, numbers: PlanSummary) -> list[str]:
    unit = "CPU-core" if plan.device == "CPU" else plan.device
    money = f", {numbers.usd:,.0f} USD" if numbers.usd is not None else ""
    lines = [
        (
            f"cost of the cells that are not done: {quantity(numbers.flops_train, 'FLOP')}, "
            f"{duration(numbers.hours_mid)} of one {unit} "
            f"({duration(numbers.hours_low)} to {duration(numbers.hours_high)}){money}; speed {plan.rates}"
        ),
        *_shared(plan, numbers),
        (
            f"memory up to {quantity(numbers.memory_bytes, 'B')}, "
            f"checkpoints {quantity(numbers.checkpoint_bytes, 'B')}, about {numbers.files:,} files, "
            f"{numbers.sbatch_calls} sbatch call{'s' if numbers.sbatch_calls != 1 else ''}"
        ),
    ]
    limits = [
        f"{value:,g} {name}"
        for name, value in (("device-hours", plan.budget.get("gpu_hours")), ("USD", plan.budget.get("usd")))
        if value
    ]
    return [*lines, f"budget: {' and '.join(limits)}"] if limits else lines


def _shared(plan: Plan, numbers: PlanSummary) -> list[str]:
    """The FLOPs saved by cells that continue another cell's training."""
    shared = numbers.flops_shared
    if not shared:
        return []
    count = plan.frame.filter((pl.col("state") == "new") & pl.col("continues").is_not_null()).height
    share = shared / (shared + numbers.flops_train)
    saved = f"saving {100 * share:.0f}% of the FLOPs"
    return [f"{count:,} cells reuse another cell's training up to its cool-down, {saved}"]


def _precision(groups: Sequence[Precision], target: Mapping[str, float] | None) -> list[str]:
    """Expected intervals per recipe and mix, the smallest slope each task can show, and warnings."""
    if not groups:
        return []
    at = f"at {', '.join(f'{name}={value:g}' for name, value in target.items())}" if target else ""
    head = ["expected precision", "mix", "cells", "size exponent", "data exponent"]
    head.append(f"loss {at or f'{BEYOND:g}x beyond the grid'}")
    rows = [[one.recipe, one.mix, f"{one.cells:,}", *_intervals(one)] for one in groups[:MOST_GROUPS]]
    lines = [columns([head, *rows], left=2), f"  95% intervals expected under {groups[0].assumed}"]
    if len(groups) > MOST_GROUPS:
        lines.append(f"  and {len(groups) - MOST_GROUPS} more: see --json")
    lengths = [f"{one.recipe} {one.mix}" for one in groups if one.data == "samples_seen"]
    if lengths:
        names = ", ".join(lengths[:3])
        lines.append(f"  the data axis is samples seen, since all cells draw from the same images: {names}")
    return [*lines, *_slopes(groups), *_warnings(groups)]


def _slopes(groups: Sequence[Precision]) -> list[str]:
    widest = max(groups, key=lambda one: one.cells)
    slopes = [f"{task} {half[0]:.2g}" for task, half in widest.slopes.items() if half[0] != float("inf")]
    if not slopes:
        return []
    what = f"smallest slope of log(1 - AUC) on log size that a task can show ({widest.recipe} {widest.mix})"
    return [f"  {what}: {', '.join(slopes)}"]


def _warnings(groups: Sequence[Precision]) -> list[str]:
    warned: dict[str, list[str]] = {}
    for one in groups:
        for warning in one.loss.warnings:
            warned.setdefault(warning, []).append(f"{one.recipe} {one.mix}")
    return [
        f"warning: {', '.join(who[:3])}{' ...' if len(who) > 3 else ''}: {what}"
        for what, who in warned.items()
    ]


def _intervals(one: Precision) -> list[str]:
    words = []
    for name in ("alpha", "beta"):
        found = one.loss.parameters.get(name)
        if found is not None:
            bounded = found.half != float("inf")
            words.append(f"{found.value:.2f} ± {found.half:.2f}" if bounded else UNDETERMINED)
    prediction = one.loss.prediction
    if prediction is None or prediction.hi == float("inf"):
        return [*words, UNDETERMINED]
    return [*words, f"± {100 * prediction.half / prediction.value:.1f}%"]


def render_diff(changes: Diff, probes: Sequence[ProbeChange], root: str) -> str:
    """The changes of a new plan, with reasons; the first few of each kind."""
    counts = changes.counts()
    lines = [
        (
            f"against {root}: {counts['create']:,} to create, {counts['keep']:,} to keep, "
            f"{counts['drop']:,} to drop, {counts['changed']:,} changed"
        )
    ]
    for sign, frame in (("+", changes.create), ("-", changes.drop), ("~", changes.changed)):
        shown = frame.head(SHOWN).iter_rows(named=True)
        lines += [f"{sign} {_label(row)}{': ' + row['reason'] if sign == '~' else ''}" for row in shown]
        if frame.height > SHOWN:
            lines.append(f"{sign} and {frame.height - SHOWN:,} more")
    count = {kind: sum(one.cells for one in probes if one.change == kind) for kind in SIGNS}
    if probes:
        words = ", ".join(f"{number:,} {kind}" for kind, number in count.items())
        lines.append(f"probes of the {changes.keep.height:,} kept cells: {words}")
    for one in probes:
        lines.append(f"{SIGNS[one.change]} probe of {one.task}{': ' if one.reason else ''}{one.reason}")
    return "\n".join(lines)


def _label(row: Mapping[str, Any]) -> str:
    parts = (
        row["algorithm"],
        row["model"],
        row["mix"],
        row["images"] or "",
        f"seed {row['seed']}",
        row["id"][:8],
    )
    return " ".join(str(part) for part in parts if part)


def _table(plan: Plan) -> str:
    groups = plan.frame.group_by("recipe", "model", maintain_order=True).agg(
        cells=pl.len(),
        done=(pl.col("state") == "done").sum(),
        params=pl.col("params_encoder").first(),
        head=pl.col("params_head").first(),
        flops=FLOPS_PAID.sum(),
        memory=pl.col("memory_bytes").max(),
        hours=hours_left(len(plan.probes)).filter(pl.col("state") != "done").sum(),
    )
    head = ["recipe", "model", "cells", "done", "encoder", "head", "FLOP", "memory", "time left"]
    rows = [
        [
            row["recipe"],
            row["model"] or "-",
            f"{row['cells']:,}",
            f"{row['done']:,}",
            quantity(row["params"]),
            quantity(row["head"]),
            quantity(row["flops"]),
            quantity(row["memory"], "B"),
            duration(row["hours"]),
        ]
        for row in groups.iter_rows(named=True)
    ]
    return columns([head, *rows], left=2)
