"""`orch plan`: a plan written into its study, or, with a wish to compare, only what it would change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from orch.planning.budget import assess, describe, limits_of
from orch.planning.diff import Diff, diff
from orch.planning.plan import Plan, draft, open_plan, read_plan, summary, write
from orch.planning.plan_text import render, render_diff
from orch.planning.precision import Group, expected_precision
from orch.studies import find_study
from orch_analysis.design.expected import AssumedLaw
from orch_core.errors import OrchError
from orch_core.study.folder import Study

NAMED = 10  # cells beyond the budget that the terminal names


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """Options of `orch plan`.

    against: what to compare with, nothing written: a study, a plan, or "" for the study's own last plan
    pilot:   a study whose fits give the law that expectations are computed under
    target:  `params` and `samples` of the prediction
    """

    against: str | None = None
    pilot: Path | None = None
    target: str | None = None
    gpu_hours: float | None = None
    usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan as a document and as text; `frame` has its cells."""

    document: dict[str, Any]
    text: str
    frame: pl.DataFrame

    def to_json(self) -> dict[str, Any]:
        """The document with every cell."""
        return {**self.document, "frame": self.frame.drop("data").to_dicts()}


def planned(grid: Path, study: Path | None, wishes: Wishes) -> Planned:
    """The plan of a grid, or what it would change; raises OrchError or GridError for what is wrong with it."""
    if not all(math.isfinite(limit) for limit in (wishes.gpu_hours, wishes.usd) if limit is not None):
        message = "a budget must be a finite number"
        raise OrchError(message, hint="leave it out for no limit")
    plan, opened, checked = draft(grid, study, gpu_hours=wishes.gpu_hours, usd=wishes.usd)
    if wishes.against is not None:
        return _compared(plan, opened, wishes.against)
    target = read_target(wishes.target) if wishes.target else None
    assumed_laws: Mapping[Group, AssumedLaw] = {}
    if wishes.pilot:
        from orch.planning.pilot import assumed_laws_of

        assumed_laws = assumed_laws_of(find_study(wishes.pilot))
    precisions = expected_precision(plan, target=target, assumed_laws=assumed_laws)
    numbers = summary(plan)
    write(plan, opened, checked, numbers)
    beyond = (
        assess(plan, opened, limits_of(plan)).refused if any(plan.budget.values()) else plan.frame.clear()
    )
    document = {
        **numbers,
        "root": str(opened.root),
        "tells": [one.to_json() for one in precisions],
        "beyond_budget": beyond["id"].to_list(),
    }
    text = render(plan, numbers, opened.root, precisions, _beyond(beyond))
    return Planned(document=document, text=text, frame=plan.frame)


def _beyond(refused: pl.DataFrame) -> list[str]:
    if refused.is_empty():
        return []
    named = ", ".join(describe(row) for row in refused.head(NAMED).iter_rows(named=True))
    more = f" and {refused.height - NAMED:,} more" if refused.height > NAMED else ""
    return [f"beyond the budget, so that `orch launch` refuses: {refused.height:,} cells: {named}{more}"]


def _compared(plan: Plan, opened: Study, against: str) -> Planned:
    old, name = _other(opened, against)
    changes = diff(old, plan.frame)
    document = {**summary(plan), "root": str(opened.root), "against": name, "diff": _rows(changes)}
    return Planned(document=document, text=render_diff(changes, name), frame=plan.frame)


def _other(opened: Study, against: str) -> tuple[pl.DataFrame, str]:
    path = Path(against) if against else opened.root
    if path.is_file() and path.suffix == ".parquet":
        return open_plan(path)[0].frame, str(path)
    study = find_study(path) if against else opened
    try:
        return read_plan(study).frame, str(study.root)
    except OrchError:
        if against:
            raise
        return pl.DataFrame(schema=_schema()), f"{study.root} (nothing planned yet)"


def _schema() -> dict[str, Any]:
    from orch.planning.diff import FIELDS, LABELS

    return dict.fromkeys(("id", *dict.fromkeys((*LABELS, *FIELDS))), pl.String)


def _rows(changes: Diff) -> dict[str, Any]:
    names = ("id", "recipe", "model", "mix", "images", "seed")
    return {
        "counts": changes.counts(),
        "create": changes.create.select(names).to_dicts(),
        "drop": changes.drop.select(names).to_dicts(),
        "changed": changes.changed.to_dicts(),
    }


def read_target(text: str) -> dict[str, float]:
    """Read `params=1e9,samples=1e8`; raises OrchError for anything else."""
    try:
        pairs = {name.strip(): float(value) for name, value in (part.split("=") for part in text.split(","))}
    except ValueError:
        pairs = {}
    if set(pairs) != {"params", "samples"} or not all(0 < value < math.inf for value in pairs.values()):
        message = f"cannot read the target {text!r}"
        raise OrchError(message, hint="say params=1e9,samples=1e8: encoder parameters and pretraining images")
    return pairs
