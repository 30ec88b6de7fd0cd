"""Compute-optimal size and data: N*(C) and D*(C) by three approaches, and what a budget buys.

Hoffmann et al. 2022 (Chinchilla), section 3: 1 the envelope of training curves, 2 the minima of isoFLOP
curves, 3 a parametric law. All three end in ln N* = ln G + a ln C with C = k N D, so b = 1 - a; they differ
in what they assume, and where they disagree the answer is not known yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from orch_analysis.fitting.options import FitOptions
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.points import Points
from orch_analysis.frontiers.minimum import Floats, Minimum, loss_noise, minimum
from orch_analysis.frontiers.run_columns import prepared
from orch_core.errors import OrchError

LEVEL = 0.95
SAME_BUDGET = 0.1  # runs within 10% of FLOPs share an isoFLOP curve (Porian et al. 2024, flop_tolerance)
TOGETHER = 0.02  # samples within 2% of a power of the size are no second direction
APART = 1.5  # N* of two approaches further apart than this is a disagreement even inside the intervals


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """ln N* = intercept + a ln C by one approach; estimates are NaN unless outcome is OK.

    a, b: exponents of N* and D* in C, with 95% intervals; factor: k in C = k N D, FLOPs per parameter and
    sample; n: what the line was fitted to (grid points, minima or runs); low, high: range of C seen.
    draws [r, 2]: intercept and a under resampling. minima: the isoFLOP curves (approach 2 only).
    """

    approach: str
    intercept: float
    a: float
    b: float
    a_interval: tuple[float, float]
    b_interval: tuple[float, float]
    factor: float
    n: int
    low: float
    high: float
    outcome: Outcome = Outcome.OK
    message: str = ""
    warnings: tuple[str, ...] = ()
    minima: tuple[Minimum, ...] = ()
    draws: Floats = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The compute-optimal run for `flops`: parameters and samples, each (value, lo, hi) at 95%.

    horizon: flops over the largest C that the frontier was fitted to.
    """

    approach: str
    flops: float
    params: tuple[float, float, float]
    samples: tuple[float, float, float]
    horizon: float


def envelope(
    runs: Sequence[object],
    params: Floats,
    flops: Floats,
    losses: Floats,
    *,
    factor: float = 6.0,
    bins: int = 200,
    bootstrap: int = 500,
    seed: int = 0,
) -> Frontier:
    """Approach 1: at each C the run with the lowest loss, then a line through ln N over ln C.

    One row per checkpoint: its run, the run's size, FLOPs spent so far and loss. Curves are interpolated in
    ln C and never extended. A C whose best run is the smallest or largest size of all is left out: a smaller
    or larger one might have won. Intervals resample whole runs. Checkpoints of a decaying learning rate
    overstate the loss before the end (Hoffmann et al. 2022, appendix B).
    """
    curves = _curves(runs, params, flops, losses)
    if len(curves) < 3:
        text = f"{len(curves)} training curves of two or more checkpoints; the envelope needs at least 3"
        return _failed("envelope", factor, Outcome.TOO_FEW_CURVES, text)
    sizes = np.array([size for size, _, _ in curves])
    edges = np.geomspace(min(c[0] for _, c, _ in curves), max(c[-1] for _, c, _ in curves), bins)
    grid = np.log(edges)
    heights = np.array(
        [np.interp(grid, np.log(c), y, left=np.inf, right=np.inf) for _, c, y in curves], dtype=np.float64
    )
    line, n = _ridge(sizes, heights, grid)
    if not np.isfinite(line).all():
        text = (
            f"{len(np.unique(sizes))} sizes, of which fewer than two between the smallest and the largest "
            "are the best at any compute; train more sizes, or longer, until the curves of neighbouring "
            "sizes cross"
        )
        return _failed("envelope", factor, Outcome.NO_CROSSING, text, n=n)
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, len(curves), (bootstrap, len(curves)))
    draws = np.array([_ridge(sizes[pick], heights[pick], grid)[0] for pick in picks]).reshape(-1, 2)
    return _line("envelope", line, draws[np.isfinite(draws).all(1)], factor, n, edges[[0, -1]])


