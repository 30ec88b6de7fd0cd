"""Maps of a study in the terminal: which sizes and data sizes are done, planned or failed, and where the hours go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from orch.console import columns
from orch.planning.plan import Plan
from orch.planning.pricing import hours_left
from orch_core.formatting import duration, quantity
from orch_core.study.folder import Study

BAR = 30  # characters of the longest bar
AXES = ("recipe", "model", "images", "mix", "seed")
LEGEND = "# done   + partly done or to probe   . planned   ! failed   (blank: not in the plan)"


def failed_cells(study: Study) -> frozenset[str]:
    """Cells whose last attempt failed and that have no record."""
    return frozenset(record.cell for record in study.failures() if not record.task)


def coverage(plan: Plan, failed: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Cells of each recipe, mix, model and data size: `done`, `partial`, `failed`, `planned` (neither), and `mark`."""
    bad = pl.col("id").is_in(list(failed))
    state = pl.col("state")
    counts = plan.frame.group_by("recipe", "mix", "model", "images", maintain_order=True).agg(
        params=pl.col("params_encoder").first(),
        done=(state == "done").sum(),
        partial=(state == "partial").sum(),
        failed=((state == "new") & bad).sum(),
        planned=((state == "new") & ~bad).sum(),
    )
    return [{**row, "mark": _mark(row)} for row in counts.iter_rows(named=True)]


def _mark(row: Mapping[str, Any]) -> str:
    if row["failed"]:
        return "!"
    if row["partial"] or (row["done"] and row["planned"]):
        return "+"
    return "#" if row["done"] else "."


def costs(plan: Plan) -> dict[str, list[tuple[str, float, float]]]:
    """Hours by axis: for every value of it, hours still to come and hours of the whole plan."""
    left = hours_left(len(plan.probes)).filter(pl.col("state") != "done").sum()
    found = {}
    for axis in AXES:
        rows = plan.frame.group_by(axis, maintain_order=True).agg(left=left, whole=pl.col("hours_mid").sum())
        found[axis] = [(_name(axis, value), float(a), float(b)) for value, a, b in rows.iter_rows()]
    return found


def _name(axis: str, value: Any) -> str:
    if axis == "images":
        return quantity(value) if value else "none"
    return str(value) if value not in {None, ""} else "none"


def render(plan: Plan, failed: Iterable[str] = ()) -> str:
    """The maps of every recipe and mix, size down and data size across, and the hours by axis."""
    lines: list[str] = []
    cells = coverage(plan, failed)
    for recipe, mix in dict.fromkeys((cell["recipe"], cell["mix"]) for cell in cells):
        here = [cell for cell in cells if (cell["recipe"], cell["mix"]) == (recipe, mix)]
        lines += [f"{recipe} {mix}".rstrip(), _map(here), ""]
    lines += [LEGEND, ""]
    for axis, rows in costs(plan).items():
        if len(rows) > 1:
            lines += [f"hours by {axis} (to come / whole plan)", _bars(rows), ""]
    return "\n".join(lines).rstrip()


def _map(cells: list[dict[str, Any]]) -> str:
    sizes = sorted({cell["images"] for cell in cells})
    models = dict.fromkeys(
        cell["model"] for cell in sorted(cells, key=lambda cell: (cell["params"], str(cell["model"])))
    )
    marks = {(cell["model"], cell["images"]): f"{cell['mark']} {_count(cell)}" for cell in cells}
    head = ["  size \\ images", *(_name("images", size) for size in sizes)]
    rows = [
        [f"  {_name('model', model)}", *(marks.get((model, size), "") for size in sizes)] for model in models
    ]
    return columns([head, *rows], left=1)


def _count(cell: Mapping[str, Any]) -> str:
    whole = cell["done"] + cell["partial"] + cell["failed"] + cell["planned"]
    return f"{cell['done']}/{whole}"


def _bars(rows: list[tuple[str, float, float]]) -> str:
    most = max(whole for _, _, whole in rows) or 1.0
    table = []
    for name, left, whole in rows:
        length = round(BAR * whole / most)
        spent = length - min(length, round(BAR * left / most))
        table.append(
            [f"  {name}", "#" * spent + "." * (length - spent), f"{duration(left)} / {duration(whole)}"]
        )
    return columns(table, left=2)
