"""Lack of fit: laws that do not describe their points are flagged, those that do are not, by simulation with seeds."""

import json

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom, f

from orch_analysis.fitting.fit import Fit, FitOptions, Outcome, fit
from orch_analysis.laws import LAWS

SETS = 60  # data sets of every case
FLAGGED, FALSE = 0.90, 0.06  # the goal: at least, and at most


def broken(x, before, after, at=3e7):
    law = {"a": 0.0, "b": 3.0, "c0": before, "c1": after - before, "d1": at, "f1": 0.2}
    return LAWS["bnsl1"].value({"samples": x}, law)


def auc(error):
    return lambda x: 1 - error(x)


TRUE = {
    "power": ("power", lambda x: 2 * x**-0.2),
    "limit": ("power_offset", lambda x: 0.05 + 20 * x**-0.3),
    "auc": ("auc", lambda x: LAWS["auc"].value({"params": x}, {"E": 0.05, "x_half": 2e7, "alpha": 0.6})),
}
WRONG = {  # law, truth, and the fewest points at which the test has power at 1% noise
    "a break that speeds up": ("power", lambda x: broken(x, 0.1, 0.4), 6),
    "a break that slows down": ("power", lambda x: broken(x, 0.4, 0.1), 6),
    "a limit that the law lacks": ("power", lambda x: 0.05 + 20 * x**-0.3, 6),
    "a break against a limit": ("power_offset", lambda x: broken(x, 0.1, 0.4), 6),
    "a break that looks like a limit": ("power_offset", lambda x: broken(x, 0.4, 0.1), 20),
    "a break of an auc": ("auc", auc(lambda x: 0.1 * broken(x, 0.05, 0.4) / broken(1.0, 0.05, 0.4)), 8),
}  # fmt: skip


def fits(law, truth, n, sd=0.01, sets=SETS, heavy=False, bootstrap=0):
    x = np.geomspace(1e6, 1e9, n)
    options = FitOptions(value="y", x={"params": "params"}, bootstrap=bootstrap)
    for seed in range(sets):
        rng = np.random.default_rng([seed, n])
        own = rng.standard_t(3, n) / np.sqrt(3) if heavy else rng.standard_normal(n)
        noise = np.exp(sd * own)
        y = 1 - (1 - truth(x)) * noise if law == "auc" else truth(x) * noise
        yield fit(law, pl.DataFrame({"params": x, "y": y}), options)


def flagged(found):
    return sum(one.outcome is Outcome.MISFIT for one in found)


@pytest.mark.parametrize("name", TRUE)
def test_laws_that_made_the_points_are_rarely_flagged(name):
    sizes = (6, 8, 12, 20, 40)
    count = sum(flagged(fits(*TRUE[name], n, heavy=n == 20)) for n in sizes)
    assert count <= binom.ppf(0.99, SETS * len(sizes), FALSE)


@pytest.mark.parametrize("name", WRONG)
def test_laws_that_did_not_make_the_points_are_flagged(name):
    law, truth, fewest = WRONG[name]
    for n in sorted({fewest, 20, 40}):
        assert flagged(fits(law, truth, n)) >= binom.ppf(0.01, SETS, FLAGGED)


def test_a_joint_law_is_tested_against_squares_and_products_of_both_variables():
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(5e7, 1e10, 5), np.geomspace(1e9, 3e11, 4)))
    kaplan = LAWS["kaplan"].value({"params": N, "samples": D},
                                  {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.103})  # fmt: skip
    counts = dict.fromkeys(("kaplan", "chinchilla"), 0)
    for seed in range(40):
        y = kaplan * np.exp(0.003 * np.random.default_rng(seed).standard_normal(N.size))
        table = pl.DataFrame({"params": N, "samples": D, "y": y})
        for law in counts:
            counts[law] += fit(law, table, FitOptions(value="y", bootstrap=0)).outcome is Outcome.MISFIT
    assert counts["kaplan"] <= binom.ppf(0.99, 40, FALSE)
    assert counts["chinchilla"] >= binom.ppf(0.01, 40, FLAGGED)


def test_replicates_give_fishers_test():
    rng = np.random.default_rng(3)
    x = np.repeat(np.geomspace(1e6, 1e9, 6), 3)
    y = 2 * x**-0.2 * np.exp(0.01 * rng.standard_normal(18))
    found = fit("power", pl.DataFrame({"params": x, "y": y}), FitOptions(value="y"))
    means = np.log(y).reshape(6, 3).mean(axis=1)
    line = np.polyval(np.polyfit(np.log(x), np.log(y), 1), np.log(x[::3]))
    pure = np.sum((np.log(y).reshape(6, 3) - means[:, None]) ** 2) / 12
    p = f.sf(np.sum(3 * (means - line) ** 2) / 4 / pure, 4, 12)
    assert found.lack_of_fit.tests["replicates"] == pytest.approx(p, rel=1e-9)
    assert found.lack_of_fit.p == pytest.approx(min(1, 3 * min(found.lack_of_fit.tests.values())))


def test_the_curvature_test_is_the_f_test_of_an_added_square():
    (found,) = fits("power", lambda x: 2 * x**-0.2, 12, sets=1)
    u, y = np.log(found.x_data["params"]), np.log(found.y_data)
    (_, line, *_), (_, bent, *_) = (np.polyfit(u - u.mean(), y, degree, full=True) for degree in (1, 2))
    p = f.sf((line[0] - bent[0]) / (bent[0] / 9), 1, 9)
    assert found.lack_of_fit.tests["curvature"] == pytest.approx(p, rel=1e-6)


def test_noise_that_a_cluster_shares_is_no_misfit():
    x, clusters = np.geomspace(1e6, 1e9, 24), np.arange(24) // 3
    options = FitOptions(value="y", x={"params": "params"}, cluster="run", bootstrap=0)
    count = 0
    for seed in range(SETS):
        rng = np.random.default_rng(seed)
        shared = np.sqrt(0.8) * rng.standard_normal(8)[clusters] + np.sqrt(0.2) * rng.standard_normal(24)
        table = pl.DataFrame({"params": x, "y": 2 * x**-0.2 * np.exp(0.01 * shared), "run": clusters})
        count += fit("power", table, options).outcome is Outcome.MISFIT
    assert count <= binom.ppf(0.99, SETS, FALSE)


def test_data_without_noise_and_too_few_points_are_not_tested():
    x = np.geomspace(1e6, 1e9, 8)
    exact = fit(
        "power_offset", pl.DataFrame({"params": x, "loss": 0.05 + 20 * x**-0.3}), FitOptions(bootstrap=0)
    )
    assert (exact.lack_of_fit, exact.outcome) == (None, Outcome.OK)
    few = fit("power", pl.DataFrame({"params": x[:3], "loss": [3.0, 2.0, 1.9]}))
    assert few.lack_of_fit is None


def test_the_band_of_a_misfit_is_withheld_beyond_the_data_and_the_reason_is_read_back():
    (found,) = fits("power", WRONG["a limit that the law lacks"][1], 12, sets=1)
    rows = found.predict(params=[1e8, 4e9])
    assert rows["lo"].is_null().to_list() == [False, True]
    assert rows["value"].is_null().to_list() == [False, False]
    assert rows["note"].to_list() == [None, "band withheld: misfit"]
    assert "power does not describe the 12 points" in found.message
    assert "power_offset" in found.message
    assert Fit.from_json(json.loads(json.dumps(found.to_json()))) == found
