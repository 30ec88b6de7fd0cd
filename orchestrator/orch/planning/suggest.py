"""Which cells of a study to run next: those that most reduce the uncertainty at a target per device-hour."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from orch.answer import Answer
from orch_analysis.design import expected as design
from orch_analysis.design import next_cells
from orch_analysis.design.expected import AssumedLaw
from orch_analysis.design.pilot import assumed_law_of, points_of
from orch_analysis.design.precision import Group, data_axis
from orch_analysis.laws.law import Array
from orch_core.errors import OrchError
from orch_core.formatting import duration, quantity
from orch_core.grid.trunks import with_branches
from orch_core.study.folder import Study
from orch_core.study.plan import Plan, read_plan
from orch_core.yaml import load_yaml

SEEDS = 3  # cells at most at one size and data size
CHECK = 0.1  # share of the budget for testing the law's form
LEAST = 6  # cells of a first pilot: one more than the law has parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """Cells to run next of one recipe, mix, model and data size.

    hours:    of all of them, a trunk that they share with other picks counted once
    expected: held-out loss and its 95% interval before they run, None in a pilot; check: whether they test
              the law's form
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
    """What to run next for one recipe and mix.

    before, after: half width of the target's 95% interval (relative); both None in a pilot, where nothing is
                   fitted yet; assumed: the law that they are computed under
    """

    recipe: str
    mix: str
    picks: tuple[Pick, ...]
    before: float | None
    after: float | None
    assumed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestOptions:
    """The target and budget of a suggestion.

    target:         `params` and `samples` at which the held-out loss is to be known
    budget:         device-hours to spend, shared equally by recipes and mixes
    algorithm, mix: only this recipe (`mae@1`) and mix; None for all
    """

    target: Mapping[str, float]
    budget: float
    algorithm: str | None = None
    mix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion(Answer):
    """Cells to run next of a study, by recipe and mix, and the grid in which they were written."""

    study: Study
    grid: Path
    advice: tuple[Advice, ...]

    def to_json(self) -> dict[str, Any]:
        """The suggestion as one JSON document."""
        advice = [asdict(one) for one in self.advice]
        return {"study": self.study.name, "grid": str(self.grid), "advice": advice}

    @property
    def text(self) -> str:
        """Cells, their price, the expected precision and the next command, for the terminal."""
        lines = [line for one in self.advice for line in _lines(one)]
        next_command = f"next: orch plan {self.grid} --study {self.study.root}"
        return "\n".join([*lines, "", f"written to {self.grid}", next_command])


def suggest(study: Study, out: Path, options: SuggestOptions) -> Suggestion:
    """Choose the next cells of a study and write them to `out` as a grid.

    Raises OrchError as `advise` and `write_grid` do.
    """
    advice = advise(study, options)
    write_grid(study, advice, out)
    return Suggestion(study=study, grid=out, advice=tuple(advice))


def advise(study: Study, options: SuggestOptions) -> list[Advice]:
    """The next cells of every recipe and mix of a study (or of those named) within the budget in all.

    Raises OrchError for a study without such a recipe and mix, or a budget that buys no cell.
    """
    budget, target = options.budget, options.target
    plan = read_plan(study)
    groups = _groups(plan, options.algorithm, options.mix)
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
    rows = plan.frame.filter((pl.col("recipe") == group[0]) & (pl.col("mix") == group[1]))
    axis = data_axis(rows)
    candidates = _candidates(rows, axis, points)
    x = {name: candidates[name].to_numpy().astype(float) for name in ("params", "samples")}
    prices = candidates["hours"].to_numpy().astype(float)
    assumed_law = assumed_law_of(points, axis) if points is not None and points.height > LEAST - 1 else None
    if points is None or assumed_law is None:
        order = next_cells.pilot(x, prices, least=LEAST)
        chosen = _within([index for index in order if candidates["runs"][index] == 0], prices, budget)
        picks = _picks(candidates, chosen, [float(prices[index]) for index in chosen], [], None, group)
        return Advice(
            recipe=group[0], mix=group[1], picks=picks, before=None, after=None,
            assumed="no fit yet: a pilot along the cheap edges of the grid",
        )  # fmt: skip
    done = {
        "params": points["params_encoder"].to_numpy().astype(float),
        "samples": points[axis].to_numpy().astype(float),
    }
    repeats = np.maximum(SEEDS - candidates["runs"].to_numpy(), 0)
    choice = next_cells.choose(
        assumed_law,
        done,
        x,
        prices,
        target,
        budget=budget,
        repeats=repeats,
        check=CHECK,
        trunks=_trunks(candidates),
    )
    t = design.student(0.95, max(points.height - len(assumed_law.law.free), 1))
    return Advice(
        recipe=group[0],
        mix=group[1],
        picks=_picks(candidates, choice.chosen, choice.paid, choice.checks, (assumed_law, done), group),
        before=t * float(np.sqrt(choice.before)),
        after=t * float(np.sqrt(choice.variances[-1])) if choice.variances else None,
        assumed=assumed_law.source,
    )


def _within(order: list[int], prices: Array, budget: float) -> list[int]:
    chosen: list[int] = []
    for index in order:
        if prices[[*chosen, index]].sum() <= budget:
            chosen.append(index)
    return chosen


