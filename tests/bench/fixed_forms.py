"""The fixed forms that forecasts are held against: M2 and M4 as their authors fit them, BNSL with one break.

M2, M4: Alabdulmohsin, Neyshabur, Zhai 2022 (arXiv 2209.06640), written here from the paper and the procedure of its
released notebook: linear least squares for (log beta, c, alpha) alternates with descent on (err_inf, err_0); 100
rounds of 1000 gradient steps of 1e-8, then damped Newton steps until beta moves by less than 1e-10, at most 10,000
rounds. Kept as released: the design keeps the initial err_0, and beta >= 1, c <= 0, alpha >= 0 in M4.
All curves are advanced together, one row each.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.optimize import least_squares

from orch_analysis.forecast import shapes

MARGIN = 1e-3  # err_inf stays below the smallest error by this, err_0 above the largest
FLAT = 1e-5  # curvatures and alphas below this count as zero
ROUNDS, GRADIENT_ROUNDS, GRADIENT_STEPS, NEWTON_STEPS = 10_000, 100, 1000, 100


def official(curves, form, starts, caps):
    """Parameters of M2 or M4 for every (x, y) of `curves`.

    starts: initial err_0 of each; caps: its largest value or None. Returns a dict of arrays, one entry a curve.
    """
    logs, y, weight = _padded(curves)
    low = np.array([e.min() for _, e in curves]) - MARGIN
    high = np.array([e.max() for _, e in curves]) + MARGIN
    cap = np.array([np.inf if c is None else c + MARGIN for c in caps])
    bottom, top = low.copy(), np.array(starts, float)
    columns = [np.ones_like(logs), -logs] + ([np.log(top[:, None] - y)] if form == "M4" else [])
    design = np.stack(columns, axis=2)
    gram = np.einsum("kn,kni,knj->kij", weight, design, design)
    found = {"beta": np.ones(len(y)), "c": np.zeros(len(y)), "alpha": np.zeros(len(y))}
    active, before = np.arange(len(y)), np.ones(len(y))
    for turn in range(ROUNDS):
        k = active
        right = np.einsum("kn,knj,kn->kj", weight[k], design[k], np.log(y[k] - bottom[k, None]))
        line = (
            nonnegative(gram[k], right)
            if form == "M4"
            else np.linalg.solve(gram[k], right[..., None])[..., 0]
        )
        found["beta"][k], found["c"][k] = np.exp(line[:, 0]), -line[:, 1]
        alpha = found["alpha"][k] = line[:, 2] if form == "M4" else np.zeros(len(k))
        law = line[:, :1] - line[:, 1:2] * logs[k]
        box = low[k], high[k], cap[k]
        bottom[k], top[k] = _descend(
            y[k], weight[k], law, alpha, bottom[k], top[k], box, turn < GRADIENT_ROUNDS
        )
        done = (np.abs(found["beta"][k] - before[k]) < 1e-10) & (turn > GRADIENT_ROUNDS + 1)
        before[k] = found["beta"][k]
        active = k[~done]
        if not len(active):
            break
    return {**found, "err_inf": bottom, "err_0": top}


def _padded(curves):
    """ln x, y and weights 1/n as rows of one length."""
    width = max(len(x) for x, _ in curves)
    rows = [(np.resize(np.log(x), width), np.resize(y, width)) for x, y in curves]
    weight = np.array([(np.arange(width) < len(x)) / len(x) for x, _ in curves])
    return np.array([r[0] for r in rows]), np.array([r[1] for r in rows]), weight


def _descend(y, weight, law, alpha, bottom, top, box, gradient_only):
    """Gradient or Newton steps on (err_inf, err_0) at a fixed law, projected on the box after each."""
    low, high, cap = box
    for _ in range(GRADIENT_STEPS if gradient_only else NEWTON_STEPS):
        above, below = y - bottom[:, None], top[:, None] - y
        residual = np.log(above) - alpha[:, None] * np.log(below) - law
        slope = -(weight * residual / above).sum(1)
        slope_top = -alpha * (weight * residual / below).sum(1)
        if gradient_only:
            bottom, top = bottom - 1e-8 * slope, top - 1e-8 * slope_top
        else:
            bend = (weight * (1 - residual) / above**2).sum(1)
            bend_top = alpha * (weight * (alpha[:, None] + residual) / below**2).sum(1)
            bottom = bottom - _damped(slope, bend)
            top = top - _damped(slope_top, bend_top)
        bottom = np.minimum(np.maximum(bottom, 0.0), low)
        top = np.minimum(np.maximum(top, high), cap)
    return bottom, top


def _damped(slope, bend):
    steep = np.abs(bend) > FLAT
    return np.where(steep, 0.1 * slope / np.where(steep, bend, 1.0), 0.0)


def nonnegative(gram, right):
    """argmin b'Gb/2 - r'b over b >= 0 for every row: the best of all supports whose solution is feasible."""
    rows, size = right.shape
    best, value = np.zeros((rows, size)), np.zeros(rows)
    for count in range(1, size + 1):
        for support in map(list, combinations(range(size), count)):
            inverse = np.linalg.pinv(gram[:, support][:, :, support])
            part = (inverse @ right[:, support, None])[..., 0]
            height = -(right[:, support] * part).sum(1)
            better = (part >= -1e-15).all(1) & (height < value)
            full = np.zeros((rows, size))
            full[:, support] = part
            value, best = np.where(better, height, value), np.where(better[:, None], full, best)
    return best


def predict(found, k, x):
    """ln error of curve k at x: the grid of 10,000 values of the released code."""
    bottom, top, alpha = found["err_inf"][k], found["err_0"][k], found["alpha"][k]
    law = found["beta"][k] * x ** found["c"][k]
    if abs(alpha) < FLAT:
        return np.log(bottom + law)
    grid = np.linspace(0, top - bottom, 10_000)
    other = (top - bottom - grid) ** alpha
    return np.log(bottom + np.array([grid[np.abs(grid - value * other).argmin()] for value in law]))


def broken(x, y, ahead):
    """ln prediction of BNSL with one break (Caballero et al. 2023, eq. 1): least squares on ln y from four starts.

    Their code searches 163,840 starts by brute force; here the once-broken shapes of a grid are scored in closed form
    and the four best that differ are refined.
    """
    u, logs = np.log(x / x[-1]), np.log(y)
    grid = shapes.broken_grid(float(-u[0]))
    limit, size, rest = shapes.amplitudes(shapes.broken_shapes(grid, u), y, np.ones(len(u)))
    lower, upper = np.array([-20, -20, -3, -5, u[0] - 3, -5.0]), np.array([5, 20, 5, 5, 3, 3.0])

    def law(p, at):
        width = np.exp(p[5])
        return np.logaddexp(p[0], p[1] - p[2] * at - p[3] * width * np.logaddexp(0, (at - p[4]) / width))

    picked = []
    for k in rest.argsort()[:400]:
        if size[k] > 0 and all(np.abs(grid[:, k] - grid[:, other]).max() > 0.3 for other in picked):
            picked.append(k)
    runs = []
    for k in picked[:4]:
        c0, c1, d, f = grid[:, k]
        start = [np.log(max(limit[k], 1e-3 * y.min())), np.log(size[k]) + c0 * d, c0, c1 - c0, d, np.log(f)]
        start = np.clip(start, lower + 1e-6, upper - 1e-6)
        runs.append(least_squares(lambda p: law(p, u) - logs, start, bounds=(lower, upper), max_nfev=300))
    return law(min(runs, key=lambda run: run.cost).x, np.log(ahead / x[-1]))
