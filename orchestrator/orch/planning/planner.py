"""`orch plan`: write the plan of a grid into its study, or print what the grid would change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from orch.answer import Answer
from orch.planning.diff import Diff, ProbeChange, diff, diff_probes
from orch.planning.plan_text import render, render_diff
from orch.studies import find_study, remember_study
from orch_analysis.design.expected import AssumedLaw
from orch_analysis.design.precision import Group, Precision, expected_precision
from orch_core.cell import Probe
from orch_core.errors import OrchError
from orch_core.study.budget import assess, describe, limits_of
from orch_core.study.draft import draft, save
from orch_core.study.folder import Study
from orch_core.study.plan import Plan, open_plan, read_plan
from orch_core.study.summary import PlanSummary, summary

NAMED = 10  # cells beyond the budget that the terminal names


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """Options of `orch plan`.

    against:        compare and write nothing: with a study, a plan, or "" for the study's
                                    last plan; None to write the plan
    pilot:          a study whose fits give the laws for the expected precision
    target:         `params` and `samples` of the prediction; default: 4x beyond the largest of the grid
    data:           folder in which tasks named by `task` are looked for first
    gpu_hours, usd: limits that take the place of the grid's `budget`
    """

    against: str | None = None
    pilot: Path | None = None
    target: Mapping[str, float] | None = None
    data: Path | None = None
    gpu_hours: float | None = None
    usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPlan(Answer):
    """A plan that was written into its study, its expected precision, and the cells beyond its budget."""

    plan: Plan
    study: Study
    summary: PlanSummary
    precision: tuple[Precision, ...]
    options: PlanOptions
    beyond_budget: pl.DataFrame

    def to_json(self) -> dict[str, Any]:
        """The summary, the expected precision and every cell."""
        return {
            **self.summary.to_json(),
            "root": str(self.study.root),
            "precision": [one.to_json() for one in self.precision],
            "beyond_budget": self.beyond_budget["id"].to_list(),
            "frame": self.plan.frame.drop("data").to_dicts(),
        }

    @property
    def text(self) -> str:
        """Cells to run and done, cost, expected precision, and the next command."""
        return render(
            self.plan,
            self.summary,
            self.study.root,
            self.precision,
            target=self.options.target,
            beyond=_beyond(self.beyond_budget),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Answer):
    """The changes of a grid against an older plan; nothing was written."""

    plan: Plan
    study: Study
    against: str
    changes: Diff
    probes: tuple[ProbeChange, ...]

    def to_json(self) -> dict[str, Any]:
        """The summary, the changes and every cell."""
        names = ("id", "recipe", "model", "mix", "images", "seed")
        rows = {
            "counts": self.changes.counts(),
            "create": self.changes.create.select(names).to_dicts(),
            "drop": self.changes.drop.select(names).to_dicts(),
            "changed": self.changes.changed.to_dicts(),
            "probes": [asdict(change) for change in self.probes],
        }
        return {
            **summary(self.plan).to_json(),
            "root": str(self.study.root),
            "against": self.against,
            "diff": rows,
            "frame": self.plan.frame.drop("data").to_dicts(),
        }

    @property
    def text(self) -> str:
        """The changes with their reasons."""
        return render_diff(self.changes, self.probes, self.against)


def make_plan(grid: Path, study: Path | None = None) -> tuple[Plan, Study]:
    """Draft a plan (see `draft`), write it into its study, and make the study the directory's default."""
    plan, opened, checked = draft(grid, study)
    save(plan, opened, checked)
    remember_study(opened)
    return plan, opened


def plan_grid(grid: Path, study: Path | None, options: PlanOptions) -> NewPlan | Comparison:
    """The plan of a grid, or what it would change; raises OrchError or GridError for mistakes in it."""
    if not all(math.isfinite(limit) for limit in (options.gpu_hours, options.usd) if limit is not None):
        message = "a budget must be a finite number"
        raise OrchError(message, hint="leave it out for no limit")
    plan, opened, checked = draft(
        grid, study, data=options.data, gpu_hours=options.gpu_hours, usd=options.usd
    )
    if options.against is not None:
        old, probes, name = _other(opened, options.against, plan.frame.clear())
        changes = diff(old, plan.frame)
        changed = diff_probes(probes, plan.probes, changes.keep.height)
        return Comparison(plan=plan, study=opened, against=name, changes=changes, probes=changed)
    assumed_laws: Mapping[Group, AssumedLaw] = {}
    if options.pilot:
        from orch_analysis.design.pilot import assumed_laws_of

        assumed_laws = assumed_laws_of(find_study(options.pilot))
    precision = expected_precision(plan, target=options.target, assumed_laws=assumed_laws)
    limited = any(plan.budget.values())
    saved = save(plan, opened, checked)
    remember_study(opened)
    return NewPlan(
        plan=plan,
        study=opened,
        summary=saved,
        precision=tuple(precision),
        options=options,
        beyond_budget=assess(plan, opened, limits_of(plan)).refused if limited else plan.frame.clear(),
    )


def _beyond(refused: pl.DataFrame) -> list[str]:
    if refused.is_empty():
        return []
    named = ", ".join(describe(row) for row in refused.head(NAMED).iter_rows(named=True))
    more = f" and {refused.height - NAMED:,} more" if refused.height > NAMED else ""
    return [f"beyond the budget, refused by `orch launch`: {refused.height:,} cells: {named}{more}"]


def _other(opened: Study, against: str, nothing: pl.DataFrame) -> tuple[pl.DataFrame, tuple[Probe, ...], str]:
    path = Path(against) if against else opened.root
    if path.is_file() and path.suffix == ".parquet":
        plan = open_plan(path)[0]
        return plan.frame, plan.probes, str(path)
    study = find_study(path) if against else opened
    try:
        plan = read_plan(study)
    except OrchError:
        if against:
            raise
        return nothing, (), f"{study.root} (nothing planned yet)"
    return plan.frame, plan.probes, str(study.root)
