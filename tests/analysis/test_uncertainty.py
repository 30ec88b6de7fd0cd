"""Intervals against exact theory, against scipy's bootstrap, and against simulated truth."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from orch_analysis.fitting import fit as fitting
from orch_analysis.fitting import newton, resampling
from orch_analysis.fitting.fit import FitOptions, fit
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.problem import build, theta_of
from orch_analysis.laws import LAWS
from orch_analysis.laws.law import Array
from orch_core.errors import OrchError

DATA_SETS = 80
TRUTH = {"E": 0.05, "A": 20.0, "alpha": 0.3}


def curve(noise: Array) -> pl.DataFrame:
    x = np.geomspace(3e6, 3e8, noise.size)
    return pl.DataFrame({"params": x, "y": LAWS["power_offset"].value({"params": x}, TRUTH) * np.exp(noise)})


def test_draws_of_a_line_are_its_t_interval() -> None:
    """For a linear law with normal noise the percentiles of the "t" draws are Student's interval (here 6 dof)."""
    x = np.geomspace(1e6, 1e9, 8)
    noise = np.array(
        [1.5, -1.2, 0.3, -0.4, 0.9, -1.6, 0.1, 0.4]
    )  # residuals as normal as eight numbers can be
    table = pl.DataFrame({"params": x, "y": 3 * x**-0.2 * np.exp(0.02 * noise)})
    exact = fit("power", table, FitOptions(value="y"))
    drawn = fit("power", table, FitOptions(value="y", loss="huber", huber_delta=1e6, bootstrap=20_000))
    assert drawn.interval == "t"
    for name in ("A", "slope"):
        widths = [
            np.ptp(np.log(f.intervals[name]) if name == "A" else f.intervals[name]) for f in (exact, drawn)
        ]
        assert widths[1] == pytest.approx(widths[0], rel=0.06)


def test_known_standard_errors_propagate_linearly() -> None:
    """Parametric draws against the delta method, (J'J)^-1 J' S J (J'J)^-1, for a line fitted without weights."""
    x = np.geomspace(1e6, 1e9, 10)
    y = 3 * x**-0.2
    se = y * np.linspace(0.005, 0.03, 10)
    table = pl.DataFrame({"params": x, "y": y, "se": se})
    found = fit("power", table, FitOptions(value="y", stderr="se", bootstrap=8000))
    design = np.stack([np.ones(10), np.log(x)], axis=1)
    bread = np.linalg.inv(design.T @ design)
    sd = np.sqrt((bread @ (design.T * (se / y) ** 2) @ design @ bread)[1, 1])
    lo, hi = found.intervals["slope"]
    assert found.interval == "parametric"
    assert (hi - lo) / (2 * 1.96) == pytest.approx(sd, rel=0.05)


def test_standard_errors_that_explain_too_little_are_flagged() -> None:
    table = curve(0.05 * np.random.default_rng(0).standard_normal(20)).with_columns(se=0.001 * pl.col("y"))
    found = fit("power_offset", table, FitOptions(value="y", stderr="se", bootstrap=50))
    assert "times the standard errors" in " ".join(found.warnings)


def test_bca_is_that_of_scipy() -> None:
    sample = np.random.default_rng(1).exponential(size=30)
    counts = resampling.resampled_weights(30, 20_000, seed=1)
    draws = counts @ sample / 30
    jackknife = (sample.sum() - sample) / 29
    ours = resampling.bca(draws, float(sample.mean()), jackknife, 0.95)
    theirs = stats.bootstrap((sample,), np.mean, n_resamples=20_000, method="BCa", rng=2).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_bca_costs_grow_with_the_points_not_with_their_square(monkeypatch) -> None:
    n, asked = 1000, []
    x = np.geomspace(1e6, 1e9, n)
    y = 3.0 * x**-0.1 * np.exp(0.05 * np.random.default_rng(0).standard_normal(n))
    table, module = pl.DataFrame({"params": x, "y": y}), sys.modules["orch_analysis.fitting.fit"]
    solve = module.solve
    monkeypatch.setattr(
        module,
        "solve",
        lambda p, t, w, *rest, **named: asked.append(len(w)) or solve(p, t, w, *rest, **named),
    )
    found = fit("power", table, FitOptions(value="y", bootstrap=500, interval="bca"))
    assert max(asked) == 500
    exact = fit("power", table, FitOptions(value="y"))
    assert found.intervals["slope"] == pytest.approx(exact.intervals["slope"], rel=0.02)


