"""The fit against independent computations, and every bad input that the issue names."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from orch_analysis.fitting.estimates import Fit
from orch_analysis.fitting.fit import FitOptions, Outcome, fit
from orch_analysis.laws import LAWS
from orch_core.errors import OrchError

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def joint(n: int = 5, m: int = 4, sd: float = 0.01, seed: int = 0) -> pl.DataFrame:
    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(5e7, 1e10, n), np.geomspace(1e9, 3e11, m)))
    loss = LAWS["chinchilla"].value({"params": N, "samples": D}, TRUTH)
    noise = np.exp(sd * np.random.default_rng(seed).standard_normal(N.size))
    return pl.DataFrame({"params": N, "samples": D, "loss": loss * noise})


def sizes(n: int = 12, sd: float = 0.01, seed: int = 0) -> pl.DataFrame:
    x = np.geomspace(3e6, 3e8, n)
    noise = np.exp(sd * np.random.default_rng(seed).standard_normal(n))
    return pl.DataFrame({"params": x, "y": (0.05 + 20 * x**-0.3) * noise})


def test_a_line_has_the_t_intervals_of_scipy() -> None:
    table = sizes(8, sd=0.05)
    found = fit("power", table, FitOptions(value="y", level=0.9))
    x, y = np.log(table["params"].to_numpy()), np.log(table["y"].to_numpy())
    line = stats.linregress(x, y)
    half = stats.t.ppf(0.95, 6) * line.stderr
    assert found.estimates["slope"] == pytest.approx(line.slope, rel=1e-10)
    assert found.intervals["slope"] == pytest.approx((line.slope - half, line.slope + half), rel=1e-10)
    assert math.log(found.estimates["A"]) == pytest.approx(line.intercept, rel=1e-10)
    half = stats.t.ppf(0.95, 6) * line.intercept_stderr
    assert np.log(found.intervals["A"]) == pytest.approx(
        (line.intercept - half, line.intercept + half), rel=1e-10
    )
    assert found.interval == "t"


def test_the_bands_of_a_line_are_those_of_statsmodels() -> None:
    import statsmodels.api as sm

    table = sizes(9, sd=0.05)
    found = fit("power", table, FitOptions(value="y"))
    x, y = np.log(table["params"].to_numpy()), np.log(table["y"].to_numpy())
    frame = sm.OLS(y, sm.add_constant(x)).fit().get_prediction([[1.0, np.log(3e9)]]).summary_frame(alpha=0.05)
    mean, new = (found.predict(params=3e9, band=band).row(0, named=True) for band in ("mean", "new"))
    assert mean["value"] == pytest.approx(np.exp(frame["mean"][0]))
    ends = np.exp((frame["mean_ci_lower"][0], frame["mean_ci_upper"][0]))
    assert (mean["lo"], mean["hi"]) == pytest.approx(ends)
    ends = np.exp((frame["obs_ci_lower"][0], frame["obs_ci_upper"][0]))
    assert (new["lo"], new["hi"]) == pytest.approx(ends)
    assert mean["extrapolation"] == pytest.approx(10.0)


@pytest.mark.parametrize("delta", [1e-3, 0.01, 0.1])
def test_no_scipy_start_gets_below_the_objective(delta: float) -> None:
    table = joint()
    found = fit("chinchilla", table, FitOptions(value="loss", huber_delta=delta, bootstrap=0))
    N, D, y = (np.log(table[name].to_numpy()) for name in ("params", "samples", "loss"))

    def objective(p: np.ndarray) -> float:
        model = special.logsumexp([np.full_like(N, p[0]), p[1] - p[3] * N, p[2] - p[4] * D], axis=0)
        return float(special.huber(delta, model - y).sum())

    p = found.estimates
    own = np.array([np.log(p["E"]), np.log(p["A"]), np.log(p["B"]), p["alpha"], p["beta"]])
    assert objective(own) == pytest.approx(found.objective, rel=1e-9)
    rng = np.random.default_rng(0)
    for _ in range(10):
        start = own + rng.normal(0, [0.2, 1, 1, 0.05, 0.05])
        other = optimize.minimize(objective, start, method="BFGS")
        assert other.fun >= found.objective * (1 - 1e-7)


@pytest.mark.parametrize("loss", ["l2", "mse"])
def test_least_squares_are_those_of_scipy(loss: str) -> None:
    table = sizes(20)
    found = fit("power_offset", table, FitOptions(value="y", loss=loss, bootstrap=0))
    x, y = table["params"].to_numpy(), table["y"].to_numpy()

    def residuals(p: np.ndarray) -> np.ndarray:
        model = np.exp(p[0]) + np.exp(p[1] - p[2] * np.log(x))
        return model - y if loss == "mse" else np.log(model / y)

    other = optimize.least_squares(residuals, [np.log(0.05), 3, 0.3], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert found.estimates["alpha"] == pytest.approx(other.x[2], rel=1e-5)
    assert found.objective == pytest.approx(other.cost, rel=1e-8)


@settings(max_examples=15, deadline=None)
@given(unit=st.floats(1e-6, 1e6), scale=st.floats(1e-3, 1e3))
def test_units_do_not_matter(unit: float, scale: float) -> None:
    """Counting sizes in other units and values on another scale moves A and E, never the exponent."""
    table = sizes(15)
    moved = table.with_columns(pl.col("params") * unit, pl.col("y") * scale)
    here = fit("power_offset", table, FitOptions(value="y", bootstrap=0)).estimates
    there = fit("power_offset", moved, FitOptions(value="y", bootstrap=0)).estimates
    assert there["alpha"] == pytest.approx(here["alpha"], rel=1e-4)
    assert there["E"] == pytest.approx(here["E"] * scale, rel=1e-4)
    assert there["A"] == pytest.approx(here["A"] * scale * unit ** here["alpha"], rel=1e-2)


def test_weights_are_repetitions() -> None:
    table = sizes(12).with_columns(w=pl.Series([1, 2, 3] * 4))
    twice = pl.concat([table.with_columns(copy=pl.lit(i)).filter(pl.col("w") > i) for i in range(3)])
    weighted = fit("power_offset", table, FitOptions(value="y", loss="l2", weights="w", bootstrap=0))
    repeated = fit("power_offset", twice, FitOptions(value="y", loss="l2", bootstrap=0))
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-9)
    assert weighted.estimates["alpha"] == pytest.approx(repeated.estimates["alpha"], rel=1e-6)


def test_huber_ignores_what_least_squares_follows() -> None:
    table = joint(sd=0.003)
    spoilt = table.with_columns(
        loss=pl.when(pl.int_range(pl.len()) == 3).then(2 * pl.col("loss")).otherwise("loss")
    )
    robust = fit("chinchilla", spoilt, FitOptions(value="loss", bootstrap=0)).estimates["alpha"]
    plain = fit("chinchilla", spoilt, FitOptions(value="loss", loss="l2", bootstrap=0)).estimates["alpha"]
    assert abs(robust - 0.35) < 0.02 < abs(plain - 0.35)


def test_automatic_delta_follows_the_noise() -> None:
    """Huber's delta is 1.345 sd of the noise, here within the sampling error of a median of 240 residuals."""
    for sd in (0.003, 0.03):
        found = fit("chinchilla", joint(20, 12, sd=sd), FitOptions(value="loss", bootstrap=0))
        assert found.delta == pytest.approx(1.345 * sd, rel=0.25)


