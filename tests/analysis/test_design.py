"""Expected intervals against simulated fits by the law engine, and against textbook formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orch_analysis.design import expected
from orch_analysis.fitting.newton import solve
from orch_analysis.fitting.problem import build, params_of
from orch_analysis.laws import LAWS
from orch_analysis.laws.law import Values


def product(*, params: np.ndarray, samples: np.ndarray, repeats: int = 1) -> dict[str, np.ndarray]:
    first, second = (np.tile(part.ravel(), repeats) for part in np.meshgrid(params, samples, indexing="ij"))
    return {"params": first, "samples": second}


def simulated(assumed_law: expected.AssumedLaw, x: Values, count: int, seed: int) -> dict[str, np.ndarray]:
    """Least-squares estimates from `count` noisy copies of the study: parameters, and the prediction's log."""
    value = assumed_law.law.value(x, assumed_law.params)
    noise = np.random.default_rng(seed).standard_normal((count, value.size))
    problem = build(assumed_law.law, x, value, "log")
    target = np.log(value) + assumed_law.noise * noise
    found = solve(problem, target, np.ones_like(target), float("inf"), seed=seed)
    named = params_of(problem, found.theta)
    return {name: np.asarray(named[name]).reshape(count, 1) for name in assumed_law.law.free}


@pytest.mark.parametrize(
    ("sizes", "data", "repeats"),
    [(4, 5, 3), (5, 4, 2), (8, 8, 1)],
)
def test_expected_intervals_match_the_spread_of_simulated_fits(sizes: int, data: int, repeats: int):
    x = product(params=np.geomspace(5e6, 3e8, sizes), samples=np.geomspace(2e5, 2e7, data), repeats=repeats)
    assumed_law = expected.assumed(x, noise=0.005)
    target = {"params": 1e9, "samples": 1e8}
    told = expected.expected(assumed_law, x, target=target)
    fits = simulated(assumed_law, x, 800, seed=sizes)
    t = expected.student(0.95, x["params"].size - 5)
    for name in ("alpha", "beta"):
        assert told.parameters[name].half == pytest.approx(t * fits[name].std(), rel=0.12)
    for name in ("A", "B", "E"):
        half = (np.log(told.parameters[name].hi) - np.log(told.parameters[name].lo)) / 2
        assert half == pytest.approx(t * np.log(fits[name]).std(), rel=0.12)
    predicted = assumed_law.law.value({k: np.array([v]) for k, v in target.items()}, fits)
    assert told.prediction is not None
    half = np.log(told.prediction.hi / told.prediction.lo) / 2
    assert half == pytest.approx(t * np.log(predicted).std(), rel=0.12)


def test_intervals_cover_the_truth_at_their_level():
    """The expected interval, centred on each simulated estimate, holds the true exponent about 95 times in 100."""
    x = product(params=np.geomspace(5e6, 3e8, 4), samples=np.geomspace(2e5, 2e7, 5), repeats=2)
    assumed_law = expected.assumed(x, noise=0.005)
    told = expected.expected(assumed_law, x)
    fits = simulated(assumed_law, x, 800, seed=9)
    for name in ("alpha", "beta"):
        inside = np.abs(fits[name] - assumed_law.params[name]) <= told.parameters[name].half
        assert 0.93 <= inside.mean() <= 0.98


@given(st.lists(st.floats(0.0, 12.0), min_size=4, max_size=12, unique=True), st.floats(0.001, 0.5))
def test_a_power_law_is_a_regression_line(logs: list[float], noise: float):
    """Expected interval of the slope = scipy's standard error of a line with residuals of that sd."""
    x = np.exp(np.array(sorted(logs)))
    if np.ptp(np.log(x)) < 0.5:
        return
    assumed_law = expected.AssumedLaw(
        law=LAWS["power"], params={"A": 2.0, "slope": -0.3}, noise=noise, source="test"
    )
    told = expected.expected(assumed_law, {"params": x})
    spread = np.sum((np.log(x) - np.log(x).mean()) ** 2)
    half = stats.t.ppf(0.975, len(x) - 2) * noise / np.sqrt(spread)
    assert told.parameters["slope"].half == pytest.approx(half, rel=2e-2)


def test_the_memory_of_a_plan_grows_with_its_cells_not_with_their_square():
    params, samples = np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e7, 1e10, 6))
    few = {"params": params.ravel(), "samples": samples.ravel()}
    many = {name: np.tile(values, 10_000) for name, values in few.items()}
    assumed_law = expected.assumed(few)
    narrow, wide = (expected.covariance_factor(assumed_law, x) for x in (many, few))
    np.testing.assert_allclose(narrow @ narrow.T, wide @ wide.T / 10_000, rtol=1e-6)


