"""Scaling benefits in a report: over tasks, for a new task, and beside factors; sentences and tables."""

from __future__ import annotations

import polars as pl

from orch_analysis.benefits.pooled import BenefitAnalysis
from orch_analysis.benefits.task_benefits import BENEFITS, GROUP
from orch_analysis.reports.blocks.page_figures import Drawn
from orch_analysis.reports.page import Answer, Block, Section, Text
from orch_analysis.tables.export import Table
from orch_analysis.tasks.factors import label_of
from orch_core.formatting import interval, listed, number, p_value, plural

SHOWN = (
    "log_auc",
    "log_error",
)  # definitions in the answers: the published one, and the one without a ceiling's effect
PREFERRED = "log_error"
ALPHA = 0.05


def benefit_answers(found: BenefitAnalysis, axis: str) -> list[Answer]:
    """Whether scaling pays on average and for a new task, and which factors moderate it by any definition."""
    main = found.along(axis)
    if main.pooled.is_empty():
        return []
    return [_pooled_answer(main.pooled, axis), *([_factor_answer(main)] if main.moderators.height else [])]


def benefit_section(
    found: BenefitAnalysis, axis: str, drawn: Drawn, pooled: tuple[str, ...], moderators: tuple[str, ...]
) -> Section:
    """The definitions, figures, and tables of means and moderators; pooled, moderators: their files."""
    text = (
        f"A scaling benefit is the slope of a score along the logarithm of {axis}, one per task. Three "
        "scores are used, because a task near AUC 1 cannot gain much in log AUC and can still halve its "
        "error. Means over tasks are those of a random-effects meta-analysis (restricted maximum "
        "likelihood, Knapp and Hartung's intervals); the prediction interval is that of the benefit of a "
        "new task from the same population; I² is the share of the variance between tasks that is not "
        "noise. Benefits near the mean of their group are more plausible than extreme ones: shrunken "
        "estimates say by how much."
    )
    blocks: list[Block] = [
        Text(paragraphs=(text,)),
        *drawn.of("benefits"),
        _pooled_table(found.pooled, pooled),
        _moderator_table(found.along(axis).moderators, moderators),
        _specification_table(found.specifications, moderators),
    ]
    return Section(id="benefits", title="Scaling benefits over tasks", blocks=blocks)


def share(value: float) -> str:
    """A share in percent without decimals."""
    return f"{value:.0%}"


def group_name(row: dict[str, object]) -> str:
    """Algorithm, mix and protocol of a row in one name."""
    return " · ".join(str(row[key]) for key in GROUP if row[key]) or "all"


def _pooled_answer(pooled: pl.DataFrame, axis: str) -> Answer:
    rows = {
        (group_name(row), row["benefit"]): row
        for row in pooled.iter_rows(named=True)
        if row["benefit"] in SHOWN
    }
    main = {name: row for (name, benefit), row in rows.items() if benefit == PREFERRED}
    paying = [name for name, row in main.items() if row["lo"] > 0]
    sure = [name for name in paying if main[name]["prediction_lo"] > 0]
    tasks = max(row["tasks"] for row in rows.values())
    relative = " relative to the untrained control" if pooled["net"].any() else ""
    rest = [name for name in main if name not in paying]
    claim = f"On average over {plural(tasks, 'task')}, scores{relative} rise with {axis} "
    claim += f"for {listed(paying) or 'no group'}"
    claim += f", not clearly for {listed(rest)}." if paying and rest else "."
    if sure:
        claim += f" A new task can be expected to gain for {listed(sure)}."
    elif paying:
        claim += " For a new task, the 95% prediction interval of the benefit includes zero."
    parts = []
    for (name, benefit), row in rows.items():
        ends = f"[{number(row['prediction_lo'], 3)}, {number(row['prediction_hi'], 3)}]"
        parts.append(
            f"{name}, {BENEFITS[benefit].label}: "
            f"{interval(row['mean'], row['lo'], row['hi'], 4, signed=True)}, new task {ends}, I² "
            f"{share(row['i2'])}"
        )
    numbers = (
        f"Mean slopes with 95% intervals, and 95% prediction intervals of a new task. {'; '.join(parts)}."
    )
    return Answer(
        verdict="yes" if len(paying) == len(main) else "unclear" if paying else "no",
        claim=claim,
        numbers=numbers,
    )


