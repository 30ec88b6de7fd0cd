"""What a study's numbers mean, in sentences: each claim with its interval and n, and its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from orch_analysis.reports.page import Answer
from orch_analysis.tables.study_tables import CONTROLS
from orch_analysis.tasks.correlation import critical_correlation
from orch_analysis.tasks.factors import LABELS
from orch_analysis.tasks.slopes import Slope, tied
from orch_core.formatting import interval, listed, number, plural

SMALL_HOURS = 24.0  # device-hours of a whole study below which its report says what so little can show
NAMED = 6  # tasks up to which the first screen gives every number
NAMES: Mapping[str, str] = {
    "mae": "MAE",
    "moco-v3": "MoCo v3",
    "dinov2": "DINOv2",
    "i-jepa": "I-JEPA",
    "simmim": "SimMIM",
    "supervised": "supervised training",
    "random": "the random control",
}


def name_of(algorithm: str) -> str:
    """The algorithm as its paper writes it."""
    return NAMES.get(algorithm, algorithm)


def main_mixes(runs: pl.DataFrame) -> dict[str, str]:
    """Per trained algorithm the mix with most cells: the one that the first screen speaks of."""
    trained = runs.filter(~pl.col("algorithm").is_in(CONTROLS))
    counts = (
        trained.group_by("algorithm", "mix")
        .len()
        .sort(["algorithm", "len", "mix"], descending=[False, True, False])
    )
    return dict(
        counts.unique("algorithm", keep="first", maintain_order=True).select("algorithm", "mix").iter_rows()
    )


def lead(loss: Sequence[Slope], net: Sequence[Slope], mixes: Mapping[str, str]) -> str:
    """Does scaling pay, for what, in one or two sentences."""
    size = [row for row in loss if row.axis == "params_encoder" and mixes.get(row.algorithm) == row.mix]
    falls = [name_of(row.algorithm) for row in size if row.differs and (row.slope or 0) < 0]
    if not size:
        first = "Too few sizes are finished to say whether scaling pays."
    elif falls:
        first = f"Larger encoders reach a lower held-out pretraining loss with {listed(falls)}."
    else:
        first = "No algorithm's held-out pretraining loss falls with encoder size by more than its interval."
    return f"{first} {_lead_tasks(net, mixes)}".strip()


def _lead_tasks(net: Sequence[Slope], mixes: Mapping[str, str]) -> str:
    rows = [row for row in net if row.axis == "params_encoder" and mixes.get(row.algorithm) == row.mix]
    if not rows:
        return ""
    parts = []
    for algorithm in sorted({row.algorithm for row in rows}):
        tasks = [row for row in rows if row.algorithm == algorithm]
        falling = sum(row.differs and (row.slope or 0) < 0 for row in tasks)
        parts.append(f"{falling} of {plural(len(tasks), 'task')} with {name_of(algorithm)}")
    return f"Downstream, size adds more to pretraining than it gives untrained encoders on {listed(parts)}."


def loss_answers(loss: Sequence[Slope], mixes: Mapping[str, str]) -> list[Answer]:
    """One answer per algorithm: how the held-out loss moves with size and with data."""
    answers = []
    for algorithm, mix in mixes.items():
        rows = {row.axis: row for row in loss if (row.algorithm, row.mix) == (algorithm, mix)}
        size = rows.get("params_encoder")
        if size is None or size.slope is None or size.interval is None:
            continue
        text = f"Slope {_slope(size)}: {_doubling(size, 'parameters', 'loss')}."
        if data := rows.get("images"):
            text += (
                f" With pretraining images: {_slope(data)}{'' if data.differs else ', which includes zero'}."
            )
        falls = size.differs and size.slope < 0
        claim = f"{name_of(algorithm)}: held-out loss {'falls' if falls else 'does not provably fall'} with encoder size."
        answers.append(Answer(verdict="yes" if falls else "unclear", claim=claim, numbers=text))
    return answers


def gain_answers(best: pl.DataFrame) -> list[Answer]:
    """One answer per algorithm: on how many tasks its largest cell beats the control and raw pixels.

    best: a row per algorithm and task, columns of `with_controls`.
    """
    answers = []
    for (algorithm,), rows in best.group_by("algorithm", maintain_order=True):
        known = rows.filter(pl.col("gain").is_not_null())
        if known.is_empty():
            continue
        wins = known.filter(pl.col("gain_lo") > 0)["task"].to_list()
        losses = known.filter(pl.col("gain_hi") < 0)["task"].to_list()
        verdict = "yes" if 2 * len(wins) > known.height else "unclear" if wins else "no"
        claim = (
            f"{name_of(str(algorithm))}: better than an untrained encoder of its size on "
            f"{len(wins)} of {plural(known.height, 'task')}{f', worse on {len(losses)}' if losses else ''}."
        )
        answers.append(Answer(verdict=verdict, claim=claim, numbers=_gain_numbers(known)))
    return answers


def _gain_numbers(known: pl.DataFrame) -> str:
    """Every task's gain, or the two ends where there are many."""
    parts = [
        f"{row['task']} {interval(row['gain'], row['gain_lo'], row['gain_hi'], signed=True)}"
        for row in known.sort("gain", descending=True).iter_rows(named=True)
    ]
    gains = "; ".join(parts) if len(parts) <= NAMED else f"from {parts[0]} to {parts[-1]}"
    row = known.row(0, named=True)
    text = f"Gain in AUC of {row['model']} on {row['images']:,.0f} images: {gains}."
    pixels = known.filter(pl.col("gain_pixels").is_not_null())
    if pixels.height:
        above = pixels.filter(pl.col("gain_pixels_lo") > 0).height
        text += f" Better than raw pixels on {above} of {pixels.height} by more than the interval."
    return text


