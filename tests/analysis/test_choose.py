"""Choice of form: names the truth, sees only what it is given, and predicts by the average whatever it names."""

import json

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom

from orch_analysis.fitting.fit import FitOptions, Outcome
from orch_analysis.forecast import auto as choose
from orch_analysis.forecast import one_variable
from orch_analysis.laws import LAWS
from orch_core.errors import OrchError

X = np.geomspace(1e5, 6.4e6, 13)


BROKEN = np.geomspace(1e4, 1e8, 40)


def points(y, x=X):
    return pl.DataFrame({"N": x, "err": y})


def auto(y, x=X, **options):
    return choose.auto(points(y, x), FitOptions(value="err", x={"params": "N"}, bootstrap=50, **options))


def noisy(y, noise=0.003, seed=0):
    return y * np.exp(noise * np.random.default_rng(seed).standard_normal(len(y)))


def test_names_a_break_where_the_larger_scales_show_one():
    law = LAWS["bnsl1"]
    truth = {"a": 0.02, "b": 3.0, "c0": 0.05, "c1": 0.4, "d1": 3e5, "f1": 0.3}
    found = auto(noisy(law.value({"samples": BROKEN}, truth), 0.002), BROKEN)
    assert found.law.name == "bnsl1"
    assert found.x == {"params": "N"}


def test_names_the_law_that_made_the_points():
    assert auto(noisy(20 * X**-0.4)).law.name == "power"
    offset = auto(noisy(0.2 + 200 * X**-0.6))
    assert offset.law.name == "power_offset"
    assert offset.estimates["E"] == pytest.approx(0.2, abs=0.02)


def test_a_constant_wins_where_there_is_no_trend():
    found = auto(noisy(np.full(13, 0.4), 0.03, seed=4))
    assert found.law.name == "constant"
    assert "no trend" in found.choice.message
    assert found.estimates["level"] == pytest.approx(0.4, rel=0.03)


def test_constants_are_rarely_named_a_trend():
    sets, x = 60, np.geomspace(1e5, 6.4e6, 10)
    named = [auto(noisy(np.full(10, 0.4), 0.03, seed), x).law.name for seed in range(sets)]
    assert sum(name != "constant" for name in named) <= binom.ppf(0.99, sets, 0.08)


def test_forms_are_scored_on_some_of_many_points_and_the_message_says_so():
    x = np.geomspace(1e4, 1e8, 500)
    found = auto(noisy(0.2 + 200 * x**-0.6, 0.002), x)
    assert found.law.name == "power_offset"
    assert found.n == 500
    assert "forms were scored on 200 of 500 points, evenly spaced in scale" in found.choice.message
    assert "evenly spaced" not in auto(noisy(20 * X**-0.4)).choice.message


