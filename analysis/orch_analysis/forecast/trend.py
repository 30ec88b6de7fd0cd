"""A local trend with a memory: the non-parametric members of a forecast.

ln y is a level and a slope at the last scale plus an integrated Wiener process towards the past (a cubic
smoothing spline; Wahba 1978), seen through noise. Curves whose slope drifts, and noisy ones, are what the
power laws get wrong.
"""

from __future__ import annotations

import numpy as np

from orch_analysis.forecast.shapes import Floats

SLOPE = (-0.3, 0.3)  # prior mean and deviation of d ln y / d ln x; published exponents are .1 to .6
NOISES = (0.001, 0.003, 0.006, 0.01, 0.02, 0.04, 0.08)  # standard deviations of ln y
DRIFTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # standard deviation of the slope per sqrt(nat)


def level_and_slope(u: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Level and slope of ln y at u = 0 under every noise and drift, and each pair's posterior share.

    The level has a flat prior; shares are marginal likelihoods, normalised.
    """
    past = -u
    near, far = np.minimum.outer(past, past), np.maximum.outer(past, past)
    wiener = near**3 / 3 + near**2 * (far - near) / 2
    mean, deviation = SLOPE
    prior = deviation**2 * np.outer(u, u)
    ones, rest = np.ones(len(u)), np.log(y) - mean * u
    levels, slopes, logs = [], [], []
    for noise in NOISES:
        for drift in DRIFTS:
            root = np.linalg.cholesky(drift**2 * wiener + prior + noise**2 * np.eye(len(u)))
            white = np.linalg.solve(root, np.stack([ones, rest, u], axis=1))
            one, seen, lean = white.T
            level = float(one @ seen / (one @ one))
            residual = seen - level * one
            levels.append(level)
            slopes.append(mean + deviation**2 * float(lean @ residual))
            determinant = np.log(np.diag(root)).sum() + np.log(one @ one) / 2
            logs.append(-determinant - residual @ residual / 2)
    shares = np.exp(np.array(logs) - max(logs))
    return np.array(levels), np.array(slopes), shares / shares.sum()


def damped(target: Floats, memory: float) -> Floats:
    """How far a slope carries: `m (1 - exp(-u / m))`, a slope that fades over `memory` nats (Gardner 1985).

    Towards the past, u < 0, it carries all the way.
    """
    return np.where(target < 0, target, memory * -np.expm1(-np.maximum(target, 0.0) / memory))