def net_answers(slopes: Sequence[Slope], mixes: Mapping[str, str]) -> list[Answer]:
    """Whether size pays beyond what it gives an untrained encoder, and how much that alone is."""
    size = [row for row in slopes if row.axis == "params_encoder" and row.slope is not None]
    net = [row for row in size if row.value == "error_ratio" and mixes.get(row.algorithm) == row.mix]
    control = [row for row in size if row.algorithm == "random" and row.value == "error"]
    answers = []
    if net:
        falling = [row for row in net if row.differs and (row.slope or 0) < 0]
        rising = [row for row in net if row.differs and (row.slope or 0) > 0]
        counts = "; ".join(
            f"{name_of(name)} {sum(row.algorithm == name for row in falling)} of {sum(row.algorithm == name for row in net)}"
            for name in sorted({row.algorithm for row in net})
        )
        more = f" In {len(rising)} it rises: size helps the untrained encoder more." if rising else ""
        answers.append(
            Answer(
                verdict="yes" if 2 * len(falling) > len(net) else "unclear" if falling else "no",
                claim=f"Net of the control, error falls with encoder size in {len(falling)} of {plural(len(net), 'law')}.",
                numbers=f"{counts}. Slopes {_ends(net)}{more} By chance alone {number(0.05 * len(net), 1)} would differ from zero.",
            )
        )
    if control:
        improving = [row for row in control if row.differs and (row.slope or 0) < 0]
        claim = f"Untrained encoders improve with size by themselves on {len(improving)} of {plural(len(control), 'task')}."
        text = f"Slopes of their error {_ends(control)} A task's slope says little about pretraining until this is taken off."
        answers.append(Answer(verdict="aside", claim=claim, numbers=text))
    return answers


def _ends(rows: Sequence[Slope]) -> str:
    """The steepest and the flattest slope, with intervals."""
    ordered = sorted(rows, key=lambda row: row.slope or 0.0)
    named = [
        f"{row.task}{'' if row.algorithm == 'random' else ' with ' + name_of(row.algorithm)} {_slope(row)}"
        for row in (ordered[0], ordered[-1])
    ]
    return f"of {named[0]}." if len(rows) == 1 else f"from {named[0]} to {named[1]}."


def factor_answer(correlations: pl.DataFrame) -> list[Answer]:
    """How strong the correlations over tasks are, and how many survive correction."""
    tested = correlations.filter(pl.col("p").is_not_null())
    if tested.is_empty():
        return []
    most = int(tested["n"].max())  # type: ignore[arg-type]
    raw, kept = tested.filter(pl.col("p") < 0.05).height, tested.filter(pl.col("p_holm") < 0.05)
    names = listed(
        [
            f"{LABELS.get(f, f)} ({g}, r = {number(r, 2)})"
            for f, g, r in kept.select("factor", "group", "pearson").iter_rows()
        ]
    )
    claim = (
        f"Which tasks scale: {plural(kept.height, 'correlation')} of {tested.height} {'survives' if kept.height == 1 else 'survive'} correction."
        if kept.height
        else f"Which tasks scale: none of {tested.height} correlations with task factors survives correction."
    )
    text = (
        f"{names + '. ' if names else ''}{raw} of {tested.height} have p < .05 before Holm's correction. "
        f"With {most} tasks only |r| above {number(critical_correlation(most), 2)} can be told from zero at all."
    )
    return [Answer(verdict="yes" if kept.height else "unclear", claim=claim, numbers=text)]


