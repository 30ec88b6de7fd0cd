"""The cells of a study to run next: those that most reduce a forecast's expected error at a target."""

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
from orch_analysis.design import next_cells
from orch_analysis.design.next_cells import PILOT, Candidates, Choice, Trunks
from orch_analysis.design.precision import Group, data_axis
from orch_analysis.forecast.kriging import Kriging, calibration, krige, prior
from orch_analysis.laws.law import Array
from orch_analysis.tables.study_tables import read_results
from orch_core.errors import OrchError
from orch_core.formatting import duration, quantity
from orch_core.grid.cells import enumerate_cells
from orch_core.grid.check import located, read_grid
from orch_core.grid.trunks import with_branches
from orch_core.study.folder import Study
from orch_core.study.plan import Plan, read_plan
from orch_core.yaml import did_you_mean, load_yaml

SEEDS = 3  # at most, at one model and data size
HALF = 1.96  # half width of a 95% interval in standard deviations


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """Cells to run next of one recipe, mix, model and data size.

    hours:    of all seeds; a trunk that several picks share is counted once
    gain:     share of the variance at the target that they remove, given earlier picks
    expected: value and its 95% interval before they run, None in a pilot
    """

    recipe: str
    mix: str
    model: str
    images: int
    samples_seen: int
    seeds: tuple[int, ...]
    hours: float
    gain: float
    expected: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to run next for one recipe and mix.

    before, after: half width of the 95% interval at the target, relative to the value (for a task, to 1 -
                   AUC), without and with the picks; before is None in a pilot
    whole:  the same after the whole budget, of which the picks are the first part
    others: the same after spending the hours in other orders, by name; empty without `compare`
    basis:  the runs that the advice is based on; notes: limits of the advice
    """

    recipe: str
    mix: str
    picks: tuple[Pick, ...]
    before: float | None
    after: float
    whole: float
    others: Mapping[str, float]
    basis: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestOptions:
    """The target and budget of a suggestion.

    target:         `params` and `samples` at which the value is to be known
    budget:         device-hours to spend, shared equally by recipes and mixes
    rounds:         how often cells are suggested until the budget is spent; the first round's are written
    task:           the task whose AUC is to be known; None for the held-out loss
    compare:        whether to compare with cells in random order, cheapest first and largest first
    algorithm, mix: only this recipe (`mae@1`) and mix; None for all
    """

    target: Mapping[str, float]
    budget: float
    rounds: int = 1
    task: str | None = None
    compare: bool = False
    algorithm: str | None = None
    mix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion(Answer):
    """Cells to run next of a study, by recipe and mix, and the grid that contains them."""

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
    """Choose the next cells and write them to `out` as a grid; raises as `advise` and `write_grid`."""
    advice = advise(study, options)
    write_grid(study, advice, out)
    return Suggestion(study=study, grid=out, advice=tuple(advice))


def advise(study: Study, options: SuggestOptions) -> list[Advice]:
    """The next cells of every chosen recipe and mix of a study, together within the budget.

    Raises OrchError if the study has no such recipe, mix or task, or if the budget is too low for any cell.
    """
    plan = read_plan(study)
    groups = _groups(plan, options.algorithm, options.mix)
    runs = _runs(study, plan, options.task)
    advice = [_advise(plan, group, runs, options, options.budget / len(groups)) for group in groups]
    if not any(one.picks for one in advice):
        cheapest = float(plan.frame.filter(pl.col("images") > 0)["hours_mid"].min())  # type: ignore[arg-type]
        message = f"{options.budget:g} device-hours are too few: the cheapest cell takes {duration(cheapest)}"
        raise OrchError(message, hint="raise --budget, or plan smaller cells")
    return advice


def _runs(study: Study, plan: Plan, task: str | None) -> pl.DataFrame:
    """Finished cells: recipe, mix, `params_encoder`, `images`, `samples_seen`, `error`, and `sd` of its log.

    The error is the held-out loss (sd 0), or 1 - AUC of a task with the sampling error of its test set.
    """
    results = read_results(study, planned_only=False)
    if task is None:
        rows = results.pretraining.with_columns(error=pl.col("heldout_loss"), sd=pl.lit(0.0))
    else:
        known = [probe.task for probe in plan.probes]
        if task not in known:
            message = f"the plan has no task {task!r}{did_you_mean(task, known)}"
            raise OrchError(message, hint=f"it has: {', '.join(known)}")
        rows = results.probes.filter(pl.col("task") == task).with_columns(error=1 - pl.col("auc"))
        rows = rows.with_columns(sd=(pl.col("auc_se") / pl.col("error")).fill_null(0.0))
    return rows.filter((pl.col("images") > 0) & (pl.col("error") > 0))


def _groups(plan: Plan, recipe: str | None, mix: str | None) -> list[Group]:
    rows = plan.frame.filter(pl.col("images") > 0).select("recipe", "mix").unique(maintain_order=True).rows()
    groups = [(str(r), str(m)) for r, m in rows if recipe in {None, r} and mix in {None, m}]
    if not groups:
        known = ", ".join(f"{r} {m}" for r, m in rows)
        message = f"the plan has no cell of {recipe or 'any recipe'} on {mix or 'any mix'}"
        raise OrchError(message, hint=f"it has: {known}")
    return groups


def _advise(plan: Plan, group: Group, runs: pl.DataFrame, options: SuggestOptions, budget: float) -> Advice:
    rows, done = (
        frame.filter((pl.col("recipe") == group[0]) & (pl.col("mix") == group[1]))
        for frame in (plan.frame, runs)
    )
    axis = data_axis(rows)
    table = _candidates(rows, axis, done)
    x, at = _logs(table, "params", "samples"), _logs(done, "params_encoder", axis)
    target = np.log([[options.target["params"], options.target["samples"]]])
    noise = float(np.median(done["sd"].to_numpy())) if done.height else 0.0
    candidates = Candidates(
        x=x, prices=table["hours"].to_numpy().astype(float), sd=noise, trunks=_trunks(table),
        repeats=np.maximum(SEEDS - table["runs"].to_numpy(), 0),
    )  # fmt: skip
    surface, scale = prior(x.mean(axis=0)), 1.0
    if done.height:
        y, sd = np.log(done["error"].to_numpy()), done["sd"].to_numpy()
        surface, scale = krige(at, y, sd), calibration(at, y, sd)
    whole = next_cells.choose(surface, candidates, target, budget=budget)
    choice = _first_part(surface, candidates, target, whole, options, budget)
    half = HALF * scale
    expected = _expected(surface, x, half, noise, options) if done.height else None
    others: dict[str, float] = {}
    if options.compare and choice.paid:
        others = next_cells.simple_orders(surface, candidates, target, budget=sum(choice.paid))
    return Advice(
        recipe=group[0],
        mix=group[1],
        picks=_picks(table, choice, expected, group),
        before=half * float(np.sqrt(choice.before)) if done.height else None,
        after=half * float(np.sqrt(choice.after)),
        whole=half * float(np.sqrt(whole.after)),
        others={name: half * float(np.sqrt(variance)) for name, variance in others.items()},
        basis=_basis(surface, done, options),
        notes=_notes(table, done, axis, options, budget),
    )


def _first_part(
    surface: Kriging,
    candidates: Candidates,
    target: Array,
    whole: Choice,
    options: SuggestOptions,
    budget: float,
) -> Choice:
    """The cells before the next suggestion: the first part of the whole choice, or a pilot."""
    if len(surface.y):
        if options.rounds == 1:
            return whole
        return next_cells.choose(surface, candidates, target, budget=budget, spend=budget / options.rounds)
    pilot = next_cells.choose(surface, candidates, target, budget=PILOT * budget)
    return pilot if pilot.chosen else next_cells.choose(surface, candidates, target, budget=budget, spend=0.0)


def _logs(frame: pl.DataFrame, *columns: str) -> Array:
    return np.asarray(np.log(frame.select(pl.col(columns).cast(pl.Float64)).to_numpy()))


def _expected(
    surface: Kriging, x: Array, half: float, noise: float, options: SuggestOptions
) -> list[tuple[float, float, float]]:
    """Value and 95% interval of every candidate (a loss, or an AUC) before it runs."""
    mean, sd = surface.predict(x)
    spread = half * np.sqrt(sd**2 + surface.noise**2 + noise**2)
    ends = np.exp(np.stack([mean, mean - spread, mean + spread], axis=1))
    if options.task is not None:
        ends = (1 - ends)[:, [0, 2, 1]]
    return [(float(value), float(lo), float(hi)) for value, lo, hi in ends]


def _basis(surface: Kriging, done: pl.DataFrame, options: SuggestOptions) -> str:
    if not done.height:
        share = f"{100 * PILOT:g}% of the budget"
        return f"no cell has finished: a pilot for {share}, chosen by published exponents; then suggest again"
    what = "held-out losses" if options.task is None else f"AUCs of {options.task}"
    return f"from {done.height} {what}, noise {100 * surface.noise:.2g}% of a cell"


def _notes(
    table: pl.DataFrame, done: pl.DataFrame, axis: str, options: SuggestOptions, budget: float
) -> tuple[str, ...]:
    """Limits of what the cells can show about the target, as sentences."""
    target, notes = options.target, []
    able = table.filter(pl.col("hours") <= budget)
    for name, column, known in (("params", "params", "params_encoder"), ("samples", "samples", axis)):
        values = {*able[column].cast(pl.Float64).to_list(), *done[known].cast(pl.Float64).to_list()}
        if len(values) == 1 and target[name] not in values:
            notes.append(
                f"the budget affords only one value of {name}: its effect is not learnt, and the interval "
                "relies on published exponents; plan cells with another value, or raise --budget"
            )
    largest: Any = {"params": done["params_encoder"].max(), "samples": done[axis].max()}
    if done.height and all(target[name] <= float(value) for name, value in largest.items()):
        notes.append("the target is within the sizes that have finished: no extrapolation is needed")
    return tuple(notes)


def _candidates(rows: pl.DataFrame, axis: str, done: pl.DataFrame) -> pl.DataFrame:
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
    counts = done.group_by(*names).len("runs").cast(names)  # type: ignore[arg-type]
    counts = counts.rename({"params_encoder": "params", axis: "samples"})
    joined = table.join(counts, on=["params", "samples"], how="left", maintain_order="left")
    return joined.with_columns(pl.col("runs").fill_null(0).cast(pl.Int64))


def _trunks(candidates: pl.DataFrame) -> Trunks | None:
    """The trunks of candidates that differ in length only; None if there are none."""
    if not (candidates["trunk"] > 0).any():
        return None
    group = candidates.select(pl.struct("model", "images").rank("dense")).to_series().to_numpy() - 1
    return Trunks(
        group=group.astype(int),
        price=candidates["trunk"].to_numpy().astype(float),
        runs=candidates["runs"].to_numpy().astype(int),
    )


def _picks(
    table: pl.DataFrame, choice: Choice, expected: Sequence[tuple[float, float, float]] | None, group: Group
) -> tuple[Pick, ...]:
    """The chosen candidates as cells: one seed for each time that it was chosen, planned seeds first."""
    gains = -np.diff([choice.before, *choice.variances]) / choice.before
    picks = []
    for index in dict.fromkeys(choice.chosen):
        row = table.row(index, named=True)
        times = [at for at, other in enumerate(choice.chosen) if other == index]
        fresh = [row["last"] + 1 + extra for extra in range(len(times))]
        picks.append(
            Pick(
                recipe=group[0],
                mix=group[1],
                model=row["model"],
                images=row["images"],
                samples_seen=row["samples_seen"],
                seeds=tuple([*row["open"], *fresh][: len(times)]),
                hours=sum(choice.paid[at] for at in times),
                gain=float(gains[times].sum()),
                expected=None if expected is None else expected[index],
            )
        )
    return tuple(picks)


def write_grid(study: Study, advice: list[Advice], out: Path) -> None:
    """Write the suggested cells as a grid of the same study.

    The axes lose their length, so they span no cells. Each pick and each trained cell is an `include`:
    trained ones too, because a report contains the cells of its study's plan. Raises OrchError if the study's
    grid cannot be read or `out` cannot be written, GridError if the cells cannot be planned as a grid.
    """
    data: dict[str, Any] = load_yaml(study.grid_file).data
    origin = Path(study.plan()["grid"]).parent
    for section in ("sources", "tasks"):
        for entry in data.get(section, {}).values():
            entry["path"] = os.path.relpath(located(origin, entry["path"]), out.resolve().parent)
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
        raise OrchError(message, hint="choose a writable path with --out") from error
    enumerate_cells(read_grid(out))


def _trained(study: Study) -> list[dict[str, Any]]:
    """The trained cells of the plan as `include` entries by seed lists; a control's length of 0 becomes 1."""
    key = ["model", "recipe", "mix", "images", "samples_seen"]
    rows = read_plan(study).frame.filter(pl.col("state") != "new")
    groups = rows.group_by(key, maintain_order=True).agg("seed").rename({"recipe": "algorithm"})
    entries = groups.with_columns(pl.col("samples_seen").clip(lower_bound=1)).iter_rows(named=True)
    return [{name: value for name, value in row.items() if value} for row in entries]


