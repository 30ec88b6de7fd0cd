"""A law's estimates and what they are worth: never without interval, n, residuals and outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from orch_analysis.fitting import resampling
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.problem import from_link, to_link
from orch_analysis.laws.law import Array, Law, Link
from orch_core.errors import OrchError

Band = Literal["mean", "new"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A row of the table that was left out: its number (from 1, in the file where there is one) and why."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identifiability:
    """Whether the data determine a parameter: `range` holds the values whose best fit is nearly as good."""

    identified: bool
    range: tuple[float, float]
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A law's value at one scale with its band; `extrapolation` is the distance beyond the fitted range, a factor.

    `lo` and `hi` are None when the fit has no intervals.
    """

    value: float
    lo: float | None
    hi: float | None
    extrapolation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What exact t bands of a log-log line need: mean of log x, its sum of squares, residual sd, degrees of freedom."""

    center: float
    spread: float
    weight: float
    sd: float
    dof: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One law fitted to one group of points.

    `estimates` and `intervals` are empty when `outcome` says that no number is worth printing. `residuals` are in
    the law's `link`, in the order of the rows used; `sd` is their robust standard deviation with n - p degrees of
    freedom. `certificate` is the share of independent starts whose objective agrees with the best to 1e-8 (None for
    closed forms). `draws` (replicates, free parameters) are the bootstrap estimates, shifted and scaled as
    `interval` says. `ranges` gives lowest and highest value of every variable among the rows used.
    """

    law: Law
    group: Mapping[str, str]
    value: str
    x: Mapping[str, str | float]
    loss: str
    link: Link
    delta: float | None
    estimates: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    level: float
    interval: resampling.Kind | Literal["none"]
    objective: float | None
    n: int
    residuals: tuple[float, ...]
    sd: float | None
    dropped: tuple[Dropped, ...]
    outcome: Outcome
    message: str
    certificate: float | None
    identifiability: Mapping[str, Identifiability]
    ranges: Mapping[str, tuple[float, float]]
    bootstrap: int
    seed: int
    warnings: tuple[str, ...]
    settings: Mapping[str, object] = field(default_factory=dict)
    line: Line | None = None
    draws: Array = field(compare=False, repr=False)

    def predict(self, *, band: Band = "mean", level: float | None = None, **x: float) -> Prediction:
        """The law's value at `x` (its variables by name) and its band at `level` (that of the fit by default).

        band="mean" is where the curve lies; band="new" is where one more measured point would fall.
        Raises OrchError for a missing or non-positive variable, or when the fit has no estimates.
        """
        self._check(x)
        point = {name: np.array([float(x[name])]) for name in self.law.x}
        value = float(self.law.value(point, self.estimates)[0])
        extent = 1.0
        for name, (lo, hi) in self.ranges.items():
            extent = max(extent, x[name] / hi, lo / x[name])
        band_of = self._band(point, value, band, self.level if level is None else level)
        return Prediction(value=value, lo=band_of[0], hi=band_of[1], extrapolation=float(extent))

    def _check(self, x: Mapping[str, float]) -> None:
        if not self.estimates:
            msg = f"the {self.law.name} fit has no estimates: {self.message}"
            raise OrchError(msg, hint="mend the points and fit again")
        for name in self.law.x:
            if name not in x:
                msg = f"law {self.law.name} needs {', '.join(self.law.x)}; {name} is missing"
                raise OrchError(msg, hint=f"give {name}=...")
            if not 0 < x[name] < np.inf:
                msg = f"{name} must be positive and finite, got {x[name]}"
                raise OrchError(msg, hint="sizes are counts: parameters, samples, FLOPs")
        extra = sorted(set(x) - set(self.law.x))
        if extra:
            msg = f"law {self.law.name} has no variable {', '.join(extra)}"
            raise OrchError(msg, hint=f"its variables: {', '.join(self.law.x)}")

    def _band(
        self, point: Mapping[str, Array], value: float, band: Band, level: float
    ) -> tuple[float | None, float | None]:
        if self.line is not None:
            return self._line_band(self.line, float(next(iter(point.values()))[0]), value, band, level)
        if not len(self.draws):
            return None, None
        named = {name: self.draws[:, i : i + 1] for i, name in enumerate(self.law.free)}
        with np.errstate(all="ignore"):
            curve = to_link(self.link, self.law.value(point, named)[:, 0])
        if band == "new" and self.residuals:
            pool = np.asarray(self.residuals) * self._inflation()
            curve = curve + np.random.default_rng(self.seed).choice(pool - pool.mean(), size=curve.size)
        curve = curve[np.isfinite(curve)]
        if curve.size < 20:
            return None, None
        kind: resampling.Kind = "t" if self.interval == "none" else self.interval
        ends = from_link(self.link, np.array(resampling.percentile(curve, level, kind)))
        return float(ends.min()), float(ends.max())

    def _inflation(self) -> float:
        return float(np.sqrt(self.n / max(self.n - len(self.law.free), 1)))

    def _line_band(
        self, line: Line, at: float, value: float, band: Band, level: float
    ) -> tuple[float, float]:
        from scipy.special import stdtrit

        variance = 1.0 / line.weight + (np.log(at) - line.center) ** 2 / line.spread + (band == "new")
        half = float(stdtrit(line.dof, 0.5 + level / 2) * line.sd * np.sqrt(variance))
        return value * float(np.exp(-half)), value * float(np.exp(half))