def missing_answer(ledger: pl.DataFrame) -> list[Answer]:
    """What the first screen says of results that are not there."""
    if ledger.is_empty():
        return []
    counts = ledger["cause"].value_counts(sort=True).iter_rows()
    causes = listed([f"{count} {cause.replace('_', ' ')}" for cause, count in counts])
    claim = f"{plural(ledger.height, 'result')} of the plan {'is' if ledger.height == 1 else 'are'} not here: {causes}."
    text = "None enters a fit or a figure; the ledger below names each. `orch launch` runs what is missing."
    return [Answer(verdict="aside", claim=claim, numbers=text)]


def factor_notes(correlations: pl.DataFrame) -> list[str]:
    """What to keep in mind when reading the correlations that this table holds."""
    found = ["A correlation over tasks is as good as the number of tasks: read the intervals, not the dots."]
    if "headroom" in correlations["factor"]:
        found.append(
            "Headroom is partly arithmetic: a score that is nearly perfect cannot rise, so its slope in log AUC is small "
            "whatever was pretrained. A factor that goes along with headroom inherits its correlation."
        )
    both = correlations.filter(
        pl.col("factor").is_in(["classes", "classes_binary"]), pl.col("pearson").is_not_null()
    )
    for (group,), rows in both.group_by("group", maintain_order=True):
        r = dict(rows.select("factor", "pearson").iter_rows())
        if len(r) > 1:
            found.append(
                f"One coding choice: with a multi-label task's labels counted as classes, {group}'s r with #classes is "
                f"{number(r['classes'], 2, signed=True)}; with that task counted as binary it is "
                f"{number(r['classes_binary'], 2, signed=True)}."
            )
    return found


def caveats(runs: pl.DataFrame, best: pl.DataFrame, n_slopes: int) -> list[str]:
    """What this study cannot show, from what it holds."""
    trained = runs.filter(~pl.col("algorithm").is_in(CONTROLS))
    hours = float(runs["seconds"].fill_null(0).sum()) / 3600
    found = []
    if hours < SMALL_HOURS:
        found.append(
            f"The whole study took {number(hours, 2) if hours < 10 else number(hours, 0)} device-hours. Such a budget "
            "shows the path, falling losses and honest intervals; it is far from where the algorithms are meant to work, "
            "and its exponents are not those of long training."
        )
    if trained.group_by("algorithm", "model", "mix", "images", "samples_seen").len()["len"].max() in {
        None,
        1,
    }:
        found.append(
            "One seed per cell: a slope's interval carries the scatter around the law, but nothing here tells the scatter "
            "of seeds from a misfit of the law."
        )
    if trained["samples_seen"].n_unique() == 1 and trained["images"].n_unique() > 1:
        found.append(
            f"Every run sees {trained['samples_seen'][0]:,.0f} samples. More images therefore mean fewer repetitions of "
            "each, not longer training, and training FLOPs differ between runs by encoder size only."
        )
    elif trained["samples_seen"].n_unique() > 1 and tied(trained):
        found.append(
            "Samples seen grow with the number of images: what more images give and what longer training gives cannot be "
            "told apart."
        )
    if "random" not in runs["algorithm"].to_list():
        found.append(
            "No untrained control ran: what size alone gives is not separated from what pretraining gives."
        )
    elif best["gain"].null_count():
        found.append("Some probes have no untrained control of their size and show no gain.")
    found += [
        (
            "Intervals of an AUC are of its test images, by bootstrap; those of a gain pair both probes on the same resampled "
            "images. Neither contains what another training seed would change."
        ),
        (
            f"{n_slopes} slopes are printed, each with its own 95% interval: about {number(0.05 * n_slopes, 1)} would exclude zero "
            "if all were zero."
        ),
        "A power law has no floor. None of these slopes should be carried far beyond the sizes that were run.",
    ]
    return found


def _slope(row: Slope) -> str:
    low, high = row.interval or (None, None)
    return f"{interval(row.slope, low, high, signed=True)} (n = {row.fit.n})"


def _doubling(row: Slope, what: str, value: str) -> str:
    """Twice the size as a percentage change with its interval: 2^slope - 1."""
    if row.slope is None or row.interval is None:
        return ""
    change, low, high = (100 * (2**slope - 1) for slope in (row.slope, *row.interval))
    ends = f"[{number(low, 1, signed=True)}, {number(high, 1, signed=True)}]"
    return f"twice the {what} change the {value} by {number(change, 1, signed=True)}% {ends}"