def _lines(one: Advice) -> list[str]:
    hours = sum(pick.hours for pick in one.picks)
    cells = sum(len(pick.seeds) for pick in one.picks)
    start = "" if one.before is None else f"from ± {_percent(one.before)} "
    gains = one.whole < 0.99 * one.after
    return [
        f"{one.recipe} {one.mix}: {cells} cells, {duration(hours)} ({one.basis})",
        f"  the target's 95% interval is expected to shrink {start}to ± {_percent(one.after)}",
        *([f"  and to ± {_percent(one.whole)} with the whole budget"] if gains else []),
        *(f"  for the same hours {name}: ± {_percent(half)}" for name, half in one.others.items()),
        *(f"  note: {note}" for note in one.notes),
        *(f"  {_words(pick)}" for pick in one.picks),
    ]


def _words(pick: Pick) -> str:
    value = ""
    if pick.expected:
        middle, lo, hi = pick.expected
        value = f", expected {middle:.4g} ({lo:.4g} to {hi:.4g})"
    return (
        f"{pick.model} {quantity(pick.images)} images, {quantity(pick.samples_seen)} seen, "
        f"seed{'s' if len(pick.seeds) > 1 else ''} {', '.join(map(str, pick.seeds))}: "
        f"{duration(pick.hours)}, removes {_percent(pick.gain)} of the target's variance{value}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"
