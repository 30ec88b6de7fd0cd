"""Resampling: which data sets the study could equally well have produced."""

from __future__ import annotations

import numpy as np

from orch_analysis.law import Array


def resampled_weights(n: int, bootstrap: int, seed: int, clusters: Array | None = None) -> Array:
    """How often each row occurs in each bootstrap sample: (bootstrap, n) counts.

    Pairs bootstrap (Efron 1979): rows are drawn with replacement, or whole clusters when their labels are given
    (Davison & Hinkley 1997, sec. 3.8). The stream is numpy's RandomState, frozen for ever (NEP 19), so a seed gives
    the same samples in every version; seed 42 gives those of Besiroglu et al. 2024 (arXiv:2404.10102).
    """
    stream = np.random.RandomState(seed)
    units = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    count = int(units.max()) + 1 if n else 0
    drawn = (
        stream.randint(0, count, size=(bootstrap, count)) if count else np.zeros((bootstrap, 0), dtype=int)
    )
    flat = drawn + count * np.arange(bootstrap)[:, None]
    weights = np.bincount(flat.ravel(), minlength=bootstrap * count).reshape(bootstrap, count)
    return weights[:, units].astype(float)


def percentile(draws: Array, level: float) -> tuple[float, float]:
    """Central interval of the draws."""
    ends = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return float(ends[0]), float(ends[1])
