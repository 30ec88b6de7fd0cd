"""Correlations against published numbers, scipy, and each other."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from orch_analysis.tasks.correlation import (
    correlate,
    correlation,
    critical_correlation,
    fisher_interval,
    permutation_test,
)

POINTS = Path(__file__).parents[2] / "experiments" / "published" / "biovfm.csv"


def published_slopes() -> pl.DataFrame:
    """Slopes of log AUC on log params by numpy's polyfit, one per algorithm and task."""
    rows = [
        {
            "group": algorithm,
            "task": task,
            "slope": float(np.polyfit(np.log(part["params"]), np.log(part["auc"]), 1)[0]),
        }
        for (algorithm, task), part in pl.read_csv(POINTS).group_by("algorithm", "task", maintain_order=True)
    ]
    return pl.DataFrame(rows)


# BioVFM-21M's notebook, bar chart of correlations: #samples .51 / .33 and #classes .05 / -.24 (DINOv2 / MAE).
@pytest.mark.parametrize(
    ("factor", "dino", "mae"),
    [("n_total", 0.51, 0.33), ("classes", 0.05, -0.24), ("classes_binary", -0.40, -0.63)],
)
def test_published_correlations(factor, dino, mae):
    factors = pl.read_csv(POINTS).unique("task", maintain_order=True)
    table = correlate(published_slopes(), factors, [factor])
    found = dict(table.select("group", "pearson").iter_rows())
    assert round(found["dinov2"], 2) == dino
    assert round(found["mae"], 2) == mae


# Fisher 95% intervals of the published r over 12 tasks, computed by hand with atanh(r) +- 1.96 / 3.
@pytest.mark.parametrize(
    ("r", "lo", "hi"), [(0.51, -0.09, 0.84), (0.33, -0.30, 0.76), (0.61, 0.06, 0.88), (-0.24, -0.72, 0.39)]
)
def test_fisher_intervals_of_the_published_correlations(r, lo, hi):
    assert fisher_interval(r, 12) == pytest.approx((lo, hi), abs=0.006)


def test_against_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12))
    y = y + x
    tasks = [f"t{i}" for i in range(12)]
    found = correlation(list(y), list(x), tasks)
    theirs = stats.pearsonr(x, y)
    assert found.pearson == pytest.approx(theirs.statistic)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.pearson_lo, found.pearson_hi) == pytest.approx(
        tuple(theirs.confidence_interval()), abs=1e-6
    )
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.p_permutation == pytest.approx(found.p, abs=0.02)


def test_permutation_p_is_exact_for_few_tasks():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert permutation_test(x, x**2) == pytest.approx(2 / math.factorial(4))  # itself and its mirror image


def test_the_parts_in_which_many_tasks_are_permuted_and_resampled_do_not_change_the_numbers(monkeypatch):
    rng = np.random.default_rng(0)
    slopes, factor = rng.normal(size=(2, 40))
    tasks = [str(number) for number in range(40)]
    whole = correlation(slopes, factor, tasks)
    module = sys.modules[correlation.__module__]
    monkeypatch.setattr(module, "MANY", 10)
    monkeypatch.setattr(module, "PART", 1000)  # 25 orders at a time
    assert correlation(slopes, factor, tasks) == whole


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=4, max_size=6, unique=True))
@example(
    [(0, 0), (0, -1), (0, -2), (1, 0), (4, -5), (5, 2)]
)  # no correlation at all: every order has as much
def test_exact_permutation_p_is_that_of_whole_numbers(points):
    """Counted in integers, where ties are ties: scipy's own count goes wrong by rounding at r = 0."""
    x, y = zip(*points, strict=True)
    if len(set(x)) > 1 and len(set(y)) > 1:

        def covariance(order):
            return abs(len(x) * sum(a * b for a, b in zip(x, order, strict=True)) - sum(x) * sum(y))

        orders = list(itertools.permutations(y))
        share = sum(covariance(order) >= covariance(y) for order in orders) / len(orders)
        assert permutation_test(np.array(x, float), np.array(y, float)) == pytest.approx(share, abs=1e-12)


def test_leave_one_out_names_the_task_that_carries_the_correlation():
    x, y = [0.0, 1.0, 0.0, 1.0, 9.0], [0.0, 0.0, 1.0, 1.0, 9.0]
    found = correlation(y, x, ["a", "b", "c", "d", "far"])
    assert found.loo_without == "far"
    assert found.loo_lo == pytest.approx(0.0)


def test_a_task_that_alone_makes_the_factor_vary_is_no_end_of_the_range():
    found = correlation([1.0, 2.0, 4.0, 3.0], [5.0, 5.0, 5.0, 9.0], list("abcd"))
    assert found.loo_lo == pytest.approx(min(0.0, np.corrcoef([2, 4, 3], [5, 5, 9])[0, 1]), abs=1e-9)
    assert found.loo_without in {"a", "b", "c"}


def test_corrections_follow_their_definitions():
    rng = np.random.default_rng(3)
    slopes = pl.DataFrame({"group": "g", "task": [f"t{i}" for i in range(10)], "slope": rng.normal(size=10)})
    factors = slopes.select("task").with_columns(
        **{f"f{i}": rng.normal(size=10) + i * slopes["slope"] for i in range(4)}
    )
    table = correlate(slopes, factors, [f"f{i}" for i in range(4)]).sort("p")
    p = table["p"].to_numpy()
    holm = np.minimum(1, np.maximum.accumulate(p * np.array([4, 3, 2, 1])))
    bh = np.minimum.accumulate((p * 4 / np.array([1, 2, 3, 4]))[::-1])[::-1]
    assert table["p_holm"].to_numpy() == pytest.approx(holm)
    assert table["p_bh"].to_numpy() == pytest.approx(bh)


@pytest.mark.parametrize(
    ("slopes", "factor", "words"),
    [([1.0, 2.0], [1.0, 2.0], "needs 3"), ([1.0, 2.0, 3.0], [5.0, 5.0, 5.0], "constant")],
)
def test_what_cannot_be_correlated_says_why(slopes, factor, words):
    found = correlation(slopes, factor, ["a", "b", "c"][: len(slopes)])
    assert found.pearson is None
    assert words in found.note


def test_missing_factors_are_left_out_of_n():
    assert correlation([1.0, 2.0, 3.0, 5.0], [1.0, math.nan, 2.0, 3.0], list("abcd")).n == 3


def test_smallest_correlation_that_can_be_told_from_zero():
    lo, _ = fisher_interval(critical_correlation(12), 12)
    assert lo == pytest.approx(0.0, abs=1e-12)
    assert critical_correlation(12) == pytest.approx(
        0.574, abs=0.001
    )  # the usual table of critical r is .576 by t
