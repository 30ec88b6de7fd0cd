"""Forecasts of a loss over params and samples: published runs held back, laws known exactly, and bad input."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from orch_analysis.fitting.fit import FitOptions, fit
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.forecast.two_variables import forecast
from orch_core.errors import OrchError

DATA = Path(__file__).parents[1] / "data" / "laws"
X = {"params": "N", "samples": "D"}


def runs(rng, largest, count):
    compute = np.exp(rng.uniform(np.log(6e15), np.log(largest), count))
    n = np.sqrt(compute / 120) * np.exp(rng.normal(0, 0.8, count))
    return n, compute / 6 / n


def held_back(points: pl.DataFrame, cut: float) -> tuple[float, float, float]:
    """Errors (rms of ln) of the usual Huber fit and of the forecast beyond 1/cut of the largest compute, and coverage."""
    points = points.cast(pl.Float64)
    small = pl.col("N") * pl.col("D") <= (pl.col("N") * pl.col("D")).max() / cut
    table, ahead = points.filter(small), points.filter(~small)
    at, truth = list(zip(ahead["N"], ahead["D"], strict=True)), ahead["loss"].to_numpy()
    found = forecast(table, value="loss", x=X, at=at)
    usual = fit("chinchilla", table, FitOptions(value="loss", x=X, huber_delta=1e-3, bootstrap=0))
    fixed = usual.law.value(
        {"params": ahead["N"].to_numpy(), "samples": ahead["D"].to_numpy()}, usual.estimates
    )
    errors = [float(np.sqrt(np.mean(np.log(values / truth) ** 2))) for values in (fixed, found.value)]
    return *errors, float(np.mean((found.lo <= truth) & (truth <= found.hi)))


def published() -> list[tuple[pl.DataFrame, float]]:
    gadre = pl.read_csv(DATA / "gadre_overtraining_104models.csv")
    tables = [
        (part.select("N", "D", loss="loss_c4_val").drop_nulls(), 8.0)
        for _, part in gadre.group_by("dataset_name", maintain_order=True)
    ]
    porian = pl.read_csv(DATA / "porian_isoflop_summary_df.csv")
    return tables + [
        (part.select(N="n", D=pl.col("flops") / (6 * pl.col("n")), loss="loss"), 16.0)
        for _, part in porian.group_by("config", maintain_order=True)
    ]


def test_published_runs_held_back_are_forecast_better_than_by_the_usual_fit_and_inside_the_band():
    usual, ours, inside = np.array([held_back(*one) for one in published()]).T
    assert np.exp(np.mean(np.log(ours / usual))) < 0.4
    assert (ours < 3 * usual).all()
    assert inside.mean() >= 0.88


def test_a_law_that_does_not_hold_is_forecast_better_than_by_the_usual_fit():
    def bent(n, d):
        """A loss whose data exponent grows with D: no Chinchilla law, but close to one anywhere."""
        return 1.7 + 400 / n**0.34 + 60 * (d / 1e6) ** -(0.20 + 0.012 * np.log(d / 1e6)) / 30

    ratios = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        n, d = runs(rng, 1e20, 90)
        table = pl.DataFrame({"N": n, "D": d, "loss": bent(n, d) * np.exp(0.002 * rng.standard_normal(90))})
        ahead = [(4e9, 8e10), (8e9, 1.6e11)]
        truth = np.log([bent(*pair) for pair in ahead])
        found = forecast(table, value="loss", x=X, at=ahead)
        usual = fit("chinchilla", table, FitOptions(value="loss", x=X, huber_delta=1e-3, bootstrap=0))
        fixed = np.log(
            usual.predict(pl.DataFrame(ahead, schema=["params", "samples"], orient="row"))["value"]
        )
        ratios.append(np.linalg.norm(np.log(found.value) - truth) / np.linalg.norm(fixed - truth))
        assert ((np.log(found.lo) < truth) & (truth < np.log(found.hi))).all()
    assert max(ratios) < 1


def test_an_exact_law_is_forecast_exactly_and_the_horizon_is_a_factor_of_compute():
    n, d = runs(np.random.default_rng(0), 1e20, 60)
    table = pl.DataFrame({"N": n, "D": d, "loss": 1.8 + 480 / n**0.35 + 2100 / d**0.37})
    found = forecast(table, value="loss", x=X, at=[(5e9, 1e11)])
    assert found.value[0] == pytest.approx(1.8 + 480 / 5e9**0.35 + 2100 / 1e11**0.37, rel=3e-4)
    assert found.at == pytest.approx((3e21,))
    assert found.horizon == pytest.approx(5e9 * 1e11 / (n * d).max())


def test_what_cannot_be_forecast_is_an_outcome_with_its_reason():
    n, d = runs(np.random.default_rng(0), 1e20, 60)
    loss = 1.8 + 480 / n**0.35 + 2100 / d**0.37
    table = pl.DataFrame({"N": n, "D": d, "loss": loss})
    few = forecast(table.head(4), value="loss", x=X, at=[(5e9, 1e11)])
    assert few.outcome is Outcome.TOO_FEW_POINTS
    assert np.isnan(few.value[0])
    one_size = forecast(table.with_columns(N=1e8), value="loss", x=X, at=[(5e9, 1e11)])
    assert one_size.outcome is Outcome.ONE_SCALE
    holes = table.with_columns(pl.when(pl.int_range(60) < 3).then(None).otherwise("loss").alias("loss"))
    found = forecast(holes, value="loss", x=X, at=[(5e9, 1e11)])
    assert (found.n, found.dropped) == (57, {"loss is missing": 3})
    with pytest.raises(OrchError, match="must be positive"):
        forecast(table, value="loss", x=X, at=[(5e9, 0.0)])
    with pytest.raises(OrchError, match="no column"):
        forecast(table, value="los", x=X, at=[(5e9, 1e11)])