def test_known_errors_and_clusters_exclude_each_other() -> None:
    table = pl.DataFrame(
        {"params": [1e6, 1e7, 1e8, 1e9], "y": [4.0, 3.0, 2.2, 1.7], "se": 0.1, "run": ["a", "a", "b", "b"]}
    )
    with pytest.raises(OrchError, match="cannot be given together"):
        fit("power", table, FitOptions(value="y", stderr="se", cluster="run"))


def test_intervals_that_hold_less_than_they_say_are_flagged() -> None:
    table = pl.DataFrame({"params": [1e6, 1e7, 1e8, 1e9], "y": [4.0, 3.0, 2.2, 1.7], "run": "a"})
    found = fit("power", table, FitOptions(value="y", cluster="run", bootstrap=39))
    assert [" ".join(text.split()[:3]) for text in found.warnings] == ["39 bootstraps do", "all rows are"]


def test_clusters_are_resampled_whole() -> None:
    clusters = np.repeat(np.arange(5), 3).astype(float)
    weights = resampling.resampled_weights(15, 200, seed=0, clusters=clusters)
    assert np.all(weights.reshape(200, 5, 3) == weights.reshape(200, 5, 3)[:, :, :1])
    assert np.all(weights[:, ::3].sum(axis=1) == 5)


def test_seed_42_gives_the_samples_of_the_chinchilla_replication() -> None:
    """Besiroglu et al. draw `np.random.seed(42); np.random.choice(indices, size=240)` 4,000 times."""
    stream = np.random.RandomState(42)
    theirs = [np.bincount(stream.choice(240, size=240, replace=True), minlength=240) for _ in range(20)]
    assert np.array_equal(resampling.resampled_weights(240, 4000, seed=42)[:20], np.array(theirs))


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_clustered_noise_is_drawn_with_its_own_share(share: float) -> None:
    """Draws around data whose clusters share a known part of the noise have its variance and correlation."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(150), 3).astype(float)
    common = np.sqrt(share) * rng.standard_normal(150)[clusters.astype(int)]
    noise = 0.02 * (common + np.sqrt(1 - share) * rng.standard_normal(450))
    table = curve(noise)
    law = LAWS["power_offset"]
    problem = build(law, {"params": table["params"].to_numpy()}, table["y"].to_numpy(), "log")
    theta = theta_of(problem, {name: np.array(value) for name, value in TRUTH.items()})
    data = resampling.replicates(problem, theta, np.ones(450), "t", 400, 0, clusters=clusters, stderr=None)
    drawn = (data.target - data.target.mean(axis=0)).reshape(400, 150, 3)
    assert drawn.std() == pytest.approx(0.02, rel=0.1)
    pairs = np.mean(drawn[:, :, 0] * drawn[:, :, 1]) / drawn.var()
    assert pairs == pytest.approx(share, abs=0.1)


@pytest.mark.parametrize("kind", ["normal", "heavy", "clustered"])
def test_intervals_cover_the_truth_with_twelve_points(kind: str) -> None:
    """Nominal 95% of E, A, alpha and a prediction ten times beyond; 3.3 sd of the binomial draws allowed.

    tests/bench/bench_coverage.py has the full table: all sizes, the Chinchilla law, 1,000 data sets each.
    """
    rng = np.random.default_rng(11)
    clusters = np.repeat(np.arange(4), 3)
    covered = np.zeros(4)
    for seed in range(DATA_SETS):
        noise = rng.standard_t(3, 12) / np.sqrt(3) if kind == "heavy" else rng.standard_normal(12)
        if kind == "clustered":
            noise = np.sqrt(0.5) * (noise + rng.standard_normal(4)[clusters])
        table = curve(0.01 * noise).with_columns(run=pl.Series(clusters))
        found = fit("power_offset", table, FitOptions(value="y", bootstrap=150, seed=seed, cluster="run" if kind == "clustered" else None))  # fmt: skip
        band = (
            replace(found, outcome=Outcome.OK).predict(params=3e9).row(0, named=True)
        )  # withheld if by chance misfit
        truth = TRUTH["E"] + TRUTH["A"] * 3e9 ** -TRUTH["alpha"]
        inside = [found.intervals[name][0] <= TRUTH[name] <= found.intervals[name][1] for name in TRUTH]
        covered += [*inside, band["lo"] <= truth <= band["hi"]]
    slack = 3.3 * np.sqrt(0.95 * 0.05 / DATA_SETS)
    assert np.all(covered / DATA_SETS > 0.95 - slack), covered / DATA_SETS
    # the upper side has no slack to speak of at 95%: widths are held by the tests against exact theory above


def test_wide_designs_use_plain_resampling() -> None:
    table = curve(0.01 * np.random.default_rng(0).standard_normal(120))
    assert fit("power_offset", table, FitOptions(value="y", bootstrap=50)).interval == "percentile"
    assert fit("power_offset", table[:90], FitOptions(value="y", bootstrap=50)).interval == "t"
    bca = fit("power_offset", table, FitOptions(value="y", bootstrap=400, interval="bca"))
    plain = fit("power_offset", table, FitOptions(value="y", bootstrap=400))
    assert bca.intervals["alpha"] == pytest.approx(plain.intervals["alpha"], rel=0.1)


def by_pairs(positive: np.ndarray, negative: np.ndarray) -> float:
    """DeLong's variance from the matrix of all pairs."""
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    rows, columns = wins.mean(axis=1), wins.mean(axis=0)
    return float(np.sqrt(rows.var(ddof=1) / positive.size + columns.var(ddof=1) / negative.size))


