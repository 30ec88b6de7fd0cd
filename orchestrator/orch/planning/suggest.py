"""`orch suggest`: the next cells of a study, those that tell most about a target for their price, as a grid to plan."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from orch.console import duration, quantity
from orch.planning.pilot import Group, points_of, truth_of
from orch.planning.plan import Plan, read_plan
from orch_analysis import adaptive, design
from orch_analysis.design import Truth
from orch_analysis.law import Array
from orch_core.errors import OrchError
from orch_core.load import load_yaml
from orch_core.study import Study

SEEDS = 3  # cells at most at one size and data size
CHECK = 0.1  # share of the budget for testing the law's form
LEAST = 6  # cells of a first pilot: one more than the law has parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """Cells to run next of one recipe, mix, model and data size.

    expected: held-out loss and its 95% interval before they run, None in a pilot; check: whether they test the form
    """

    recipe: str
    mix: str
    model: str
    images: int
    samples_seen: int
    seeds: tuple[int, ...]
    hours: float
    check: bool
    expected: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to run next for one recipe and mix, and the half width of the target's 95% interval (relative) before and after.

    Both are None in a pilot, where nothing is fitted yet; truth says what they rest on.
    """

    recipe: str
    mix: str
    picks: tuple[Pick, ...]
    before: float | None
    after: float | None
    truth: str


def suggest(
    study: Study,
    target: Mapping[str, float],
    budget: float,
    *,
    recipe: str | None = None,
    mix: str | None = None,
) -> list[Advice]:
    """The next cells of every recipe and mix of a study (or of those named) within `budget` device-hours in all.

    target: `params` and `samples` at which the held-out loss is to be known. Raises OrchError for a study without such
    a recipe and mix, or a budget that buys no cell.
    """
    plan = read_plan(study)
    groups = _groups(plan, recipe, mix)
    points = points_of(study)
    advice = [_advise(plan, group, points.get(group), target, budget / len(groups)) for group in groups]
    if not any(one.picks for one in advice):
        cheapest = float(plan.frame.filter(pl.col("images") > 0)["hours_mid"].min())  # type: ignore[arg-type]
        message = f"{budget:g} device-hours buy no cell: the cheapest takes {duration(cheapest)}"
        raise OrchError(message, hint="raise --budget, or plan smaller cells")
    return advice


def _groups(plan: Plan, recipe: str | None, mix: str | None) -> list[Group]:
    rows = plan.frame.filter(pl.col("images") > 0).select("recipe", "mix").unique(maintain_order=True).rows()
    groups = [(str(r), str(m)) for r, m in rows if recipe in {None, r} and mix in {None, m}]
    if not groups:
        known = ", ".join(f"{r} {m}" for r, m in rows)
        message = f"the plan has no cell of {recipe or 'any recipe'} on {mix or 'any mix'}"
        raise OrchError(message, hint=f"it has: {known}")
    return groups


def _advise(
    plan: Plan, group: Group, points: pl.DataFrame | None, target: Mapping[str, float], budget: float
) -> Advice:
    candidates = _candidates(plan, group, points)
    x = {name: candidates[name].to_numpy().astype(float) for name in ("params", "samples")}
    prices = candidates["hours"].to_numpy().astype(float)
    truth = truth_of(points) if points is not None and points.height > LEAST - 1 else None
    if points is None or truth is None:
        order = adaptive.pilot(x, prices, least=LEAST)
        chosen = _within([index for index in order if candidates["runs"][index] == 0], prices, budget)
        picks = _picks(group, candidates, chosen, [False] * len(chosen), None)
        return Advice(
            recipe=group[0], mix=group[1], picks=picks, before=None, after=None,
            truth="no fit yet: a pilot along the cheap edges of the grid",
        )  # fmt: skip
    done = {
        "params": points["params_encoder"].to_numpy().astype(float),
        "samples": points["images"].to_numpy().astype(float),
    }
    repeats = np.maximum(SEEDS - candidates["runs"].to_numpy(), 0)
    choice = adaptive.choose(truth, done, x, prices, target, budget=budget, repeats=repeats, check=CHECK)
    t = design.student(0.95, max(points.height - len(truth.law.free), 1))
    return Advice(
        recipe=group[0],
        mix=group[1],
        picks=_picks(group, candidates, list(choice.chosen), list(choice.checks), (truth, done)),
        before=t * float(np.sqrt(choice.before)),
        after=t * float(np.sqrt(choice.variances[-1])) if choice.variances else None,
        truth=truth.source,
    )


def _within(order: list[int], prices: Array, budget: float) -> list[int]:
    chosen: list[int] = []
    for index in order:
        if prices[[*chosen, index]].sum() <= budget:
            chosen.append(index)
    return chosen