def _factor_answer(found: BenefitAnalysis) -> Answer:
    beside = found.moderators
    survivors = surviving(found.specifications)
    flips = [name for name in beside["factor"].unique(maintain_order=True) if _flips(beside, name)]
    count = found.specifications.height
    claim = (
        f"{listed([label_of(name) for name in survivors]) or 'No factor'} "
        f"{'moderates' if len(survivors) < 2 else 'moderate'} the benefit whatever the definition, axis, "
        "group and task left out."
    )
    if flips:
        verb = "changes" if len(flips) == 1 else "change"
        names = listed([label_of(name) for name in flips])
        claim += f" The sign of {names} {verb} with the definition of the benefit."
    most = max(found.specifications["specifications"])
    parts = [f"{plural(count, 'factor')}, up to {plural(most, 'specification')} each."]
    for name in dict.fromkeys([*flips, *survivors]):
        rows = beside.filter(pl.col("factor") == name, pl.col("benefit").is_in(SHOWN))
        shown = [
            f"{BENEFITS[row['benefit']].label} "
            f"{interval(row['per_sd'], row['lo'], row['hi'], 4, signed=True)} "
            f"(p {p_value(row['p_permutation'])})"
            for row in rows.filter(pl.col("algorithm") == rows["algorithm"][0]).iter_rows(named=True)
        ]
        parts.append(
            f"{label_of(name)}, per standard deviation, {group_name(rows.row(0, named=True))}: "
            f"{listed(shown)}."
        )
    rule = (
        "p by permutation of the tasks; a factor survives if Holm's p of its median score is below .05 and "
        "one sign holds in at least 90% of its specifications."
    )
    numbers = " ".join([*parts, rule])
    return Answer(verdict="yes" if survivors else "unclear", claim=claim, numbers=numbers)


def surviving(specifications: pl.DataFrame) -> list[str]:
    """Factors with one sign in 90% of specifications and a joint p below .05, corrected by Holm."""
    ordered = specifications.sort("p_joint")
    kept, worst = [], 0.0
    for rank, row in enumerate(ordered.iter_rows(named=True)):
        worst = max(worst, row["p_joint"] * (ordered.height - rank))
        one_sign = max(row["share_positive"], 1 - row["share_positive"]) >= 0.9
        if worst < ALPHA and one_sign:
            kept.append(row["factor"])
    return kept


def _flips(beside: pl.DataFrame, name: str) -> bool:
    """Whether in a group the factor raises the benefit by a definition and lowers it by another, p < .05."""
    clear = beside.filter(pl.col("factor") == name, pl.col("p_permutation") < ALPHA)
    signs = clear.group_by(GROUP).agg(low=(pl.col("per_sd") < 0).any(), high=(pl.col("per_sd") > 0).any())
    return bool((signs["low"] & signs["high"]).any())


def _pooled_table(pooled: pl.DataFrame, files: tuple[str, ...]) -> Table:
    rows = list(pooled.iter_rows(named=True))
    body = [
        (group_name(row), BENEFITS[row["benefit"]].label, row["axis"], "yes" if row["net"] else "no",
         str(row["tasks"]), interval(row["mean"], row["lo"], row["hi"], 4, signed=True),
         number(row["tau"], 4), share(row["i2"]),
         f"[{number(row['prediction_lo'], 4)}, {number(row['prediction_hi'], 4)}]")
        for row in rows
    ]  # fmt: skip
    return Table(
        name="table-benefits", title="Mean benefit over tasks.", files=files, rows=tuple(body), words=4,
        note="τ: standard deviation of the true benefits between tasks. Bold: the mean's interval excludes "
        "zero.",
        head=(
            "group", "benefit", "along", "net of control", "tasks", "mean [95%]", "τ", "I²", "new task [95%]",
        ),
        strong=frozenset(index for index, row in enumerate(rows) if row["lo"] > 0 or row["hi"] < 0),
    )  # fmt: skip


def _moderator_table(beside: pl.DataFrame, files: tuple[str, ...]) -> Table:
    rows = list(beside.iter_rows(named=True))
    body = [
        (label_of(row["factor"]), group_name(row), BENEFITS[row["benefit"]].label, str(row["tasks"]),
         interval(row["per_sd"], row["lo"], row["hi"], 4, signed=True), p_value(row["p_permutation"]),
         share(row["share_of_specifications"]))
        for row in rows
    ]  # fmt: skip
    return Table(
        name="table-moderators", title="Change of the benefit per standard deviation of a factor.",
        files=files, rows=tuple(body), words=3, folded=True,
        note="Meta-regression on one factor at a time. p: permutations of the tasks. Last column: share of "
        "all specifications of the factor (definition, axis, group, one task left out) with the same sign "
        "and p < .05. Bold: p < .05, not corrected.",
        head=("factor", "group", "benefit", "tasks", "per sd [95%]", "p", "specifications"),
        strong=frozenset(index for index, row in enumerate(rows) if row["p_permutation"] < ALPHA),
    )  # fmt: skip


def _specification_table(specifications: pl.DataFrame, files: tuple[str, ...]) -> Table:
    rows = list(specifications.iter_rows(named=True))
    survivors = surviving(specifications)
    body = [
        (label_of(row["factor"]), str(row["tasks"]), str(row["specifications"]), share(row["share_positive"]),
         share(row["share_significant"]), number(row["median_score"], 2, signed=True),
         p_value(row["p_joint"]))
        for row in rows
    ]  # fmt: skip
    return Table(
        name="table-specifications", title="Factors over all specifications.", files=files,
        rows=tuple(body), words=1,
        note="Joint p: the median score beside those under 1,999 permutations of the tasks, not corrected "
        "for the number of factors. Bold: survives Holm's correction with one sign in 90% of the "
        "specifications.",
        head=("factor", "tasks", "specifications", "positive", "p < .05", "median score", "joint p"),
        strong=frozenset(index for index, row in enumerate(rows) if row["factor"] in survivors),
    )  # fmt: skip