def test_more_seeds_narrow_by_the_square_root():
    x = product(params=np.geomspace(5e6, 3e8, 8), samples=np.geomspace(2e5, 2e7, 8))
    four = {name: np.tile(values, 4) for name, values in x.items()}
    assumed_law = expected.assumed(x)
    spread = [np.linalg.norm(expected.covariance_factor(assumed_law, each), axis=1) for each in (x, four)]
    np.testing.assert_allclose(spread[0] / spread[1], 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("params", "samples", "words", "blind"),
    [
        (np.array([1e7]), np.geomspace(1e4, 1e7, 8), "the same params", {"alpha", "A"}),
        (np.geomspace(1e6, 1e9, 8), np.array([1e5]), "the same samples", {"beta", "B"}),
        (np.geomspace(1e7, 4e7, 5), np.geomspace(1e4, 1e7, 5), "params spans only a factor of 4", set()),
        (np.array([1e6, 1e9]), np.geomspace(1e4, 1e7, 5), "two values of params", set()),
    ],
)
def test_a_grid_that_cannot_identify_a_parameter_says_which(params, samples, words, blind):
    x = product(params=params, samples=samples)
    told = expected.expected(expected.assumed(x), x, target={"params": 1e10, "samples": 1e8})
    assert any(words in warning for warning in told.warnings), told.warnings
    assert all(np.isinf(told.parameters[name].hi) for name in blind)
    if blind:
        assert told.prediction is not None
        assert np.isinf(told.prediction.hi)


def test_size_and_data_that_grow_together_are_called_confounded():
    sizes = np.geomspace(1e6, 1e9, 12)
    x = {"params": sizes, "samples": 20 * sizes}
    told = expected.expected(expected.assumed(x), x)
    assert any("confounded" in warning for warning in told.warnings)
    assert any("cannot estimate" in warning for warning in told.warnings)


def test_too_few_cells_promise_nothing():
    x = product(params=np.geomspace(1e6, 1e8, 2), samples=np.geomspace(1e4, 1e6, 2))
    told = expected.expected(expected.assumed(x), x, target={"params": 1e9, "samples": 1e7})
    assert any("cannot determine" in warning for warning in told.warnings)
    assert all(np.isinf(interval.hi) for interval in told.parameters.values())


@given(st.integers(1, 400), st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99]))
def test_student_quantiles(dof: int, level: float):
    assert expected.student(level, dof) == pytest.approx(stats.t.ppf(0.5 + level / 2, dof), rel=0.03)
    if level <= 0.95 and dof >= 5:
        assert expected.student(level, dof) == pytest.approx(stats.t.ppf(0.5 + level / 2, dof), rel=1e-3)


def test_standard_error_of_an_auc_matches_simulated_scores():
    """Two exponential populations, for which Hanley & McNeil's formula holds: the AUC is rate / (1 + rate)."""
    generator, auc, positives, negatives = np.random.default_rng(0), 0.85, 60, 200
    ratio = auc / (1 - auc)
    found = []
    for _ in range(1500):
        high = ratio * generator.exponential(size=positives)
        low = generator.exponential(size=negatives)
        found.append(stats.mannwhitneyu(high, low).statistic / (positives * negatives))
    assert np.mean(found) == pytest.approx(auc, abs=0.01)
    assert expected.auc_standard_error(auc, positives, negatives) == pytest.approx(np.std(found), rel=0.08)


def test_noise_from_seeds_is_the_pooled_standard_deviation():
    generator = np.random.default_rng(1)
    groups = np.repeat(np.arange(4000), 3)
    values = np.exp(generator.normal(size=4000)[groups] + 0.02 * generator.standard_normal(groups.size))
    assert expected.pooled_noise(values, groups) == pytest.approx(0.02, rel=0.03)
    assert expected.pooled_noise(np.array([1.0, 2.0]), np.array([0, 1])) is None


def test_the_assumed_law_sits_in_the_middle_of_the_grid():
    x = product(params=np.geomspace(1e6, 1e8, 3), samples=np.geomspace(1e3, 1e7, 3))
    assumed_law = expected.assumed(x)
    middle = {"params": np.array([1e7]), "samples": np.array([1e5])}
    assert assumed_law.law is LAWS["chinchilla"]
    assert assumed_law.law.value(middle, assumed_law.params)[0] == pytest.approx(1.0)
