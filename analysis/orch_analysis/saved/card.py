"""The provenance card of a fit: everything that must be known to judge it, and to repeat it bit for bit.

Its four parts are the groups of the checklist of Li, Kudugunta & Zettlemoyer 2025, "(Mis)Fitting: A Survey of
Scaling Laws" (arXiv:2502.18969): form, training setup, data collection, fitting.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from orch_analysis import laws
from orch_analysis.fitting.estimates import Fit
from orch_analysis.fitting.fit import STARTS, fit
from orch_analysis.fitting.options import FitOptions
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.plain import from_plain
from orch_analysis.fitting.points import Points
from orch_analysis.fitting.used_rows.selection import best, selected
from orch_analysis.fitting.used_rows.variables import COMPUTE
from orch_analysis.forecast.groups import groups
from orch_core.errors import OrchError

PACKAGES = ("orch-scaling", "numpy", "scipy", "polars")
OPTIMISER = {
    "t": "closed form",
    "else": "grid of the non-linear parameters with closed-form linear ones, then trust-region Newton steps",
}
INTERVALS = {
    "none": "none",
    "t": "Student's t: residuals redrawn around the fit, or the closed form of a line",
    "percentile": "percentiles of refits to resampled rows or clusters",
    "bca": "bias-corrected and accelerated bootstrap (Efron 1987)",
    "parametric": "percentiles of refits to values redrawn from their standard errors",
}


def make(fitted: Fit, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a fit as JSON values.

    `provenance` adds what the fit cannot know: `source` and `sha256` of the table, and if there are any
    `filters` (how rows were chosen), `counting` (how a variable was counted, by name), `setup` (training
    recipe, seeds, checkpoints) and `command`. What is left out is said to be not stated.
    """
    law, counting = fitted.law, dict(provenance.get("counting", {}))
    saved = fitted.to_json(draws=False)
    return {
        "form": {
            **{name: saved[name] for name in ("law", "formula", "fixed", "file")},
            "parameters": {name: law.units.get(name, "1") for name in law.free},
            "source": law.source,
        },
        "setup": provenance.get("setup", "not stated"),
        "data": {
            "source": provenance.get("source", "not stated"),
            "sha256": provenance.get("sha256", "not stated"),
            "group": saved["group"],
            "value": saved["value"],
            "variables": {
                name: {
                    "column": column,
                    "counted": counting.get(name, _counted(column)),
                    "range": saved["ranges"].get(name, []),
                }
                for name, column in saved["x"].items()
            },
            "filters": provenance.get("filters", _filters(fitted.options)),
            "points": fitted.n,
            "left_out": dict(Counter(item.reason for item in fitted.dropped)),
        },
        "fitting": {
            **{
                name: saved[name]
                for name in ("loss", "delta", "objective", "outcome", "lack_of_fit", "start_agreement")
            },
            "residuals": saved["link"],
            "options": saved["options"],
            "optimiser": OPTIMISER["t" if fitted.line else "else"],
            "starts": 0 if fitted.start_agreement is None else STARTS,
            "interval": INTERVALS[fitted.interval],
            "predicts_beyond": (
                f"the band is that of this law; beyond {_largest(fitted)} it is an extrapolation"
            ),
        },
        "command": provenance.get("command", "not stated"),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def refit(card: Mapping[str, Any], points: Points, *, trust: bool = False) -> Fit:
    """Repeat the fit of a card on its table; the same table and versions give the same bits.

    Raises OrchError for another table than the card's, and for a law in a Python file unless
    `trust` allows to execute it.
    """
    data = card["data"]
    if points.sha256 != data["sha256"]:
        msg = (
            f"{points.source} is not the table of the card: "
            f"sha256 {points.sha256[:12]} instead of {data['sha256'][:12]}"
        )
        raise OrchError(msg, hint="fit again from the original table")
    law = laws.restored(card["form"], tuple(data["variables"]), trust=trust)
    options = from_plain(FitOptions, card["fitting"]["options"])
    by = list(data["group"])
    chosen = best(selected(points, options), options, by)
    rows = {tuple(group.items()): part for group, part in groups(chosen, by)}
    return fit(law, rows[tuple(data["group"].items())], options, group=data["group"])


def markdown(card: Mapping[str, Any], fitted: Fit) -> str:
    """The card as a page: estimates first, then the four parts of the checklist."""
    where = ", ".join(f"{name} = {value}" for name, value in fitted.group.items())
    lines = [
        f"# {card['form']['law']}{' for ' + where if where else ''}",
        "",
        f"`{card['form']['formula']}`",
        "",
    ]
    lines += [f"Outcome: **{fitted.outcome}**. {fitted.message}.", ""]
    if fitted.estimates:
        lines += [f"| parameter | estimate | {fitted.level:.0%} interval |", "|---|---|---|"]
        for name, value in fitted.estimates.items():
            lo, hi = fitted.intervals.get(name, (math.nan, math.nan))
            shown = (
                f"{lo:.6g} to {hi:.6g}"
                if name in fitted.intervals
                else "fixed"
                if name in fitted.law.fixed
                else "-"
            )
            bound = fitted.bound_of(name)
            estimate = f"{value:.8g}" if bound is None else f"{bound:g} (at the bound)"
            lines.append(f"| {name} | {estimate} | {shown} |")
        lines.append("")
    lines += [f"- {item.words}" for item in fitted.identifiability.values()]
    lines += [f"- warning: {warning}" for warning in fitted.warnings]
    for title in ("form", "setup", "data", "fitting", "versions"):
        lines += ["", f"## {title.capitalize()}", ""]
        part = card[title]
        lines += (
            [f"- {key}: {_text(value)}" for key, value in part.items()]
            if isinstance(part, Mapping)
            else [str(part)]
        )
    return "\n".join([*lines, "", f"Command: `{card['command']}`", ""])


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_text(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return " to ".join(_text(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _filters(options: FitOptions) -> str:
    """How rows were chosen by the options of the fit."""
    said = [options.where] if options.where else []
    said += [f"the best value for each {', '.join(options.best_per)}"] if options.best_per else []
    said += [f"the envelope along {options.envelope}"] if options.envelope else []
    return "; ".join(said) or "none"


def _counted(column: str | float) -> str:
    if column == COMPUTE:
        return "6 FLOPs per parameter and sample"
    return f"column {column}, as given" if isinstance(column, str) else f"{column:g} for every row"


def _largest(fitted: Fit) -> str:
    if fitted.outcome is Outcome.NO_DATA:
        return "nothing"
    return ", ".join(f"{name} = {hi:.4g}" for name, (_, hi) in fitted.ranges.items())


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
