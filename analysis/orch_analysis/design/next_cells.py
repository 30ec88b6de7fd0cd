"""Which cells to run next: those that shrink a prediction's interval most for their price, from the fit so far.

Greedy one-step design for one linear functional of the parameters (c-optimality; Atkinson, Donev & Tobias 2007,
Optimum Experimental Designs, ch. 10 and 17): a cell with derivatives a (over the noise) takes
(j'V a)^2 / (1 + a'V a) off the variance j'V j of the prediction, V being the covariance so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orch_analysis.design.expected import AssumedLaw, jacobian
from orch_analysis.laws.law import Array, Values

RIDGE = 1e-6  # prior precision of every parameter: an exponent, or a log, is known to some 1,000


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Candidates to run, in order: their index, their price then, whether to check the law's form, and the variance after each.

    Variances are of the target's prediction in the law's link; `before` is without any of them.
    """

    chosen: tuple[int, ...]
    paid: tuple[float, ...]
    checks: tuple[bool, ...]
    before: float
    variances: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trunks:
    """Runs that share their beginning: candidates of one group and repetition train up to the longest trunk once.

    group: a number per candidate, equal where the trunk is; price: of each candidate's trunk, a part of its price
    runs:  repetitions of each candidate that are done
    """

    group: NDArray[np.int_]
    price: Array
    runs: NDArray[np.int_]


class MarginalCost:
    """What each candidate costs next, given what has been chosen."""

    def __init__(self, prices: Array, trunks: Trunks | None, most: int) -> None:
        self.prices, self.trunks = prices, trunks
        self.taken = np.zeros(prices.size, dtype=int) if trunks is None else trunks.runs.copy()
        groups = 0 if trunks is None else int(trunks.group.max(initial=0)) + 1
        self.reached = np.zeros((groups, int(self.taken.max(initial=0)) + most + 1))
        for index, done in enumerate(self.taken if trunks else ()):
            for run in range(done):
                self._reach(index, run)

    def due(self) -> Array:
        """Price [candidates] of each one as the next, in the unit of `prices`."""
        if self.trunks is None:
            return self.prices
        there = self.reached[self.trunks.group, self.taken]
        return np.asarray(self.prices - np.minimum(self.trunks.price, there))

    def add(self, index: int) -> None:
        """Count candidate `index` as chosen once more."""
        if self.trunks:
            self._reach(index, int(self.taken[index]))
            self.taken[index] += 1

    def _reach(self, index: int, run: int) -> None:
        assert self.trunks is not None
        at = int(self.trunks.group[index]), run
        self.reached[at] = max(self.reached[at], self.trunks.price[index])


def choose(
    assumed_law: AssumedLaw,
    done: Values,
    candidates: Values,
    prices: Array,
    target: Mapping[str, float],
    *,
    budget: float,
    repeats: Array | None = None,
    check: float = 0.0,
    trunks: Trunks | None = None,
) -> Choice:
    """The candidates to run within `budget`, best gain in variance per price first.

    done, candidates: points as arrays by variable; prices: of each candidate, positive, in the unit of `budget`
    repeats: how often each candidate may still be run (seeds); once by default
    check:   share of the budget kept for testing the form: it goes to the affordable candidates whose prediction is
             least certain before they run, for there a wrong law shows first
    trunks:  what candidates share, so that one costs less after another
    """
    left = np.ones(prices.size, dtype=int) if repeats is None else repeats.astype(int).copy()
    rows = jacobian(assumed_law, candidates) / assumed_law.noise
    aim = jacobian(assumed_law, {name: np.array([float(target[name])]) for name in assumed_law.law.x})[0]
    covariance = _covariance(assumed_law, done)
    before = float(aim @ covariance @ aim)
    marginal = MarginalCost(prices, trunks, int(left.max(initial=0)))
    chosen: list[int] = []
    paid: list[float] = []
    checks: list[bool] = []
    variances: list[float] = []
    for testing, share in ((False, 1 - check), (True, check)):
        room = share * budget
        while True:
            due = marginal.due()
            index = _best(rows, aim, covariance, due, left, room, testing=testing)
            if index is None:
                break
            covariance = _updated(covariance, rows[index])
            room -= float(due[index])
            paid.append(float(due[index]))
            marginal.add(index)
            left[index] -= 1
            chosen.append(index)
            checks.append(testing)
            variances.append(float(aim @ covariance @ aim))
    return Choice(
        chosen=tuple(chosen),
        paid=tuple(paid),
        checks=tuple(checks),
        before=before,
        variances=tuple(variances),
    )


def _covariance(assumed_law: AssumedLaw, done: Values) -> Array:
    precision = RIDGE * np.eye(len(assumed_law.law.free))
    if next(iter(done.values())).size:
        rows = jacobian(assumed_law, done) / assumed_law.noise
        precision = precision + rows.T @ rows
    return np.asarray(np.linalg.inv(precision))


def _best(
    rows: Array,
    aim: Array,
    covariance: Array,
    prices: Array,
    left: NDArray[np.int_],
    room: float,
    *,
    testing: bool,
) -> int | None:
    """The affordable candidate of most gain per price, or, to test the form, of most uncertainty; None without any."""
    able = (left > 0) & (prices <= room)
    if not able.any():
        return None
    spread = np.einsum("ij,jk,ik->i", rows, covariance, rows)
    gain = spread if testing else (rows @ covariance @ aim) ** 2 / (1 + spread) / prices
    return int(np.where(able, gain, -np.inf).argmax())


def _updated(covariance: Array, row: Array) -> Array:
    """The covariance with one more cell (Sherman & Morrison 1950)."""
    moved = covariance @ row
    return np.asarray(covariance - np.outer(moved, moved) / (1 + float(row @ moved)))


def pilot(candidates: Values, prices: Array, *, least: int) -> tuple[int, ...]:
    """First cells of a study without a fit: every value of a variable, the others at their smallest; cheapest first.

    At least `least` of them: the cheapest others are added.
    """
    names = list(candidates)
    smallest = {name: candidates[name].min() for name in names}
    edge = np.zeros(prices.size, dtype=bool)
    for name in names:
        others = [candidates[other] == smallest[other] for other in names if other != name]
        edge |= np.logical_and.reduce(others) if others else True
    order = np.argsort(prices, kind="stable")
    first = [int(index) for index in order if edge[index]]
    rest = [int(index) for index in order if not edge[index]]
    return tuple(first + rest[: max(0, least - len(first))])
