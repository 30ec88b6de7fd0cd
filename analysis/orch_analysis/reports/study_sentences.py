"""The sentences of a study's report: claims with their intervals and n, and limitations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import polars as pl

from orch_analysis.reports.blocks.benefit_section import benefit_answers
from orch_analysis.reports.blocks.factor_sentences import chance, factor_answer
from orch_analysis.reports.page import Answer
from orch_analysis.reports.study_findings import DeviceTime, StudyFindings
from orch_analysis.tables import CONTROLS
from orch_analysis.tasks.across_protocols import AcrossProtocols
from orch_analysis.tasks.contrasts import CATEGORIES, Contrast
from orch_analysis.tasks.slopes import AXES, LEVELS, Slope, loss_obstacle, same_axis, tied
from orch_core.formatting import count, duration, interval, listed, number, plural
from orch_core.recipes import recipe_of_algorithm
from orch_core.study.record import Cause

SMALL_HOURS = 24.0  # device-hours of a whole study below which its report warns of its small budget
NAMED = 6  # tasks up to which the answer prints every number
LOSS = "heldout_loss"
# The lead names compute only if no other axis has a slope, since it combines the other axes.
COMPUTE = "flops_train"
SHOWN = 4  # contrasts printed for each axis
PLURALS = {"algorithm": "algorithms", "mix": "mixes", "resolution": "resolutions"}


def name_of(algorithm: str) -> str:
    """The algorithm as its paper writes it."""
    recipe = recipe_of_algorithm(algorithm)
    return recipe.display if recipe else algorithm


def answers(found: StudyFindings) -> list[Answer]:
    """The answers at the top of the page: loss and tasks along every axis that the grid varies."""
    return [
        *loss_answers(found),
        *gain_answers(found.best),
        *task_answers(found.probes, found.mixes),
        *contrast_answers(found),
        *protocol_answer(found.protocols),
        *benefit_answers(found.benefits.of_mixes(found.mixes), "params_encoder"),
        *factor_answer(found.correlations["auc"], "the slopes of AUC in encoder size"),
        *missing_answer(found.results.ledger),
    ]


def lead(found: StudyFindings) -> str:
    """Whether scaling pays, along which axis and for which algorithm, in one or two sentences."""
    main = [row for row in found.loss if found.mixes.get(row.algorithm) == row.mix and row.slope is not None]
    main = [row for row in main if row.axis != COMPUTE] or main
    readout = listed(_by_axis(row for row in main if row.value != LOSS))
    main = [row for row in main if row.value == LOSS]
    if not main and readout:
        first = f"Held-out losses cannot be compared here; the held-out read-out error falls with {readout}."
    elif not main:
        first = f"No axis has the {LEVELS} finished values that a scaling law of the held-out loss needs."
    elif falls := _by_axis(main):
        first = f"Held-out pretraining loss falls with {listed(falls)}."
    else:
        axes = listed([AXES[axis] for axis in AXES if any(row.axis == axis for row in main)])
        first = f"Held-out pretraining loss does not fall with {axes} by more than its 95% interval."
    return f"{first} {_lead_tasks(found)}".strip()


def _by_axis(rows: Iterable[Slope]) -> list[str]:
    """`encoder parameters (MAE and MoCo v3)` for every axis along which something falls."""
    falling: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: list(AXES).index(row.axis)):
        if row.falls:
            falling.setdefault(row.axis, []).append(name_of(row.algorithm))
    return [f"{AXES[axis]} ({listed(names)})" for axis, names in falling.items()]


def _lead_tasks(found: StudyFindings) -> str:
    parts = []
    by_axis = _task_rows(found.probes, found.mixes)
    for axis, rows in by_axis.items():
        if axis == COMPUTE and len(by_axis) > 1:
            continue
        counts = [
            f"{sum(row.falls for row in rows if row.algorithm == name)} of "
            f"{plural(sum(row.algorithm == name for row in rows), 'task')} for {name_of(name)}"
            for name in sorted({row.algorithm for row in rows})
        ]
        parts.append(f"with {AXES[axis]} on {listed(counts)}")
    return (
        f"Downstream, the error relative to the untrained encoder falls {'; '.join(parts)}." if parts else ""
    )


def loss_answers(found: StudyFindings) -> list[Answer]:
    """One answer per algorithm: how the held-out loss changes along every axis that the grid varies."""
    answers = []
    for algorithm, mix in found.mixes.items():
        rows = [
            row
            for row in found.loss
            if (row.algorithm, row.mix) == (algorithm, mix) and row.slope is not None
        ]
        runs = found.results.pretraining.filter(pl.col("algorithm") == algorithm, pl.col("mix") == mix)
        refused = {axis: why for axis in AXES if (why := loss_obstacle(runs, axis))}
        notes = _axes_without_law(runs, {row.axis for row in rows} | refused.keys())
        refusal = "A law of the held-out loss cannot be fitted along some axes: the loss is"
        notes += dict.fromkeys(f"{refusal} {why}." for why in refused.values())
        if not rows and not notes:
            continue
        answers.append(Answer(
            verdict="yes" if any(row.falls for row in rows) else "unclear",
            claim=f"{name_of(algorithm)}: {_loss_claim(rows)}",
            numbers=" ".join([*(_loss_slope(row) for row in rows), *notes]),
        ))  # fmt: skip
    return answers


def _loss_claim(rows: Sequence[Slope]) -> str:
    parts, losses = [], [row for row in rows if row.value == LOSS]
    if not losses:
        known = [AXES[row.axis] for row in rows if row.falls]
        more = f"; held-out read-out error falls with {listed(known)}" if known else ""
        return f"a scaling law of the held-out loss cannot be fitted{more}."
    for verb, chosen in (
        ("falls with", [row for row in losses if row.falls]),
        ("rises with", [row for row in losses if row.differs and not row.falls]),
        ("shows no clear change with", [row for row in losses if not row.differs]),
    ):
        if chosen:
            parts.append(f"{verb} {listed([AXES[row.axis] for row in chosen])}")
    return f"held-out loss {', and '.join(parts)}."


def _loss_slope(row: Slope) -> str:
    if row.slope is None or row.interval is None:
        return ""
    change, low, high = (100 * (2**slope - 1) for slope in (row.slope, *row.interval))
    ends = f"[{number(low, 1, signed=True)}, {number(high, 1, signed=True)}]"
    what = "the loss" if row.value == LOSS else "the read-out error"
    shown = f"{number(change, 1, signed=True)}% {ends}"
    return f"Along {AXES[row.axis]}: slope {_slope(row)}; doubling changes {what} by {shown}."


def _axes_without_law(runs: pl.DataFrame, fitted: set[str]) -> list[str]:
    """A sentence for every axis that varies among these runs and has no slope."""
    notes = []
    for axis, words in AXES.items():
        values = runs[axis].drop_nulls().unique().sort()
        if axis in fitted or len(values) < 2:
            continue
        if same := same_axis(runs, axis):
            notes.append(
                f"{words[0].upper()}{words[1:]} change only together with {AXES[same]}: one slope describes "
                "both."
            )
        elif len(values) < LEVELS:
            shown = f"{len(values)} values ({listed([count(value) for value in values])})"
            notes.append(f"{words[0].upper()}{words[1:]} take {shown}; a slope needs {LEVELS}.")
    return notes


def gain_answers(best: pl.DataFrame) -> list[Answer]:
    """One answer per algorithm: the number of tasks on which its largest cell scores above the controls.

    best: a row per algorithm and task, columns of `with_controls`.
    """
    answers = []
    for (algorithm,), rows in best.group_by("algorithm", maintain_order=True):
        known = rows.filter(pl.col("gain").is_not_null())
        if known.is_empty():
            continue
        higher, lower = known.filter(pl.col("gain_lo") > 0).height, known.filter(pl.col("gain_hi") < 0).height
        claim = (
            f"{name_of(str(algorithm))}: test AUC is above that of an untrained encoder of the same size on "
            f"{higher} of {plural(known.height, 'task')}{f', below it on {lower}' if lower else ''}."
        )
        answers.append(Answer(verdict=_most(higher, known.height), claim=claim, numbers=_gain_numbers(known)))
    return answers


def _most(cases: int, of: int) -> Literal["yes", "no", "unclear"]:
    return "yes" if 2 * cases > of else "unclear" if cases else "no"


def _gain_numbers(known: pl.DataFrame) -> str:
    """The gain of every task, or the highest and the lowest if there are more than NAMED tasks."""
    parts = [
        f"{row['task']} {interval(row['gain'], row['gain_lo'], row['gain_hi'], signed=True)}"
        for row in known.sort("gain", descending=True).iter_rows(named=True)
    ]
    gains = "; ".join(parts) if len(parts) <= NAMED else f"from {parts[0]} to {parts[-1]}"
    row = known.row(0, named=True)
    text = f"Gain in AUC of {row['model']} on {row['images']:,.0f} images: {gains}."
    pixels = known.filter(pl.col("gain_pixels").is_not_null())
    if pixels.height:
        tasks = f"{pixels.filter(pl.col('gain_pixels_lo') > 0).height} of {plural(pixels.height, 'task')}"
        text += f" The interval of the gain over a probe of the raw pixels is above zero on {tasks}."
    return text


def _task_rows(probes: Sequence[Slope], mixes: Mapping[str, str]) -> dict[str, list[Slope]]:
    """Slopes of the relative error of main mixes by axis; of the error if the relative error has none."""
    main = [row for row in probes if mixes.get(row.algorithm) == row.mix and row.slope is not None]
    found = {}
    for axis in AXES:
        for value in ("error_ratio", "error"):
            rows = [row for row in main if (row.axis, row.value) == (axis, value)]
            if rows:
                found[axis] = rows
                break
    return found


def task_answers(probes: Sequence[Slope], mixes: Mapping[str, str]) -> list[Answer]:
    """One answer per axis with slopes of the tasks, and one for the untrained controls."""
    answers = []
    for axis, rows in _task_rows(probes, mixes).items():
        what = (
            "the error relative to the untrained encoder" if rows[0].value == "error_ratio" else "the error"
        )
        falling, rising = (sum(row.differs and row.falls is falls for row in rows) for falls in (True, False))
        counts = "; ".join(
            f"{name_of(name)} {sum(row.falls for row in rows if row.algorithm == name)} of "
            f"{sum(row.algorithm == name for row in rows)}"
            for name in sorted({row.algorithm for row in rows})
        )
        more = f" It rises in {rising}." if rising else ""
        answers.append(Answer(
            verdict=_most(falling, len(rows)),
            claim=f"Downstream, {what} falls with {AXES[axis]} in {falling} of {plural(len(rows), 'law')}.",
            numbers=f"By algorithm: {counts}.{more} {_ends(rows)} {chance(len(rows))}",
        ))  # fmt: skip
    return answers + _control_answer(probes)


def _control_answer(probes: Sequence[Slope]) -> list[Answer]:
    control = [
        row for row in probes if row.algorithm == "random" and row.value == "error" and row.slope is not None
    ]
    if not control:
        return []
    improving = sum(row.falls for row in control)
    tasks = f"{improving} of {plural(len(control), 'task')}"
    claim = f"Without pretraining, the error falls with encoder size on {tasks}."
    text = (
        f"{_ends(control)} The slope of an algorithm's error includes this effect; the slope "
        "of the relative error does not."
    )
    return [Answer(verdict="aside", claim=claim, numbers=text)]


def _ends(rows: Sequence[Slope]) -> str:
    """A sentence with the lowest and the highest slope and their intervals."""
    ordered = sorted(rows, key=lambda row: row.slope or 0.0)
    named = [
        f"{row.task}{'' if row.algorithm == 'random' else ' with ' + name_of(row.algorithm)} {_slope(row)}"
        for row in (ordered[0], ordered[-1])
    ]
    return f"Slope: {named[0]}." if len(rows) == 1 else f"Slopes range from {named[0]} to {named[1]}."


def contrast_answers(found: StudyFindings) -> list[Answer]:
    """Differences in test AUC: an answer for algorithm, mix, resolution, and any size with two values."""
    scored = found.scored.filter(~pl.col("algorithm").is_in(CONTROLS))
    answers = []
    for axis in (*CATEGORIES, *AXES):
        rows = [one for one in found.contrasts if one.axis == axis]
        if rows:
            answers.append(_contrast_answer(axis, rows))
        elif axis in CATEGORIES and scored[axis].n_unique() > 1:
            claim = f"{PLURALS[axis].capitalize()} cannot be compared: no two cells differ in {axis} alone."
            answers.append(Answer(
                verdict="aside", claim=claim,
                numbers="Plan cells with equal encoder, images, samples seen and seed to compare them.",
            ))  # fmt: skip
    return answers


def _contrast_answer(axis: str, rows: Sequence[Contrast]) -> Answer:
    ordered = sorted(rows, key=lambda one: -abs(one.mean))
    parts = [
        f"{name_of(one.second)} minus {name_of(one.first)}: "
        f"{interval(one.mean, *(one.interval or (None, None)), signed=True)} over "
        f"{plural(len(one.tasks), 'task')}, {sum(value > 0 for value in one.tasks.values())} of them above "
        f"zero; {plural(one.pairs, 'pair')} of cells per task"
        for one in ordered[:SHOWN]
    ]
    more = f" These are the {SHOWN} largest of {len(rows)} differences." if len(rows) > SHOWN else ""
    return Answer(
        verdict="yes" if any(one.differs for one in rows) else "unclear",
        claim=f"In cells that differ in {AXES.get(axis, axis)} alone, {_contrast_claim(axis, ordered)}.",
        numbers=f"Mean difference in test AUC: {'. '.join(parts)}.{more}",
    )


def _contrast_claim(axis: str, ordered: Sequence[Contrast]) -> str:
    one, *others = ordered
    if others:
        words = PLURALS.get(axis) or f"values of {AXES[axis]}"
        return f"test AUC differs in {sum(row.differs for row in ordered)} of {len(ordered)} pairs of {words}"
    first, second = name_of(one.first), name_of(one.second)
    if not one.differs:
        return f"test AUC shows no clear difference between {first} and {second}"
    return f"test AUC is {'higher' if one.mean > 0 else 'lower'} with {second} than with {first}"


def protocol_answer(rows: Sequence[AcrossProtocols]) -> list[Answer]:
    """Whether slopes and differences keep their sign under every probing protocol; none with one protocol."""
    if not rows:
        return []
    names = sorted({name for row in rows for name in row.estimates})
    parts = []
    for quantity, words in (("slope", "slopes in encoder size"), ("difference", "differences in AUC")):
        some = [row for row in rows if row.quantity == quantity]
        if some:
            kept, reversed_ = sum(row.keeps_sign for row in some), sum(row.reverses for row in some)
            parts.append(
                f"{kept} of {len(some)} {words} keep their sign, {reversed_} have clear estimates of both "
                "signs"
            )
    kept = sum(row.keeps_sign for row in rows)
    claim = f"{kept} of {len(rows)} slopes and differences have one sign under {listed(names)}."
    verdict: Literal["yes", "no", "unclear"] = (
        "yes" if kept == len(rows) else "no" if kept < len(rows) / 2 else "unclear"
    )
    return [Answer(verdict=verdict, claim=claim, numbers=f"{'; '.join(parts)}.")]


def missing_answer(ledger: pl.DataFrame) -> list[Answer]:
    """Missing results of the plan by cause, and outdated records by task."""
    outdated = pl.col("cause") == Cause.OUTDATED
    lost, old = ledger.filter(~outdated), ledger.filter(outdated)
    found = []
    if lost.height:
        why = _counted(lost["cause"])
        verb = "is" if lost.height == 1 else "are"
        claim = f"{plural(lost.height, 'result')} of the plan {verb} missing: {why}."
        text = (
            "Fits and figures do not include missing results; the table “Results left out” lists them. `orch "
            "launch` runs the missing cells and probes."
        )
        found.append(Answer(verdict="aside", claim=claim, numbers=text))
    if old.height:
        tasks = _counted(old["task"].replace("", "pretraining"))
        claim = f"{plural(old.height, 'record')} {'is' if old.height == 1 else 'are'} outdated: {tasks}."
        text = (
            "The current plan does not contain them, for example because a task's file or a probe's settings "
            "changed. Fits and figures do not include them; the table “Results left out” lists them."
        )
        found.append(Answer(verdict="aside", claim=claim, numbers=text))
    return found


def _counted(words: pl.Series) -> str:
    counts = words.value_counts(sort=True).sort("count", words.name, descending=[True, False]).iter_rows()
    return listed([f"{cases} {word.replace('_', ' ')}" for word, cases in counts])


def caveats(found: StudyFindings) -> list[str]:
    """Limitations of this study, given its cells."""
    trained = found.results.pretraining.filter(~pl.col("algorithm").is_in(CONTROLS))
    laws = len(found.loss) + len(found.probes)
    intervals = (
        "Intervals of an AUC are bootstrap intervals over its test images; those of a gain resample the same "
        "images for both probes. Neither includes the variation between training seeds."
    )
    return [
        *_budget(found.device_time),
        *_design(trained),
        *_controls(found.results.pretraining, found.best),
        intervals,
        f"The page prints {laws} slopes, each with its 95% interval. {chance(laws)}",
        "A power law has no lower limit: do not extrapolate these slopes far beyond the sizes that were run.",
    ]


def _budget(time: DeviceTime) -> list[str]:
    if time.total >= SMALL_HOURS:
        return []
    text = (
        f"The whole study took {duration(time.total)} of device time. This small budget demonstrates the "
        "workflow; the algorithms are designed for far longer training, and the exponents are not those of "
        "long training."
    )
    return [text]


def _design(trained: pl.DataFrame) -> list[str]:
    found = []
    repeats = trained.group_by("algorithm", "model", "mix", "images", "samples_seen").len()["len"].max()
    if repeats in {None, 1}:
        found.append(
            "Every cell has one seed: intervals include the scatter around a law, but variation between "
            "seeds cannot be separated from a misfit of the law."
        )
    if trained["samples_seen"].n_unique() == 1 and trained["images"].n_unique() > 1:
        found.append(
            f"Every run sees {trained['samples_seen'][0]:,.0f} samples. More images therefore mean fewer "
            "repetitions of each image, not longer training, and training FLOPs differ between runs by "
            "encoder size only."
        )
    elif trained["samples_seen"].n_unique() > 1 and tied(trained):
        found.append(
            "Samples seen grow with the number of images: the effects of more images and of longer training "
            "cannot be separated."
        )
    return found


def _controls(runs: pl.DataFrame, best: pl.DataFrame) -> list[str]:
    if "random" not in runs["algorithm"].to_list():
        return ["Without an untrained control, effects of size and of pretraining cannot be separated."]
    if best["gain"].null_count():
        return ["The gain of some probes is unknown: the study lacks an untrained control of their size."]
    return []


def _slope(row: Slope) -> str:
    low, high = row.interval or (None, None)
    shared = f" runs at {row.units} values" if row.units < row.fit.n else ""
    return f"{interval(row.slope, low, high, signed=True)} (n = {row.fit.n}{shared})"
