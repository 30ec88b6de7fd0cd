"""Choosing rows and computing columns: `where`, expressions as variables, the best of a sweep, envelopes, fixed parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from orch_analysis.fitting.options import FitOptions
from orch_analysis.fitting.points import Points
from orch_analysis.fitting.used_rows.selection import best, selected
from orch_analysis.forecast.groups import fit_groups
from orch_analysis.saved import card
from orch_analysis.tables.points_file import load_points
from orch_core.errors import OrchError

N = np.repeat(np.geomspace(1e6, 1e9, 7), 6)
SPLIT = np.tile(["train", "test"], 21)
RATE = np.tile([1e-4, 1e-4, 3e-4, 3e-4, 1e-3, 1e-3], 7)
WORSE = np.where(RATE == 3e-4, 0.0, RATE * 40) + np.where(SPLIT == "test", 0.5, 0.0)
LOSS = 5 * N**-0.1 + WORSE
TABLE = pl.DataFrame(
    {"N": N, "split": SPLIT, "lr": RATE, "eval/loss": LOSS, "acc": 1 - LOSS / 10, "C": 6 * N * 20 * N}
)


def points() -> Points:
    return load_points(TABLE)


def test_where_chooses_rows_and_names_the_others() -> None:
    options = FitOptions(value="eval/loss", x={"params": "N"}, where="split == 'train' and lr == 3e-4")
    (found,) = fit_groups("power", points(), options)
    assert found.n == 7
    assert found.estimates["slope"] == pytest.approx(-0.1)
    assert {item.reason for item in found.dropped} == {"not chosen: split == 'train' and lr == 3e-4"}
    assert len(found.dropped) == 35


def test_the_best_of_a_sweep_for_each_size_and_group() -> None:
    options = FitOptions(value="eval/loss", x={"params": "N"}, best_per=("N",))
    train, test = fit_groups("power", points(), options, by=("split",))
    assert (train.n, test.n) == (7, 7)
    assert train.estimates == pytest.approx({"A": 5.0, "slope": -0.1})
    assert test.y_data == pytest.approx(5 * np.geomspace(1e6, 1e9, 7) ** -0.1 + 0.5)
    assert train.dropped[0].reason == "not the lowest eval/loss of its N"
    accuracy = best(points(), FitOptions(value="acc", best_per=("N",)))
    assert accuracy.frame["lr"].unique().to_list() == [3e-4]


def test_the_envelope_keeps_what_nothing_cheaper_beats() -> None:
    cost, loss = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [3.0, 3.5, 2.0, 2.5, 2.0, 1.0]
    frame = pl.DataFrame({"cost": cost, "loss": loss, "params": cost}).sample(
        fraction=1, shuffle=True, seed=1
    )
    kept = best(load_points(frame), FitOptions(envelope="cost"))
    assert sorted(kept.frame["cost"]) == [1.0, 3.0, 5.0, 6.0]
    assert len(kept.dropped) == 2


def test_variables_and_values_are_computed_from_columns() -> None:
    x = {"params": "N", "samples": "C / 6 / N"}
    options = FitOptions(value="10 * (1 - acc)", x=x, where="split == 'train' and lr == 3e-4", bootstrap=0)
    (found,) = fit_groups("kaplan", points(), options)
    assert found.x_data["samples"] == pytest.approx(20 * np.geomspace(1e6, 1e9, 7))
    assert found.y_data == pytest.approx(5 * np.geomspace(1e6, 1e9, 7) ** -0.1)
    quoted = selected(points(), FitOptions(value="`eval/loss` / 2"))
    assert quoted.frame["`eval/loss` / 2"].to_list() == (TABLE["eval/loss"] / 2).to_list()


def test_sizes_in_text_are_numbers_in_expressions() -> None:
    frame = pl.DataFrame({"size": ["1M", "10M"], "tokens": ["1,000,000", "2,000,000"]})
    computed = selected(Points(frame=frame), FitOptions(x={"compute": "6 * size * tokens"}))
    assert computed.frame["6 * size * tokens"].to_list() == [6e12, 1.2e14]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"where": "split == 'trian'"}, "no row of table has split == 'trian'"),
        ({"where": "spilt == 'train'"}, "no column 'spilt'"),
        ({"where": "N"}, "'N' is a number, where the whole must be a comparison"),
        ({"where": "__import__('os').system('true')"}, "is not allowed here"),
        ({"value": "1 - accuracy1"}, "no column 'accuracy1'"),
        ({"value": "1 - split"}, "'split' is a text"),
        ({"best_per": ("M",)}, "no column 'M'"),
        ({"fix": {"E": 0.0}}, "no parameter E"),
    ],
)
def test_mistakes_are_named(options: dict, says: str) -> None:
    asked = FitOptions(**{"value": "eval/loss", "x": {"params": "N"}, "bootstrap": 0} | options)
    with pytest.raises(OrchError, match=says.replace("(", r"\(").replace(")", r"\)")):
        fit_groups("power", points(), asked)


def test_a_parameter_is_held_and_the_card_repeats_the_fit() -> None:
    options = FitOptions(value="eval/loss", x={"params": "N"}, fix={"E": 0.0}, best_per=("N",), bootstrap=50)
    train, _ = fit_groups("power_offset", points(), options, by=("split",))
    assert train.estimates["E"] == 0
    assert train.estimates["alpha"] == pytest.approx(0.1, rel=1e-4)
    told = card.make(train, {"sha256": points().sha256})
    assert told["data"]["filters"] == "the best value for each N"
    again = card.refit(told, points())
    assert (again.estimates, again.intervals) == (train.estimates, train.intervals)
    assert replace(again, dropped=()).to_json() == replace(train, dropped=()).to_json()