def test_compute_is_counted_when_a_law_needs_it() -> None:
    from orch_analysis.laws.law import Law

    law = Law(
        name="c", formula="A * compute^-b", params=("A", "b"), x=("compute",), source="test",
        f=lambda x, p: p["A"] * x["compute"] ** -p["b"], linear=("A",), bounds={"b": (0.0, 2.0)},
    )  # fmt: skip
    table = joint().with_columns(y=3 * (6 * pl.col("params") * pl.col("samples")) ** -0.1)
    found = fit(law, table, FitOptions(value="y", x={"params": "params", "samples": "samples"}, bootstrap=0))
    assert found.estimates["b"] == pytest.approx(0.1, rel=1e-6)
    assert found.x == {"compute": "6 * params * samples"}


def test_a_number_may_stand_for_a_column() -> None:
    x = np.geomspace(1e5, 1e8, 20)
    truth = {"E": 0.1, "x_half": 3e6, "alpha": 0.4}
    score = LAWS["accuracy"].value({"params": x, "classes": np.full(20, 8.0)}, truth)
    found = fit(
        "accuracy",
        pl.DataFrame({"N": x, "acc": score}),
        FitOptions(value="acc", x={"params": "N", "classes": 8}, bootstrap=0),
    )
    assert found.estimates == pytest.approx(truth, rel=1e-4)