def _candidates(rows: pl.DataFrame, axis: str, points: pl.DataFrame | None) -> pl.DataFrame:
    """Sizes x data of a group's plan: `params`, `samples`, `model`, `hours`, `trunk`, `runs` done, seeds.

    If several lengths are planned at a data size, only the longest is a candidate.
    """
    training = (pl.col("hours_mid") - pl.col("hours_probes")) / pl.col("samples_paid")
    alone = pl.col("hours_probes") + training * pl.col("samples_seen")
    rows = with_branches(rows).with_columns(
        hours=alone, trunk=training * pl.col("branch"), samples=pl.col(axis).cast(pl.Int64)
    )
    rows = rows.filter(
        pl.col("samples_seen") == pl.col("samples_seen").max().over("model", "images", "samples")
    )
    table = rows.group_by("model", "samples", maintain_order=True).agg(
        pl.col("images", "samples_seen", "hours", "trunk").first(),
        params=pl.col("params_encoder").first(),
        open=pl.col("seed").filter(pl.col("state") == "new"),
        last=pl.col("seed").max(),
    )
    names = {"params_encoder": pl.Float64, axis: pl.Int64}
    done = points if points is not None else pl.DataFrame(schema=names)
    counts = done.group_by(*names).len("runs").cast(names)  # type: ignore[arg-type]
    joined = table.join(
        counts,
        left_on=["params", "samples"],
        right_on=list(names),
        how="left",
        maintain_order="left",
    )
    return joined.with_columns(pl.col("runs").fill_null(0).cast(pl.Int64))


def _trunks(candidates: pl.DataFrame) -> next_cells.Trunks | None:
    """What candidates that differ only in length share; None if they share nothing."""
    if not (candidates["trunk"] > 0).any():
        return None
    group = candidates.select(pl.struct("model", "images").rank("dense")).to_series().to_numpy() - 1
    return next_cells.Trunks(
        group=group.astype(int),
        price=candidates["trunk"].to_numpy().astype(float),
        runs=candidates["runs"].to_numpy().astype(int),
    )


def _picks(
    candidates: pl.DataFrame,
    chosen: Sequence[int],
    paid: Sequence[float],
    checks: Sequence[bool],
    known: tuple[AssumedLaw, dict[str, Array]] | None,
    group: Group,
) -> tuple[Pick, ...]:
    """Candidates as cells of a group: one chosen several times gets as many seeds, planned seeds first."""
    picks = []
    for index in dict.fromkeys(chosen):
        row = candidates.row(index, named=True)
        times = [at for at, other in enumerate(chosen) if other == index]
        fresh = [row["last"] + 1 + extra for extra in range(len(times))]
        expected = None
        if known is not None:
            assumed_law, done = known
            at = {"params": row["params"], "samples": float(row["samples"])}
            predicted = design.expected(assumed_law, done, target=at).prediction
            expected = (predicted.value, predicted.lo, predicted.hi) if predicted is not None else None
        picks.append(
            Pick(
                recipe=group[0],
                mix=group[1],
                model=row["model"],
                images=row["images"],
                samples_seen=row["samples_seen"],
                seeds=tuple([*row["open"], *fresh][: len(times)]),
                hours=sum(paid[at] for at in times),
                check=any(checks[at] for at in times if at < len(checks)),
                expected=expected,
            )
        )
    return tuple(picks)


def write_grid(study: Study, advice: list[Advice], out: Path) -> None:
    """Write the suggested cells as a grid of the same study; raises OrchError if its grid cannot be read.

    The axes lose their length, so that they span no cells, and each pick is an `include`, as is each cell that is
    trained already: a report contains what its study's plan contains. Plan it into the same study.
    """
    data: dict[str, Any] = load_yaml(study.grid_file).data
    origin = Path(_origin(study)).parent
    for section in ("sources", "tasks"):
        for entry in data.get(section, {}).values():
            entry["path"] = os.path.relpath(origin / entry["path"], out.resolve().parent)
    for name in ("samples_seen", "epochs", "flops"):
        data["axes"].pop(name, None)
    for name in ("exclude", "isoflop"):
        data.pop(name, None)
    data["include"] = _trained(study) + [
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


def _trained(study: Study) -> list[dict[str, Any]]:
    """The cells of the plan that are trained, as `include` entries, their seeds together.

    Controls, which train nothing, have a length of 0 in the plan; a grid must give one.
    """
    key = ["model", "recipe", "mix", "images", "samples_seen"]
    rows = read_plan(study).frame.filter(pl.col("state") != "new")
    groups = rows.group_by(key, maintain_order=True).agg("seed").rename({"recipe": "algorithm"})
    entries = groups.with_columns(pl.col("samples_seen").clip(lower_bound=1)).iter_rows(named=True)
    return [{name: value for name, value in row.items() if value} for row in entries]


def _origin(study: Study) -> str:
    return str(study.plan()["grid"])


def _lines(one: Advice) -> list[str]:
    hours = sum(pick.hours for pick in one.picks)
    gain = ""
    if one.before is not None and one.after is not None:
        gain = (
            f"; the target's 95% interval shrinks from ± {100 * one.before:.1f}% to ± {100 * one.after:.1f}%"
        )
    cells = sum(len(pick.seeds) for pick in one.picks)
    return [
        f"{one.recipe} {one.mix}: {cells} cells, {duration(hours)}{gain} ({one.assumed})",
        *(f"  {_words(pick)}" for pick in one.picks),
    ]


def _words(pick: Pick) -> str:
    loss = ""
    if pick.expected:
        value, lo, hi = pick.expected
        loss = f", expected loss {value:.4g} ({lo:.4g} to {hi:.4g})"
    return (
        f"{pick.model} {quantity(pick.images)} images, {quantity(pick.samples_seen)} seen, "
        f"seed{'s' if len(pick.seeds) > 1 else ''} {', '.join(map(str, pick.seeds))}: "
        f"{duration(pick.hours)}{loss}{', tests the form' if pick.check else ''}"
    )
