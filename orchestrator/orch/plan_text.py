"""A plan as a page for the terminal."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from orch.console import duration, quantity
from orch.plan import Plan, summary


def render(plan: Plan, root: Path) -> str:
    """What is to run, what exists, what it costs, and what to type next."""
    numbers = summary(plan)
    states = numbers["states"]
    unit = "CPU-core" if plan.device == "CPU" else plan.device
    counts = (
        f"{plan.study}: {numbers['cells']:,} cells, {states['done']:,} done, {states['partial']:,} to probe, "
        f"{states['new']:,} to train; {numbers['probes_left']:,} probes to run"
    )
    cost = (
        f"cost of what is left: {quantity(numbers['flops_train'], 'FLOP')}, "
        f"{duration(numbers['hours_mid'])} of one {unit} "
        f"({duration(numbers['hours_low'])} to {duration(numbers['hours_high'])}), "
        f"memory up to {quantity(numbers['memory_bytes'], 'B')}, "
        f"checkpoints {quantity(numbers['checkpoint_bytes'], 'B')}"
    )
    lines = [counts, "", _table(plan), "", cost, *(f"note: {note}" for note in plan.notes)]
    if plan.absent:
        lines.append(
            f"note: not on this machine, so this plan cannot be launched here: {', '.join(plan.absent)}"
        )
    left = states["new"] + states["partial"]
    lines += ["", f"plan {plan.hash[:12]} written to {root}"]
    lines.append("next: orch launch --cluster local (or slurm)" if left else "next: orch fit-laws")
    return "\n".join(lines)


def _table(plan: Plan) -> str:
    groups = plan.frame.group_by("recipe", "model", maintain_order=True).agg(
        cells=pl.len(),
        done=(pl.col("state") == "done").sum(),
        params=pl.col("params_encoder").first(),
        head=pl.col("params_head").first(),
        flops=pl.col("flops_train").sum(),
        memory=pl.col("memory_bytes").max(),
        hours=pl.col("hours_mid").filter(pl.col("state") != "done").sum(),
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


def columns(rows: list[list[str]], *, left: int) -> str:
    """Rows as aligned text: the first `left` columns to the left, the rest to the right."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
