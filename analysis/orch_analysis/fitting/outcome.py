"""How a fit, forecast, frontier or minimum of a curve ended: one word each, with its cause and remedy."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Outcome(StrEnum):
    """How an estimate ended.

    `meaning` is the cause and the remedy in general, the result's `message` in this case.
    """

    meaning: str

    def __new__(cls, word: str, meaning: str = "") -> Self:
        """A member whose text is `word`."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning = meaning
        return member

    OK = "ok", "The data determine every parameter."
    NO_DATA = "no_data", "No row can be used: check the column mapping and the rows left out."
    TOO_FEW_POINTS = "too_few_points", "Too few points or scales: add points, or use a simpler law."
    ONE_SCALE = "one_scale", "A variable has one value: add points at other values, or use a law without it."
    CONSTANT_VALUE = "constant_value", "The value is the same in all rows: check the column."
    MIXED_UNITS = "mixed_units", "A column seems to mix two units: convert it to one."
    NOT_IDENTIFIED = (
        "not_identified",
        "The data do not determine a parameter: add scales, or use a simpler law.",
    )
    AT_BOUND = "at_bound", "A parameter ended at its bound: use a law without it, or add larger scales."
    MISFIT = (
        "misfit",
        (
            "The points depart from the law by more than noise explains: "
            "use a richer law, and no band beyond the data."
        ),
    )
    NOT_CONVERGED = "not_converged", "No start converged: check the units of the columns, or use another law."
    TOO_FEW_CURVES = "too_few_curves", "An envelope needs three training curves: train more runs."
    NO_CROSSING = "no_crossing", "No two sizes cross: train more sizes, or train longer."
    EXPONENT_OUTSIDE = "exponent_outside", "An exponent is not between 0 and 1: train more sizes and lengths."
    TOO_FEW_MINIMA = "too_few_minima", "A line needs three isoFLOP minima: train more budgets or sizes."
    NO_INNER_OPTIMUM = "no_inner_optimum", "The law has no optimum inside: a coefficient or exponent is zero."
    ONE_DIRECTION = "one_direction", "Data follow from size in all runs: vary them apart."
    UNBOUNDED = "unbounded", "The loss is lowest at the edge of the sizes trained: train sizes beyond it."
    OFF_CENTRE = "off_centre", "The minimum lies near the edge of the sizes trained: train sizes beyond it."
    ASYMMETRIC = "asymmetric", "Two ways to find the minimum disagree: train sizes nearer to it."
