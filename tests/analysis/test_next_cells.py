"""Choices of cells against exhaustive search, and against the variance of a forecast with the chosen runs added."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orch_analysis.design.next_cells import Candidates, Trunks, choose, simple_orders
from orch_analysis.forecast.kriging import Kriging, krige, prior

GRID = np.log([[n, d] for n in np.geomspace(1e7, 1e9, 5) for d in np.geomspace(1e8, 1e10, 5)])
COST = np.exp(GRID.sum(axis=1))
TARGET = np.log([[4e9, 4e10]])


def surface(seed: int = 0, count: int = 8) -> Kriging:
    generator = np.random.default_rng(seed)
    x = GRID[generator.permutation(25)[:count]]
    law = np.log(1.7 + 400 * np.exp(-0.34 * x[:, 0]) + 410 * np.exp(-0.28 * x[:, 1]))
    return krige(x, law + 0.003 * generator.standard_normal(count))


def with_runs(found: Kriging, x: np.ndarray, sd: float = 0.0) -> Kriging:
    """The same surface, its parameters unchanged, after runs at `x` whose values are of no account for its variance."""
    return replace(
        found, x=np.concatenate([found.x, x - found.centre]), y=np.append(found.y, np.zeros(len(x))),
        sd=np.append(found.sd, np.full(len(x), sd)),
    )  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 100), st.floats(0.01, 1.0), st.floats(0, 0.05), st.integers(0, 1))
def test_a_choice_keeps_to_its_budget_and_its_variances_are_those_with_the_runs_added(seed, share, sd, done):
    generator = np.random.default_rng(seed)
    found = surface(seed) if done else prior(GRID.mean(axis=0))
    repeats = generator.integers(0, 4, 25)
    candidates = Candidates(x=GRID, prices=COST, repeats=repeats, sd=sd)
    budget = share * COST.sum()
    choice = choose(found, candidates, TARGET, budget=budget)
    assert COST[list(choice.chosen)].sum() <= budget * (1 + 1e-12)
    assert sum(choice.paid) == pytest.approx(COST[list(choice.chosen)].sum())
    assert (np.bincount(choice.chosen, minlength=25) <= repeats).all()
    assert (np.diff([choice.before, *choice.variances]) <= 1e-12).all()
    assert choice.before == pytest.approx(
        found.predict(TARGET)[1][0] ** 2 if done else found.prior_variance(TARGET - found.centre)[0]
    )
    if choice.chosen:
        exact = with_runs(found, GRID[list(choice.chosen)], sd).predict(TARGET)[1][0] ** 2
        assert choice.after == pytest.approx(exact, rel=1e-4, abs=1e-10)


def test_one_cell_alone_is_the_best_by_exhaustion():
    found = surface(3)
    candidates = Candidates(x=GRID, prices=np.ones(25), repeats=np.ones(25, dtype=int))
    choice = choose(found, candidates, TARGET, budget=1.0)
    variances = [with_runs(found, GRID[[index]]).predict(TARGET)[1][0] for index in range(25)]
    assert choice.chosen == (int(np.argmin(variances)),)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 100))
def test_three_cells_of_equal_price_are_nearly_the_best_of_all_triples(seed):
    """Greedy choice of a submodular gain: at least 1 - 1/e of it (Nemhauser et al. 1978); in practice much closer."""
    found, few = surface(seed), np.random.default_rng(seed).permutation(25)[:7]
    candidates = Candidates(x=GRID[few], prices=np.ones(7), repeats=np.ones(7, dtype=int))
    choice = choose(found, candidates, TARGET, budget=3.0)
    best = min(
        with_runs(found, GRID[few[[a, b, c]]]).predict(TARGET)[1][0] ** 2
        for a in range(7) for b in range(a) for c in range(b)
    )  # fmt: skip
    assert choice.before - choice.after >= 0.8 * (choice.before - best)


def test_the_dear_end_is_represented_and_beats_the_simple_orders():
    for seed in range(5):
        found = surface(seed, 6)
        candidates = Candidates(x=GRID, prices=COST, repeats=np.ones(25, dtype=int))
        budget = 2.2 * COST.max()
        choice = choose(found, candidates, TARGET, budget=budget)
        assert COST[list(choice.chosen)].max() >= 0.4 * COST.max()
        others = simple_orders(found, candidates, TARGET, budget=budget)
        assert choice.after <= min(others.values()) * (1 + 1e-9)


def test_what_is_spent_first_is_a_part_of_the_whole_plan_and_at_least_one_cell():
    found = surface(1)
    candidates = Candidates(x=GRID, prices=COST, repeats=np.full(25, 2))
    budget = 3 * COST.max()
    whole = choose(found, candidates, TARGET, budget=budget)
    part = choose(found, candidates, TARGET, budget=budget, spend=budget / 4)
    assert not set(part.chosen) - set(whole.chosen)
    assert len(part.chosen) == 1 or sum(part.paid) <= budget / 4 * (1 + 1e-12)
    assert choose(found, candidates, TARGET, budget=budget, spend=0.0).chosen == whole.chosen[:1]
    assert choose(found, candidates, TARGET, budget=0.5 * COST.min()).chosen == ()


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0.1, 9), st.floats(0.1, 9), st.integers(0, 2)),
        min_size=6,
        max_size=12,
    ),
    st.floats(1, 80),
)
def test_what_is_chosen_pays_the_longest_trunk_of_each_run_once(rows, budget):
    group, trunk, rest, runs = (np.array(column) for column in zip(*rows, strict=True))
    x = GRID[np.random.default_rng(len(rows)).permutation(25)[: group.size]]
    trunks = Trunks(group=group, price=trunk, runs=runs)
    candidates = Candidates(x=x, prices=trunk + rest, repeats=3 - runs, trunks=trunks)
    choice = choose(surface(), candidates, TARGET, budget=budget)
    assert sum(choice.paid) <= budget * (1 + 1e-9)
    longest: dict[tuple[int, int], float] = {}
    before: dict[tuple[int, int], float] = {}
    for index, done in enumerate(runs):
        for run in range(done):
            at = group[index], run
            longest[at] = before[at] = max(longest.get(at, 0.0), trunk[index])
    taken = runs.copy()
    for index in choice.chosen:
        at = group[index], taken[index]
        longest[at], taken[index] = max(longest.get(at, 0.0), trunk[index]), taken[index] + 1
    closed = (
        sum(length - before.get(at, 0.0) for at, length in longest.items()) + rest[list(choice.chosen)].sum()
    )
    assert sum(choice.paid) == pytest.approx(closed)