def bad(rows: pl.DataFrame, law: str = "power_offset") -> Fit:
    found = fit(law, rows, FitOptions(value="y", bootstrap=20))
    assert found.message
    return found


def test_fewer_points_than_parameters() -> None:
    found = bad(sizes(3))
    assert found.outcome == Outcome.TOO_FEW_POINTS
    assert found.estimates == {}
    assert "at least 4" in found.message
    with pytest.raises(OrchError, match="no estimates"):
        found.predict(params=1e9)


def test_replicates_are_not_scales() -> None:
    rows = pl.DataFrame({"params": [1e6, 1e8] * 6, "y": np.linspace(0.5, 0.2, 12)})
    assert bad(rows).outcome == Outcome.TOO_FEW_POINTS
    assert "2 distinct scales" in bad(rows).message


def test_constant_values() -> None:
    found = bad(sizes().with_columns(y=pl.lit(0.3)))
    assert found.outcome == Outcome.CONSTANT_VALUE
    assert found.estimates == {}


def test_one_scale_only() -> None:
    found = bad(sizes().with_columns(params=pl.lit(1e6)))
    assert found.outcome == Outcome.ONE_SCALE
    assert "params = 1e+06" in found.message
    table = joint().filter(pl.col("samples") == joint()["samples"][0])
    assert fit("chinchilla", table, FitOptions(value="loss")).outcome == Outcome.ONE_SCALE


def test_values_that_are_not_monotone_are_fitted_and_flagged() -> None:
    rows = sizes().with_columns(
        y=pl.Series([0.5, 0.4, 0.45, 0.3, 0.35, 0.2, 0.25, 0.15, 0.2, 0.1, 0.12, 0.09])
    )
    assert "not monotone" in " ".join(bad(rows).warnings)


def test_rising_losses_do_not_look_like_a_law() -> None:
    found = bad(sizes().with_columns(y=pl.Series(np.linspace(0.1, 0.5, 12))))
    assert found.outcome is Outcome.MISFIT
    assert "; at bound: " in found.message or "; not identified: " in found.message


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("params", 0.0, "params is not positive"),
        ("params", -1e6, "params is not positive"),
        ("params", math.nan, "params is not a number"),
        ("params", math.inf, "infinite"),
        ("y", math.nan, "y is not a number"),
        ("y", math.inf, "infinite"),
        ("y", -0.1, "y is not positive"),
        ("y", None, "y is missing"),
    ],
)
def test_bad_rows_are_left_out_by_name(column: str, value: float | None, reason: str) -> None:
    rows = sizes()
    values = rows[column].to_list()
    values[4] = value
    found = bad(rows.with_columns(pl.Series(column, values, dtype=pl.Float64)))
    assert [item.row for item in found.dropped] == [5]
    assert reason in found.dropped[0].reason
    assert found.n == 11
    clean = fit("power_offset", rows.filter(pl.int_range(pl.len()) != 4), FitOptions(value="y", bootstrap=20))
    assert found.estimates == clean.estimates


def test_text_in_a_number_column_is_left_out() -> None:
    rows = sizes().with_columns(y=pl.Series([*map(str, sizes()["y"][:-1]), "n/a"]))
    assert [item.row for item in bad(rows).dropped] == [12]


def test_duplicated_rows_count_once() -> None:
    found = bad(pl.concat([sizes(), sizes()[:2]]))
    assert [item.row for item in found.dropped] == [13, 14]
    assert "duplicate" in found.dropped[0].reason
    assert found.estimates == bad(sizes()).estimates


def test_mixed_units() -> None:
    counts = sizes().with_columns(
        params=pl.when(pl.int_range(pl.len()) < 5).then(pl.col("params") / 1e6).otherwise("params")
    )
    assert bad(counts).outcome == Outcome.MIXED_UNITS
    percent = sizes().with_columns(
        y=pl.when(pl.int_range(pl.len()) < 5).then(pl.col("y") * 100).otherwise("y")
    )
    assert bad(percent).outcome == Outcome.MIXED_UNITS
    assert "percentages" in bad(percent).message
    assert bad(percent).estimates == {}