def isoflop(
    params: Floats,
    flops: Floats,
    losses: Floats,
    *,
    factor: float = 6.0,
    method: str = "parabola",
    noise: float | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Frontier:
    """Approach 2: the minimum of every isoFLOP curve, then a line through ln N* weighted by 1/variance.

    method: see `isoflop.minimum`; noise: standard deviation of a loss between seeds, estimated from the
    curves when None. The interval carries the seed noise of every minimum, widened by the Birge ratio
    sqrt(chi2 / (n - 2)) where the minima scatter about the line by more than that.
    """
    groups = [np.flatnonzero(label == _budgets(flops)) for label in np.unique(_budgets(flops))]
    groups = [rows for rows in groups if len(np.unique(params[rows])) > 1]
    spread = loss_noise([(params[rows], losses[rows]) for rows in groups]) if noise is None else noise
    minima = tuple(
        minimum(
            params[rows], losses[rows], flops=float(np.exp(np.log(flops[rows]).mean())), noise=spread,
            method=method, draws=bootstrap, seed=seed + index,
        )
        for index, rows in enumerate(groups)
    )  # fmt: skip
    usable = [low for low in minima if low.usable]
    notes = tuple(f"isoFLOP {low.flops:.3g}: {low.outcome}: {low.message}" for low in minima if low.message)
    if len(usable) < 3:
        text = (
            f"{len(usable)} of {len(minima)} isoFLOP curves have a minimum; a line needs 3 and two would "
            "always fit: train more budgets, or the sizes that the notes name"
        )
        return _failed("isoflop", factor, Outcome.TOO_FEW_MINIMA, text, len(usable), notes, minima)
    logs, stars = np.log([low.flops for low in usable]), np.log([low.params for low in usable])
    weights = 1 / np.maximum([low.log_sd for low in usable], 1e-6) ** 2
    line = _weighted_line(logs, stars[:, None], weights)[0]
    scatter = float(np.sum(weights * (stars - line[0] - line[1] * logs) ** 2)) / (len(usable) - 2)
    samples = _filled(np.array([low.draws for low in usable]), stars)
    draws = line + (_weighted_line(logs, samples, weights) - line) * max(1.0, float(np.sqrt(scatter)))
    return _line("isoflop", line, draws, factor, len(usable), np.exp(logs[[0, -1]]), notes, minima)


def parametric(
    estimates: Mapping[str, float],
    draws: Mapping[str, Floats],
    *,
    factor: float = 6.0,
    n: int,
    low: float,
    high: float,
) -> Frontier:
    """Approach 3: minimise E + A/N^alpha + B/D^beta at C = k N D (Hoffmann et al. 2022, eq. 4).

    N* = G (C/k)^a with a = beta/(alpha + beta), G = (alpha A / (beta B))^(1/(alpha + beta)). `estimates` and
    `draws` hold A, B, alpha, beta of the fitted law; low, high: range of C of its points.
    """

    def line(values: Mapping[str, Floats | float]) -> Floats:
        alpha, beta = np.asarray(values["alpha"], float), np.asarray(values["beta"], float)
        ratio = alpha * np.asarray(values["A"], float) / (beta * np.asarray(values["B"], float))
        a = beta / (alpha + beta)
        return np.stack([np.log(ratio) / (alpha + beta) - a * np.log(factor), a], axis=-1)

    with np.errstate(divide="ignore", invalid="ignore"):
        best, sample = line(estimates), line(draws)
    if not np.isfinite(best).all():
        text = (
            "A, B, alpha and beta must all be positive for an optimum inside; the law's fit says which is not"
        )
        return _failed("parametric", factor, Outcome.NO_INNER_OPTIMUM, text, n)
    return _line("parametric", best, sample[np.isfinite(sample).all(1)], factor, n, np.array([low, high]))


def frontier(
    table: pl.DataFrame | Points,
    *,
    value: str,
    params: str,
    samples: str | None = None,
    flops: str | None = None,
    run: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> tuple[Frontier, ...]:
    """Every approach on one table of points; those that do not apply come back with an outcome that says why.

    value, params, samples, flops, run: columns of the loss, N, D, C and the training run of a checkpoint. One
    of samples and flops may be missing (C = 6 N D); with both, k is the median of C / (N D). The envelope
    needs `run`. The parametric law takes the last point of every run. Raises OrchError for columns that do
    not exist and where both samples and flops are missing.
    """
    if samples is None and flops is None:
        message = "a frontier needs the samples or the FLOPs of every point"
        raise OrchError(message, hint="map one: --map samples=COLUMN or --map compute=COLUMN")
    frame = table.frame if isinstance(table, Points) else table
    rows, factor = prepared(frame, {"N": params, "D": samples, "C": flops, "L": value}, run)
    n, c, loss = (rows[name].to_numpy() for name in ("N", "C", "L"))
    runs = rows["run"].to_list() if run else list(range(rows.height))
    last = rows.sort("C").unique("run", keep="last", maintain_order=True) if run else rows
    ends = (last[name].to_numpy() for name in ("N", "C", "L"))
    return (
        envelope(runs, n, c, loss, factor=factor, bootstrap=min(bootstrap, 500), seed=seed),
        isoflop(*ends, factor=factor, method="akima", bootstrap=bootstrap, seed=seed),
        of_law(last, factor=factor, bootstrap=bootstrap, seed=seed),
    )


def of_law(rows: pl.DataFrame, *, factor: float = 6.0, bootstrap: int = 1000, seed: int = 0) -> Frontier:
    """Approach 3 on columns N, D, C and L: the Chinchilla law by `fit`, then its optimum.

    Runs whose data follow from their size (D = 20 N, say) show what both do together, not how to share a
    budget.
    """
    from orch_analysis.fitting.fit import fit

    if _together(rows["N"].to_numpy(), rows["D"].to_numpy()):
        text = (
            "samples follow from params in all runs, so nothing shows which of them to grow; vary them apart"
        )
        return _failed("parametric", factor, Outcome.ONE_DIRECTION, text, rows.height)
    options = FitOptions(value="L", x={"params": "N", "samples": "D"}, bootstrap=bootstrap, seed=seed)
    found = fit("chinchilla", rows, options)
    if not found.estimates:
        return _failed("parametric", factor, found.outcome, found.message, found.n)
    draws = {name: found.draws[:, index] for index, name in enumerate(found.law.free)}
    reach = rows["C"].to_numpy()
    line = parametric(
        found.estimates, draws, factor=factor, n=found.n, low=float(reach.min()), high=float(reach.max())
    )
    return replace(line, warnings=found.warnings) if found.outcome is Outcome.OK else replace(
        line, warnings=(*found.warnings, f"{found.outcome}: {found.message}")
    )  # fmt: skip


def _together(n: Floats, d: Floats) -> bool:
    """Whether ln D rises as a line in ln N to within TOGETHER, over more sizes than two."""
    logs = np.log(n)
    if np.unique(logs).size < 3:
        return False
    line = np.polyfit(logs, np.log(d), 1)
    return bool(line[0] > 0.01 and (np.log(d) - np.polyval(line, logs)).std() < TOGETHER)


def optimum(one: Frontier, flops: float) -> Optimum:
    """N* and D* of one approach at `flops`, with 95% intervals from its draws."""
    sizes = np.exp(one.draws @ np.array([1.0, np.log(flops)]))
    value = float(np.exp(one.intercept + one.a * np.log(flops)))
    tail = (1 - LEVEL) / 2
    nan = float("nan")
    lo, hi = (float(q) for q in np.quantile(sizes, [tail, 1 - tail])) if len(sizes) else (nan, nan)
    per = flops / one.factor
    return Optimum(
        approach=one.approach, flops=flops, params=(value, lo, hi),
        samples=(per / value, per / hi, per / lo), horizon=flops / one.high,
    )  # fmt: skip


def disagreements(frontiers: Sequence[Frontier], flops: float) -> tuple[str, ...]:
    """A sentence for every pair of approaches whose N* at `flops` differ by 1.5x or whose intervals miss."""
    good = [one for one in frontiers if one.outcome is Outcome.OK]
    found = []
    for index, left in enumerate(good):
        for right in good[index + 1 :]:
            one, two = optimum(left, flops).params, optimum(right, flops).params
            ratio = max(one[0] / two[0], two[0] / one[0])
            miss = one[2] < two[1] or two[2] < one[1]
            if miss or ratio > APART:
                found.append(
                    f"{left.approach} and {right.approach} disagree at {flops:.3g} FLOPs: N* {one[0]:.3g}"
                    f" [{one[1]:.3g}, {one[2]:.3g}] against {two[0]:.3g} [{two[1]:.3g}, {two[2]:.3g}]"
                    f" (a = {left.a:.3f} against {right.a:.3f})"
                )
    return tuple(found)


def _curves(
    runs: Sequence[object], params: Floats, flops: Floats, losses: Floats
) -> list[tuple[float, Floats, Floats]]:
    """Size, FLOPs (rising) and loss of each run that has two checkpoints or more."""
    rows: dict[object, list[int]] = {}
    for index, run in enumerate(runs):
        rows.setdefault(run, []).append(index)
    curves = []
    for picked in rows.values():
        order = sorted(picked, key=lambda i: float(flops[i]))
        spent, first = np.unique(flops[order], return_index=True)
        if len(spent) > 1:
            curves.append((float(params[order[0]]), spent, losses[order][first]))
    return curves


def _ridge(sizes: Floats, heights: Floats, grid: Floats) -> tuple[Floats, int]:
    """Line through the best sizes along the grid, NaN without two inner sizes; and the grid points used."""
    alive = np.isfinite(heights).sum(axis=0) > 1
    winners = sizes[heights.argmin(axis=0)]
    inner = alive & (winners > sizes.min()) & (winners < sizes.max())
    if len(np.unique(winners[inner])) < 2:
        return np.full(2, np.nan), int(inner.sum())
    slope, intercept = np.polyfit(grid[inner], np.log(winners[inner]), 1)
    return np.array([intercept, slope]), int(inner.sum())


def _budgets(flops: Floats) -> Floats:
    """A label per row: rows whose FLOPs are chained by gaps under 10% share one."""
    order = np.argsort(flops, kind="stable")
    steps = np.diff(np.log(flops[order]), prepend=np.log(flops[order][:1])) > np.log1p(SAME_BUDGET)
    labels = np.empty(len(flops))
    labels[order] = np.cumsum(steps)
    return labels


def _weighted_line(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Intercept and slope of every column of y [n, k] on x [n]: [k, 2]."""
    share = weights / weights.sum()
    middle, heights = share @ x, share @ y
    slope = (share * (x - middle)) @ (y - heights) / (share @ (x - middle) ** 2)
    return np.stack([heights - slope * middle, slope], axis=-1)


def _filled(draws: Floats, stars: Floats) -> Floats:
    """Draws without an inner minimum replaced by the estimate; their variance is in log_sd already."""
    return np.where(np.isfinite(draws), draws, stars[:, None])


def _line(
    approach: str,
    line: Floats,
    draws: Floats,
    factor: float,
    n: int,
    reach: Floats,
    warnings: tuple[str, ...] = (),
    minima: tuple[Minimum, ...] = (),
) -> Frontier:
    tail = (1 - LEVEL) / 2
    lo, hi = (
        (float(q) for q in np.quantile(draws[:, 1], [tail, 1 - tail])) if len(draws) else (np.nan, np.nan)
    )
    a = float(line[1])
    if not 0 < a < 1:
        text = (
            f"N* would change as C^{a:.3f} and D* as C^{1 - a:.3f}: a larger budget would mean a smaller "
            "model or less data; train more sizes and lengths around the best ones"
        )
        return _failed(
            approach, factor, Outcome.EXPONENT_OUTSIDE, text, n=n, warnings=warnings, minima=minima
        )
    return Frontier(
        approach=approach, intercept=float(line[0]), a=a, b=1 - a, a_interval=(lo, hi),
        b_interval=(1 - hi, 1 - lo), factor=factor, n=n, low=float(reach[0]), high=float(reach[1]),
        warnings=warnings, minima=minima, draws=draws,
    )  # fmt: skip


def _failed(
    approach: str,
    factor: float,
    outcome: Outcome,
    message: str,
    n: int = 0,
    warnings: tuple[str, ...] = (),
    minima: tuple[Minimum, ...] = (),
) -> Frontier:
    nan = float("nan")
    return Frontier(
        approach=approach, intercept=nan, a=nan, b=nan, a_interval=(nan, nan), b_interval=(nan, nan),
        factor=factor, n=n, low=nan, high=nan, outcome=outcome, message=message, warnings=warnings,
        minima=minima, draws=np.empty((0, 2)),
    )  # fmt: skip
