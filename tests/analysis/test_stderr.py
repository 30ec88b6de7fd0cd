"""Standard errors from test sets against U-statistics by brute force, the bootstrap, and simulated truth."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orch_analysis.fitting.fit import fit
from orch_analysis.stderr import accuracy_stderr, auc_stderr, auc_stderr_from_counts
from orch_core.errors import OrchError


def by_pairs(positive: np.ndarray, negative: np.ndarray) -> float:
    """DeLong's variance from the matrix of all pairs."""
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    rows, columns = wins.mean(axis=1), wins.mean(axis=0)
    return float(np.sqrt(rows.var(ddof=1) / positive.size + columns.var(ddof=1) / negative.size))


SCORES = st.lists(st.integers(-5, 5), min_size=2, max_size=30)


@given(positive=SCORES, negative=SCORES)
def test_delong_is_the_u_statistic_of_all_pairs_ties_included(
    positive: list[int], negative: list[int]
) -> None:
    labels = [1] * len(positive) + [0] * len(negative)
    expected = by_pairs(np.array(positive), np.array(negative))
    assert auc_stderr(positive + negative, labels) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_delong_agrees_with_the_stratified_bootstrap() -> None:
    rng = np.random.default_rng(1)
    positive, negative = rng.normal(1.0, 1.5, 150), rng.normal(0.0, 1.0, 250)
    wins = (positive[:, None] > negative).astype(float)
    a = rng.multinomial(150, np.full(150, 1 / 150), size=4000) / 150
    b = rng.multinomial(250, np.full(250, 1 / 250), size=4000) / 250
    areas = np.einsum("ri,ij,rj->r", a, wins, b, optimize=True)
    labels = np.arange(400) < 150
    assert auc_stderr(np.concatenate([positive, negative]), labels) == pytest.approx(areas.std(), rel=0.05)


def test_hanley_mcneil_is_exact_for_exponential_scores() -> None:
    """Scores with survival powers: the spread of the area over simulated test sets of 40 and 60 cases."""
    rng, area = np.random.default_rng(0), 0.8
    positive = rng.exponential(area / (1 - area), (4000, 40))
    negative = rng.exponential(1.0, (4000, 60))
    areas = np.array([(p[:, None] > n).mean() for p, n in zip(positive, negative, strict=True)], dtype=float)
    assert areas.mean() == pytest.approx(area, abs=0.003)
    assert auc_stderr_from_counts(area, 40, 60) == pytest.approx(areas.std(), rel=0.04)
    assert auc_stderr_from_counts(np.array([0.7, 0.9]), 40, np.array([60, 600])).shape == (2,)


def test_accuracy_is_binomial_and_never_certain() -> None:
    assert accuracy_stderr(0.8, 250) == pytest.approx(stats.binom(250, 0.8).std() / 250)
    assert (accuracy_stderr([0.0, 1.0], 100) > 0).all()
    assert accuracy_stderr([0.5, 0.5], [100, 400]) == pytest.approx([0.05, 0.025])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: auc_stderr([0.1, 0.2, 0.3], [1, 0, 0]), "1 positives"),
        (lambda: auc_stderr([0.1, np.nan, 0.3, 0.2], [1, 0, 0, 1]), "NaN"),
        (lambda: auc_stderr([0.1, 0.2], [1, 0, 1]), "one length"),
        (lambda: auc_stderr([0.1, 0.2, 0.3, 0.4], [1, 2, 2, 1]), "0 or 1"),
        (lambda: auc_stderr_from_counts(87.0, 10, 10), r"\[0, 1\]"),
        (lambda: auc_stderr_from_counts(0.87, 0, 10), "at least 1"),
        (lambda: accuracy_stderr(1.2, 10), r"\[0, 1\]"),
        (lambda: accuracy_stderr(0.2, 0), "at least 1"),
    ],
)
def test_impossible_test_sets_are_named(call: object, words: str) -> None:
    with pytest.raises(OrchError, match=words):
        call()  # type: ignore[operator]


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
        table = pl.DataFrame({"params": size, "y": errors, "se": [auc_stderr(row, labels) for row in scores]})
        found = fit("power", table, value="y", stderr="se", bootstrap=300)
        low, high = found.intervals["slope"]
        hits += low <= -0.15 <= high
    assert found.interval == "parametric"
    assert stats.binom(sets, 0.95).cdf(hits) > 0.005
    assert hits < sets