def test_rolling_origin_and_aicc_are_what_a_few_lines_of_numpy_give():
    y = noisy(20 * X**-0.4, 0.02)
    found = {score.form: score for score in auto(y).choice.scores}
    logs, values, errors = np.log(X), np.log(y), []
    for cut in (2, 4, 8):
        small = X[-1] / cut * (1 + 1e-9) >= X
        line = np.polyfit(logs[small], values[small], 1)
        errors.append(np.mean((np.polyval(line, logs[~small]) - values[~small]) ** 2))
    assert found["power"].error == pytest.approx(np.sqrt(np.mean(errors)), rel=1e-6)
    rest = values - np.polyval(np.polyfit(logs, values, 1), logs)
    n, k = 13, 3
    aicc = n * np.log(rest @ rest / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    assert found["power"].aicc == pytest.approx(aicc, rel=1e-6)


def test_prediction_is_the_average_with_a_band_that_only_widens():
    y = noisy(0.2 + 200 * X**-0.6, 0.01)
    found = auto(y)
    plain = one_variable.forecast(X, y, [2e7])
    got = found.predict(params=2e7).row(0, named=True)
    assert got["value"] == pytest.approx(plain.value[0], rel=1e-12)
    assert got["extrapolation"] == pytest.approx(2e7 / 6.4e6)
    assert np.log(got["hi"] / got["lo"]) >= np.log(plain.hi[0] / plain.lo[0]) * (1 - 1e-9)
    assert (got["quantity"], got["predictor"], got["band"]) == ("err", "average of forecasts", "new")
    assert found.choice.widening >= 1


def test_a_curve_that_surprised_its_own_past_gets_a_wider_band():
    broken = np.where(X[8] > X, 1.0, (X / X[8]) ** -0.8) * (1 - 0.01 * np.arange(13))
    found = auto(broken)
    assert found.choice.coverage < 0.9
    assert found.choice.widening > 1.2


def test_written_and_read_back_it_predicts_the_same_bits():
    found = auto(noisy(0.2 + 200 * X**-0.6, 0.01))
    again = choose.AutoFit.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert again == found
    assert again.predict(params=2e7).equals(found.predict(params=2e7))


def test_ceiling_turns_accuracy_into_errors_and_back():
    error = noisy(0.2 + 200 * X**-0.6, 0.01)
    found, plain = auto(1 - error, ceiling=1.0), auto(error)
    assert found.law == plain.law
    here, there = (one.predict(params=2e7).row(0, named=True) for one in (found, plain))
    assert here["value"] == pytest.approx(1 - there["value"], rel=1e-9)
    assert (here["quantity"], found.value) == ("err", "1 - err")
    assumed = auto(1 - error)
    assert assumed.predict(params=2e7).equals(found.predict(params=2e7))
    assert "taken to be 1" in assumed.warnings[-1]
    percent = auto(100 * (1 - error))
    assert percent.options.ceiling is None
    assert "100 for percent" in percent.warnings[-1]


def test_bad_rows_and_few_points_are_outcomes():
    y = noisy(20 * X**-0.4)
    y[2], y[5] = np.nan, -1.0
    found = auto(y)
    assert len(found.dropped) == 2
    assert len(found.y_data) == 11
    few = auto(20 * X[:3] ** -0.4, X[:3])
    assert "without this check" in few.choice.message
    assert few.choice.origins == 0
    none = auto(np.full(13, np.nan))
    assert none.outcome is Outcome.NO_DATA
    with pytest.raises(OrchError, match="no forecast"):
        none.predict(params=1e8)
    with pytest.raises(OrchError, match="one variable"):
        choose.auto(points(y), FitOptions(value="err", x={"loss": "N", "samples": "err"}))
    with pytest.raises(OrchError, match="no column"):
        choose.auto(points(y), FitOptions(value="eror", x={"params": "N"}))
    with pytest.raises(OrchError, match="params is missing"):
        found.predict(samples=3.0)


def test_auto_of_two_variables_names_chinchilla_and_its_band_contains_the_law():
    rng = np.random.default_rng(2)
    compute = np.exp(rng.uniform(np.log(6e15), np.log(1e20), 60))
    n = np.sqrt(compute / 120) * np.exp(rng.normal(0, 0.8, 60))
    d = compute / 6 / n
    loss = (1.8 + 480 / n**0.35 + 2100 / d**0.37) * np.exp(0.002 * rng.standard_normal(60))
    table = pl.DataFrame({"N": n, "D": d, "loss": loss})
    found = choose.auto(table, FitOptions(value="loss", x={"params": "N", "samples": "D"}, bootstrap=50))
    assert found.law.name == "chinchilla"
    got = found.predict(params=5e9, samples=1e11).row(0, named=True)
    assert got["lo"] < 1.8 + 480 / 5e9**0.35 + 2100 / 1e11**0.37 < got["hi"]


def test_the_band_is_that_of_a_new_point_and_no_other():
    found = auto(noisy(0.2 + 200 * X**-0.6))
    assert found.predict(params=2e7).equals(found.predict(band="new", level=0.95, params=2e7))
    with pytest.raises(OrchError, match="single points held back"):
        found.predict(band="mean", params=2e7)
