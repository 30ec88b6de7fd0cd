"""Kriging against scikit-learn's Gaussian processes, exact laws, and properties that any such predictor must have."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, PairwiseKernel

from orch_analysis.forecast import kriging
from orch_analysis.forecast.kriging import Kriging, calibration, krige


def law(x: np.ndarray) -> np.ndarray:
    """Hoffmann et al. 2022, eq. 10, at logs (params, samples)."""
    return 1.69 + 406.4 * np.exp(-0.34 * x[:, 0]) + 410.7 * np.exp(-0.28 * x[:, 1])


def design(seed: int, count: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).uniform(np.log([3e7, 1e9]), np.log([3e9, 1e11]), (count, 2))


def wavy(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Runs of a law that no member of the family equals, with .2% noise."""
    x = design(seed, count)
    noise = 0.002 * np.random.default_rng(seed + 1).standard_normal(count)
    return x, np.log(law(x)) + 0.03 * np.sin(x.sum(axis=1) / 2) + noise


def regressor(found: Kriging):
    """The same process in scikit-learn, and the law's derivatives, by central differences."""
    d = found.x.shape[1]

    def slopes(x: np.ndarray) -> np.ndarray:
        def log_law(theta: np.ndarray) -> float:
            return float(
                np.log(np.exp(theta[0]) + np.exp(theta[1 : d + 1] - np.exp(theta[d + 1 :]) * x).sum())
            )

        steps = 1e-5 * np.eye(2 * d + 1)
        return np.array([(log_law(found.theta + h) - log_law(found.theta - h)) / 2e-5 for h in steps])

    spread = kriging.prior_sd(d)
    trend = PairwiseKernel(
        metric=lambda a, b, gamma: (slopes(a) * spread) @ (slopes(b) * spread), gamma_bounds="fixed"
    )
    own = ConstantKernel(found.size**2) * Matern(found.ranges, nu=2.5)
    model = GaussianProcessRegressor(own + trend, alpha=found.noise**2 + found.sd**2, optimizer=None)
    shift = np.array([slopes(x) @ (found.theta - found.mean) for x in found.x])
    return model.fit(found.x, found.y - found.law(found.x + found.centre) + shift), slopes


def test_predictions_are_those_of_the_same_process_in_scikit_learn():
    found = krige(*wavy(0, 25))
    model, slopes = regressor(found)
    at = design(9, 12) + 1.5
    points = at - found.centre
    centre = found.law(at) - np.array([slopes(x) @ (found.theta - found.mean) for x in points])
    mean, covariance = model.predict(points, return_cov=True)
    ours = found.predict(at)
    np.testing.assert_allclose(ours[0], centre + mean, rtol=1e-6)
    np.testing.assert_allclose(ours[1], np.sqrt(np.diag(covariance)), rtol=1e-4)


def test_ranges_size_and_noise_are_at_the_maximum_of_their_posterior():
    found = krige(*wavy(3))

    def posterior(state: Kriging) -> float:
        logs = np.log([*state.ranges, state.size, state.noise])
        centres, spreads = np.array([kriging.RANGE, kriging.RANGE, kriging.SIZE, kriging.NOISE]).T
        likelihood = regressor(state)[0].log_marginal_likelihood_value_
        return float(likelihood - 0.5 * (((logs - centres) / spreads) ** 2).sum())

    best = posterior(found)
    for name in ("ranges", "size", "noise"):
        for factor in (0.7, 1.4):
            assert posterior(replace(found, **{name: getattr(found, name) * factor})) < best


def test_an_exact_law_is_continued_exactly():
    x = design(1, 60)
    found = krige(x, np.log(law(x)))
    at = np.log([[3e10, 1e12], [3e8, 1e12]])
    mean, sd = found.predict(at)
    np.testing.assert_allclose(np.exp(mean), law(at), rtol=3e-4)
    assert (sd < 0.01).all()


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 50), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_units_do_not_matter(seed: int, params: float, loss: float):
    x, y = wavy(seed, 12)
    at = np.log([[1e10, 1e12]])
    shift = np.log([params, 1.0])
    plain, other = krige(x, y).predict(at), krige(x + shift, y + np.log(loss)).predict(at + shift)
    np.testing.assert_allclose(other[0], plain[0] + np.log(loss), atol=1e-4)
    np.testing.assert_allclose(other[1], plain[1], rtol=1e-2)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000))
def test_more_runs_lower_the_variance_and_distance_raises_it(seed: int):
    x, y = wavy(seed, 15)
    all_runs = krige(x, y)
    fewer = replace(all_runs, x=all_runs.x[:-4], y=y[:-4], sd=all_runs.sd[:-4])
    near = np.log([[1e9, 3e10]]) + np.array([[1.0], [3.0], [6.0], [9.0]]) * np.ones(2)
    assert (all_runs.predict(near)[1] <= fewer.predict(near)[1] * (1 + 1e-6)).all()
    assert (np.diff(all_runs.predict(near)[1]) > 0).all()


def test_a_run_known_to_be_worthless_changes_nothing():
    x, y = wavy(5)
    known = np.zeros(40)
    wrong, known[7] = y.copy(), 1e3
    wrong[7] += 5
    kept = np.arange(40) != 7
    at = np.log([[1e10, 1e12]])
    theirs = krige(x[kept], y[kept])
    ours = krige(x, wrong, known)
    mean = y[kept].mean() - wrong.mean()  # the prior's level is the mean of all values
    assert abs(mean) > 0.1
    np.testing.assert_allclose(ours.predict(at)[0], theirs.predict(at)[0], atol=3e-3)


def test_of_many_runs_those_that_enter_reach_both_ends():
    x, y = wavy(2, kriging.MOST + 300)
    found = krige(x, y)
    assert len(found.y) == kriging.MOST
    compute = x.sum(axis=1)
    largest = np.sort(compute)[-kriging.MOST // 2 :]
    kept = (found.x + found.centre).sum(axis=1)
    assert np.isin(np.round(largest, 9), np.round(kept, 9)).all()
    assert kept.min() == pytest.approx(compute.min())


def test_the_band_covers_runs_of_wrong_laws_about_as_often_as_it_claims():
    inside = []
    for seed in range(16):
        rng = np.random.default_rng(seed)
        x = design(seed, 30)

        shape = rng.uniform(0.3, 1.2, 3)

        def true(x, shape=shape):
            bend = 0.05 * shape[0] * np.logaddexp(0, shape[1] * (x[:, 1] - np.log(2e10)))
            return np.log(law(x)) - bend + 0.02 * np.cos(shape[2] * x[:, 0])

        y = true(x) + 0.003 * rng.standard_normal(30)
        at = x[x.sum(axis=1).argsort()[-6:]] + np.log(2.5)
        found = krige(x, y)
        mean, sd = found.predict(at)
        half = 1.645 * calibration(x, y) * np.hypot(sd, found.noise)
        inside.append(np.abs(mean - true(at) - 0.003 * rng.standard_normal(6)) < half)
    assert np.mean(inside) >= 0.8


def test_one_run_gives_its_level_with_the_priors_doubt():
    found = krige(np.log([[1e8, 1e10]]), np.log([3.0]))
    mean, sd = found.predict(np.log([[1e8, 1e10], [1e10, 1e12]]))
    assert np.exp(mean[0]) == pytest.approx(3.0, rel=0.02)
    assert sd[1] > 0.1
