"""Profiles against brute force, and designs that cannot identify what they are asked for."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import optimize, stats

from orch_analysis.fitting.fit import FitOptions, Outcome, fit
from orch_analysis.laws import LAWS


def curve(n: int = 20, low: float = 1e6, high: float = 1e9) -> pl.DataFrame:
    x = np.geomspace(low, high, n)
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(n))
    return pl.DataFrame({"params": x, "y": (0.05 + 20 * x**-0.3) * noise})


def test_the_range_is_that_of_a_brute_force_profile() -> None:
    table = curve()
    found = fit("power_offset", table, FitOptions(value="y", loss="l2", bootstrap=20))
    x, y = np.log(table["params"].to_numpy()), np.log(table["y"].to_numpy())

    def best(alpha: float) -> float:
        def residuals(p: np.ndarray) -> np.ndarray:
            return np.logaddexp(p[0], p[1] - alpha * x) - y

        return float(optimize.least_squares(residuals, [-3.0, 3.0], xtol=1e-15, ftol=1e-15, gtol=1e-15).cost)

    lowest = best(found.estimates["alpha"])
    for end in found.identifiability["alpha"].range:
        assert best(end) / lowest - 1 == pytest.approx(stats.f.isf(0.05, 1, 17) / 17, rel=0.1)


def test_what_the_design_determines_is_said_to_be_determined() -> None:
    found = fit("power_offset", curve(), FitOptions(value="y", bootstrap=20))
    assert found.outcome == Outcome.OK
    assert all(item.identified for item in found.identifiability.values())
    assert "is determined: its 95% likelihood interval is [" in found.identifiability["alpha"].words


def test_a_fixed_ratio_of_samples_to_params_determines_no_chinchilla_law() -> None:
    """At D = 20 N the two terms are two power laws of one variable: their exponents can be swapped."""
    N = np.geomspace(1e7, 1e10, 24)
    truth = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
    loss = LAWS["chinchilla"].value({"params": N, "samples": 20 * N}, truth)
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(24))
    table = pl.DataFrame({"params": N, "samples": 20 * N, "loss": loss * noise})
    found = fit("chinchilla", table, FitOptions(value="loss", bootstrap=20))
    assert found.outcome in {Outcome.NOT_IDENTIFIED, Outcome.AT_BOUND}
    assert any(not found.identifiability[name].identified for name in ("A", "B", "alpha", "beta"))
    assert "fewer parameters" in found.message or "without it" in found.message


def test_too_narrow_a_range_leaves_the_offset_open() -> None:
    found = fit("power_offset", curve(8, 1e6, 3e6), FitOptions(value="y", bootstrap=20))
    assert found.outcome in {Outcome.NOT_IDENTIFIED, Outcome.AT_BOUND}
    item = found.identifiability["E"]
    assert not item.identified
    assert "E is not determined: its 95% likelihood interval is [" in item.words


@pytest.mark.parametrize(("law", "truth"), [
    ("power_offset", {"E": 0.05, "A": 20.0, "alpha": 0.3}),
    ("auc", {"E": 0.05, "x_half": 2e7, "alpha": 0.6}),
])  # fmt: skip
def test_likelihood_intervals_hold_the_truth_as_often_as_they_say(law: str, truth: dict[str, float]) -> None:
    sets, x = 150, np.geomspace(1e6, 1e9, 12)
    exact = LAWS[law].value({"params": x}, truth)
    hits = dict.fromkeys(truth, 0)
    for seed in range(sets):
        noise = np.exp(0.01 * np.random.default_rng(seed).standard_normal(12))
        y = 1 - (1 - exact) * noise if law == "auc" else exact * noise
        found = fit(law, pl.DataFrame({"params": x, "y": y}), FitOptions(value="y", bootstrap=1))
        for name, (low, high) in ((name, item.range) for name, item in found.identifiability.items()):
            hits[name] += low <= truth[name] <= high
    for count in hits.values():
        assert stats.binom.ppf(0.005, sets, 0.93) <= count <= stats.binom.ppf(0.995, sets, 0.97)


def test_another_level_gives_another_likelihood_interval() -> None:
    wide, narrow = (
        fit("power_offset", curve(), FitOptions(value="y", level=level, bootstrap=50)).identifiability["E"]
        for level in (0.95, 0.5)
    )
    assert wide.range[0] < narrow.range[0] < narrow.range[1] < wide.range[1]
    assert "50% likelihood interval" in narrow.words