def test_intervals_from_delong_errors_cover_the_true_slope() -> None:
    """AUCs of eight models on one simulated test set each; 1 - AUC is a power law of size with slope -0.15."""
    rng, size, sets = np.random.default_rng(5), np.geomspace(1e6, 1e9, 8), 120
    truth = 1.0 - 0.25 * (size / size[0]) ** -0.15
    shift = np.sqrt(2.0) * stats.norm.ppf(truth)
    labels = np.arange(800) < 300
    hits = 0
    for _ in range(sets):
        scores = rng.standard_normal((8, 800)) + shift[:, None] * labels
        ranks = stats.rankdata(scores, axis=1)[:, labels].sum(axis=1)
        errors = 1.0 - (ranks - 300 * 301 / 2) / (300 * 500)
        table = pl.DataFrame(
            {"params": size, "y": errors, "se": [by_pairs(row[labels], row[~labels]) for row in scores]}
        )
        found = fit("power", table, FitOptions(value="y", stderr="se", bootstrap=300))
        low, high = found.intervals["slope"]
        hits += low <= -0.15 <= high
    assert found.interval == "parametric"
    assert stats.binom(sets, 0.95).cdf(hits) > 0.005
    assert hits < sets


@pytest.mark.parametrize("name", ["power_offset", "m4"])
def test_fits_to_many_points_end_where_a_search_for_every_resample_ends(name: str, monkeypatch) -> None:
    """Above `newton.MANY` points, fits and resamples start from fewer points and from the fit: the same numbers."""
    law = LAWS[name] if LAWS[name].x == ("params",) else LAWS[name].along("params")
    truth = {**TRUTH, "eps_inf": 0.05, "eps_0": 1.0, "beta": 20.0, "c": 0.3}
    x = np.geomspace(3e4, 3e8, 400)
    values = law.value({"params": x}, {key: truth[key] for key in law.params})
    noise = 0.01 * np.random.default_rng(0).standard_normal(400)
    table, options = (
        pl.DataFrame({"params": x, "y": values * np.exp(noise)}),
        FitOptions(value="y", bootstrap=20, huber_delta=0.02),
    )
    searched, automatic = fit(law, table, options), replace(options, huber_delta=None)
    delta = fit(law, table, automatic).delta
    for module in (newton, fitting):
        monkeypatch.setattr(module, "MANY", 100)
    found = fit(law, table, options)
    assert found.objective == pytest.approx(searched.objective, rel=1e-9)
    assert list(found.estimates.values()) == pytest.approx(list(searched.estimates.values()), rel=1e-4)
    for key, ends in searched.intervals.items():
        assert found.intervals[key] == pytest.approx(ends, rel=0.02)
    assert fit(law, table, automatic).delta == pytest.approx(delta, rel=0.005)  # found by three rough steps
