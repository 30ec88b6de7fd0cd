"""Meta-analysis against the worked example of metafor (Viechtbauer 2010, J. Stat. Softw. 36(3)): dat.bcg, log risk ratios."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orch_analysis.benefits.meta_analysis import meta_regression

# tpos, tneg, cpos, cneg, absolute latitude, year: Colditz et al. 1994, JAMA 271:698
BCG = np.array([
    [4, 119, 11, 128, 44, 1948], [6, 300, 29, 274, 55, 1949], [3, 228, 11, 209, 42, 1960],
    [62, 13536, 248, 12619, 52, 1977], [33, 5036, 47, 5761, 13, 1973], [180, 1361, 372, 1079, 44, 1953],
    [8, 2537, 10, 619, 19, 1973], [505, 87886, 499, 87892, 13, 1980], [29, 7470, 45, 7232, 27, 1968],
    [17, 1699, 65, 1600, 42, 1961], [186, 50448, 141, 27197, 18, 1974], [5, 2493, 3, 2338, 33, 1969],
    [27, 16886, 29, 17825, 33, 1976],
], dtype=float)  # fmt: skip


def bcg():
    a, b, c, d, latitude, year = BCG.T
    effects = np.log(a / (a + b)) - np.log(c / (c + d))
    errors = np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d))
    return effects, errors, latitude, year


def test_the_random_effects_model_is_metafors():
    effects, errors, _, _ = bcg()
    found = meta_regression(effects, errors)
    assert found.beta == pytest.approx([-0.7145], abs=5e-5)
    assert found.tau**2 == pytest.approx(0.3132, abs=5e-5)
    assert 100 * found.i2 == pytest.approx(92.22, abs=5e-3)
    assert found.q == pytest.approx(152.2330, abs=5e-5)
    assert found.dof == 12


def test_the_mixed_effects_model_is_metafors():
    effects, errors, latitude, year = bcg()
    found = meta_regression(effects, errors, np.column_stack([np.ones(13), latitude, year]))
    assert found.beta[0] == pytest.approx(-3.5455, rel=5e-5)  # metafor stops at a change of tau^2 below 1e-5
    assert found.beta[1:] == pytest.approx([-0.0280, 0.0019], abs=5e-5)
    assert found.tau**2 == pytest.approx(0.1108, abs=5e-5)
    assert found.tau == pytest.approx(0.3328, abs=5e-5)
    assert 100 * found.i2 == pytest.approx(71.98, abs=5e-3)
    assert (found.q, found.q_p) == (pytest.approx(28.3251, abs=5e-5), pytest.approx(0.0016, abs=5e-5))
    # metafor prints Wald standard errors .0102 and .0147; Knapp and Hartung multiply them by one factor
    assert found.se[1] / found.se[2] == pytest.approx(0.0102 / 0.0147, rel=0.01)


def test_standard_errors_and_shrunken_effects_are_those_of_the_full_covariance():
    """Knapp and Hartung's variance, and the conditional mean and variance of the true effects, from k x k matrices."""
    effects, errors, latitude, _ = bcg()
    x = np.column_stack([np.ones(13), latitude])
    found = meta_regression(effects, errors, x)
    total = np.diag(errors**2 + found.tau**2)
    inverse = np.linalg.inv(total)
    covariance = np.linalg.inv(x.T @ inverse @ x)
    beta = covariance @ x.T @ inverse @ effects
    residual = effects - x @ beta
    scale = max(1.0, residual @ inverse @ residual / 11)
    assert found.se == pytest.approx(np.sqrt(np.diag(covariance) * scale), rel=1e-9)
    between = found.tau**2 * np.eye(13)
    gain = between @ inverse
    assert found.shrunken == pytest.approx(x @ beta + gain @ residual, rel=1e-9)
    rest = (np.eye(13) - gain) @ x
    variance = between - gain @ between + rest @ covariance @ rest.T
    assert found.shrunken_se == pytest.approx(np.sqrt(np.diag(variance)), rel=1e-9)


def test_reml_is_the_maximum_of_the_restricted_likelihood():
    effects, errors, latitude, _ = bcg()
    x = np.column_stack([np.ones(13), latitude])

    def likelihood(tau2):
        inverse = np.diag(1 / (errors**2 + tau2))
        information = x.T @ inverse @ x
        residual = effects - x @ np.linalg.solve(information, x.T @ inverse @ effects)
        logs = np.log(errors**2 + tau2).sum() + np.linalg.slogdet(information)[1]
        return -0.5 * (logs + residual @ inverse @ residual)

    best = meta_regression(effects, errors, x).tau ** 2
    grid = np.linspace(0, 4 * best, 4001)
    assert abs(grid[np.argmax([likelihood(one) for one in grid])] - best) <= grid[1]


def test_the_prediction_interval_covers_new_tasks():
    """12 tasks of 4 sizes, slopes with estimated errors: the nominal 95% holds for new tasks (binomial tolerance)."""
    rng, covered, studies = np.random.default_rng(0), 0, 600
    x = np.log([5.49, 21.59, 85.65, 303.1])
    x -= x.mean()
    for _ in range(studies):
        slopes = 0.05 + 0.03 * rng.standard_normal(13)
        y = slopes[:, None] * x + 0.03 * np.exp(0.3 * rng.standard_normal((13, 1))) * rng.standard_normal(
            (13, 4)
        )
        fitted = y @ x / (x @ x)
        noise = ((y - y.mean(1, keepdims=True) - fitted[:, None] * x) ** 2).sum(1) / 2
        found = meta_regression(fitted[:12], np.sqrt(noise[:12] / (x @ x)))
        low, high = found.prediction([1.0])
        covered += low <= slopes[12] <= high
    assert 0.92 <= covered / studies <= 0.975


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 2)), min_size=4, max_size=12),
    st.floats(0.1, 10), st.floats(-3, 3),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_change_of_unit_changes_nothing_else(rows, factor, shift):
    effects, errors = np.array(rows).T
    one = meta_regression(effects, errors)
    other = meta_regression(factor * effects + shift, factor * errors)
    assert other.beta[0] == pytest.approx(factor * one.beta[0] + shift, abs=1e-5 * factor)
    assert other.tau == pytest.approx(factor * one.tau, abs=1e-4 * factor)
    assert (one.shrunken >= effects.min() - 1e-9).all()
    assert (one.shrunken <= effects.max() + 1e-9).all()


@pytest.mark.parametrize(
    ("effects", "errors", "design"),
    [
        ([1.0], [1.0], None),
        ([1.0, 2.0], [1.0, 0.0], None),
        ([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], np.ones((3, 2))),
    ],
)
def test_what_does_not_determine_the_coefficients_is_refused(effects, errors, design):
    with pytest.raises(ValueError, match="do not determine"):
        meta_regression(effects, errors, design)