def test_percentages_are_not_fractions() -> None:
    rows = pl.DataFrame({"params": np.geomspace(1e6, 1e8, 8), "y": np.linspace(80, 95, 8)})
    found = bad(rows, "auc")
    assert found.outcome == Outcome.NO_DATA
    assert "percentage" in found.message


def test_no_rows() -> None:
    assert bad(sizes()[:0]).outcome == Outcome.NO_DATA


def test_unknown_columns_are_answered_with_the_nearest() -> None:
    with pytest.raises(OrchError, match="did you mean 'params'"):
        fit("power", sizes(), FitOptions(value="y", x={"params": "param"}))
    with pytest.raises(OrchError, match="no column 'loss'"):
        fit("power", sizes(), FitOptions(value="loss"))
    with pytest.raises(OrchError, match="does not use n"):
        fit("chinchilla", joint(), FitOptions(value="loss", x={"params": "params", "n": "samples"}))


@pytest.mark.parametrize("setting", [{"huber_delta": 0.0}, {"level": 1.0}, {"bootstrap": -1}])
def test_impossible_settings(setting: dict[str, float]) -> None:
    with pytest.raises(OrchError):
        fit("power_offset", sizes(), FitOptions(value="y", **setting))


def test_a_pure_power_law_has_no_offset_to_find() -> None:
    x = np.geomspace(1e6, 1e9, 20)
    noise = np.exp(0.01 * np.random.default_rng(3).standard_normal(20))
    found = fit(
        "power_offset",
        pl.DataFrame({"params": x, "y": 5 * x**-0.3 * noise}),
        FitOptions(value="y", bootstrap=100),
    )
    assert found.outcome in {Outcome.AT_BOUND, Outcome.NOT_IDENTIFIED}
    assert "E" in found.message


def test_estimates_that_their_draws_do_not_come_back_to_are_flagged() -> None:
    sizes, samples = (
        part.ravel() for part in np.meshgrid(np.geomspace(1e7, 1e9, 8), np.geomspace(2e8, 4e11, 16))
    )
    table = pl.DataFrame({"samples": samples, "loss": 1.69 + 406.4 / sizes**0.34 + 410.7 / samples**0.28})
    found = fit(
        "m4", table, FitOptions(value="loss", bootstrap=50)
    )  # of the wrong form: size differs, and it knows none
    low, high = found.intervals["beta"]
    assert not low <= found.estimates["beta"] <= high
    assert any("beta" in text and "rely on neither" in text for text in found.warnings)
    assert not any(
        "outside" in text
        for text in fit("chinchilla", joint(), FitOptions(value="loss", bootstrap=50)).warnings
    )


def test_predictions_ask_for_what_they_need() -> None:
    found = fit("chinchilla", joint(), FitOptions(value="loss", bootstrap=50))
    inside = found.predict(params=1e9, samples=1e10)
    assert inside["extrapolation"][0] == 1.0
    beyond = found.predict(params=1e11, samples=3e12, band="new").row(0, named=True)
    assert beyond["extrapolation"] == pytest.approx(10.0)
    assert beyond["lo"] < beyond["value"] < beyond["hi"]
    for wrong in (
        {"params": 1e9},
        {"params": 1e9, "samples": -1.0},
        {"params": 1e9, "samples": float("inf")},
        {"params": 1e9, "samples": 1e9, "loss": 1.0},
    ):
        with pytest.raises(OrchError):
            found.predict(**wrong)


def test_the_same_seed_gives_the_same_bits() -> None:
    first, second = (
        fit("chinchilla", joint(), FitOptions(value="loss", bootstrap=50, seed=3)) for _ in range(2)
    )
    assert first == second
    assert np.array_equal(first.draws, second.draws)
    assert (
        fit("chinchilla", joint(), FitOptions(value="loss", bootstrap=50, seed=4)).intervals
        != first.intervals
    )


@pytest.mark.filterwarnings("error")
def test_weights_over_twelve_decades_fit_without_overflow():
    table = joint(8, 6).with_columns(w=pl.Series(np.geomspace(1e-12, 1, 48)))
    found = fit("chinchilla", table, FitOptions(value="loss", loss="l2", weights="w", bootstrap=50))
    assert found.estimates
    assert np.isfinite(found.draws).all()