def _candidates(plan: Plan, group: Group, points: pl.DataFrame | None) -> pl.DataFrame:
    """Sizes x data sizes of a group's plan: `params`, `samples`, `model`, `hours`, `runs` done, and `free` seeds."""
    rows = plan.frame.filter((pl.col("recipe") == group[0]) & (pl.col("mix") == group[1]))
    table = rows.group_by("model", "images", maintain_order=True).agg(
        params=pl.col("params_encoder").first(),
        samples=pl.col("images").first().alias("samples"),
        samples_seen=pl.col("samples_seen").first(),
        hours=pl.col("hours_mid").first(),
        open=pl.col("seed").filter(pl.col("state") == "new"),
        last=pl.col("seed").max(),
    )
    done = (
        points
        if points is not None
        else pl.DataFrame(schema={"params_encoder": pl.Float64, "images": pl.Float64})
    )
    counts = (
        done.group_by("params_encoder", "images")
        .len("runs")
        .cast({"params_encoder": pl.Float64, "images": pl.Int64})
    )
    joined = table.join(
        counts,
        left_on=["params", "images"],
        right_on=["params_encoder", "images"],
        how="left",
        maintain_order="left",
    )
    return joined.with_columns(pl.col("runs").fill_null(0).cast(pl.Int64))


def _picks(
    group: Group,
    candidates: pl.DataFrame,
    chosen: list[int],
    checks: list[bool],
    known: tuple[Truth, dict[str, Array]] | None,
) -> tuple[Pick, ...]:
    picks = []
    for index in dict.fromkeys(chosen):
        row = candidates.row(index, named=True)
        times = chosen.count(index)
        fresh = [row["last"] + 1 + extra for extra in range(times)]
        seeds = tuple([*row["open"], *fresh][:times])
        expected = None
        if known is not None:
            truth, done = known
            at = {"params": row["params"], "samples": float(row["images"])}
            told = design.expected(truth, done, target=at).prediction
            expected = (told.value, told.lo, told.hi) if told is not None else None
        picks.append(
            Pick(
                recipe=group[0],
                mix=group[1],
                model=row["model"],
                images=row["images"],
                samples_seen=row["samples_seen"],
                seeds=seeds,
                hours=times * row["hours"],
                check=any(c for i, c in zip(chosen, checks, strict=True) if i == index),
                expected=expected,
            )
        )
    return tuple(picks)


def write_grid(study: Study, advice: list[Advice], out: Path) -> None:
    """Write the suggested cells as a grid of the same study; raises OrchError where the study's grid cannot be read.

    The axes lose their length, so that they span no cells, and each pick is an `include`. Plan it into the same study.
    """
    data: dict[str, Any] = load_yaml(study.root / "grid.yaml").data
    origin = Path(_origin(study)).parent
    for section in ("sources", "tasks"):
        for entry in data.get(section, {}).values():
            entry["path"] = os.path.relpath(origin / entry["path"], out.resolve().parent)
    for name in ("samples_seen", "epochs", "flops"):
        data["axes"].pop(name, None)
    for name in ("exclude", "isoflop"):
        data.pop(name, None)
    data["include"] = [
        {
            "model": pick.model, "algorithm": pick.recipe, "mix": pick.mix, "images": pick.images,
            "seed": list(pick.seeds), "samples_seen": pick.samples_seen,
        }
        for one in advice
        for pick in one.picks
    ]  # fmt: skip
    head = f"# Suggested by orch from {study.root.name}: plan it with --study {study.root}\n"
    try:
        out.write_text(
            head + yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=110), encoding="utf-8"
        )
    except OSError as error:
        message = f"cannot write {out}: {error.strerror}"
        raise OrchError(message, hint="give a writable path with --out") from error


def _origin(study: Study) -> str:
    import json

    return str(json.loads((study.root / "plan.json").read_text(encoding="utf-8"))["grid"])


def render(advice: list[Advice], out: Path, study: Study) -> str:
    """The suggestion for the terminal: cells, price, what they will tell, and the next command."""
    lines = []
    for one in advice:
        hours = sum(pick.hours for pick in one.picks)
        gain = ""
        if one.before is not None and one.after is not None:
            gain = (
                f"; the target's 95% interval goes from ± {100 * one.before:.1f}% to ± {100 * one.after:.1f}%"
            )
        cells = sum(len(pick.seeds) for pick in one.picks)
        lines.append(f"{one.recipe} {one.mix}: {cells} cells, {duration(hours)}{gain} ({one.truth})")
        for pick in one.picks:
            seeds = f"seed{'s' if len(pick.seeds) > 1 else ''} {', '.join(map(str, pick.seeds))}"
            said = (
                f", expected loss {pick.expected[0]:.4g} ({pick.expected[1]:.4g} to {pick.expected[2]:.4g})"
                if pick.expected
                else ""
            )
            test = ", tests the form" if pick.check else ""
            lines.append(
                f"  {pick.model} {quantity(pick.images)} images, {seeds}: {duration(pick.hours)}{said}{test}"
            )
    return "\n".join([*lines, "", f"written to {out}", f"next: orch plan {out} --study {study.root}"])
