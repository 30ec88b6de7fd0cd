"""A law's estimates and what they are worth: never without interval, n, residuals and outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from html import escape
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orch_analysis import laws
from orch_analysis.fitting import resampling
from orch_analysis.fitting.checks.bounds import Bounds, bounds_of
from orch_analysis.fitting.options import FitOptions
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.plain import from_plain, to_plain
from orch_analysis.fitting.points import Dropped
from orch_analysis.fitting.problem import from_link, to_link
from orch_analysis.laws.law import Array, Law, Link
from orch_core.errors import OrchError
from orch_core.formatting import columns, percent

if TYPE_CHECKING:
    from orch_analysis.figures import Figure

Band = Literal["mean", "new"]
FEWEST = 20  # draws at a point that show no band if there are fewer


@dataclass(frozen=True, slots=True, kw_only=True)
class Identifiability:
    """Whether the data determine a parameter: `range` is its likelihood interval."""

    identified: bool
    range: tuple[float, float]
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LackOfFit:
    """Whether points depart from the law: p over all tests, and that of each (`fitting.checks.misfit`)."""

    p: float
    tests: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What exact t bands of a log-log line need: mean and sum of squares of log x, residual sd, dof."""

    center: float
    spread: float
    weight: float
    sd: float
    dof: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Fit:
    """One law fitted to one group of points.

    options: what was asked for, with every column named; loss, link, delta: what was used,
             delta None for least squares
    estimates, intervals: by parameter; empty when `outcome` says that there is nothing worth printing
    interval: kind of the intervals; objective: the loss at the estimates
    n: rows used; x_data, y_data: their variables and values, in the table's order; ranges: lowest
        and highest value of every variable; dropped: the rows left out; held: columns at whose
        geometric mean the values stand
    residuals: in the link, in the order of the rows; sd: their robust standard deviation
               with n - p degrees of freedom
    start_agreement: share of independent starts whose objective is that of the best to
                     1e-8; None for closed forms
    at_bound: parameters that ended at a bound of the law
    lack_of_fit: tests of the law against the points; None if there are too few points, or data without noise
    draws: (replicates, free parameters) bootstrap estimates, shifted and scaled as `interval` says
    """

    law: Law
    options: FitOptions
    group: Mapping[str, str]
    loss: Literal["huber", "l2", "mse"]
    link: Link
    delta: float | None
    estimates: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    interval: Literal["t", "percentile", "bca", "parametric", "none"] = "none"
    objective: float | None = None
    n: int
    residuals: tuple[float, ...] = ()
    sd: float | None = None
    x_data: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    y_data: tuple[float, ...] = ()
    ranges: Mapping[str, tuple[float, float]]
    dropped: tuple[Dropped, ...]
    held: tuple[str, ...] = ()
    outcome: Outcome
    message: str
    start_agreement: float | None = None
    identifiability: Mapping[str, Identifiability] = field(default_factory=dict)
    warnings: tuple[str, ...]
    line: Line | None = None
    lack_of_fit: LackOfFit | None = None
    at_bound: tuple[str, ...] = ()
    draws: Array = field(compare=False)

    @property
    def value(self) -> str:
        """What the law describes: a column, or what it lacks to its ceiling."""
        return self.options.quantity

    @property
    def x(self) -> dict[str, str | float]:
        """Variable of the law to its column, or to the number that holds for all rows."""
        return {name: self.options.x[name] for name in self.law.x}

    @property
    def level(self) -> float:
        """Level of the intervals and bands."""
        return self.options.level

    @property
    def label(self) -> str:
        """The group in words; empty without groups."""
        return " ".join(self.group.values())

    def predict(
        self,
        at: pl.DataFrame | None = None,
        *,
        band: Band = "mean",
        level: float | None = None,
        **x: float | Sequence[float],
    ) -> pl.DataFrame:
        """The law's values and their bands: at the rows of `at`, or at variables given by name.

        `fit.predict(params=[1e9, 1e10], samples=1e12)`, or a frame with a column per variable, named as in
        the law or in the table. band="mean" is where the curve lies; band="new" is where one more measured
        point would fall. The level is that of the fit by default.

        Returns the variables and `quantity`, what is predicted; `predictor`, by what: the law's name;
        `value`; `lo` and `hi`, null if the fit has no intervals; `band`; `extrapolation`, the largest factor
        by which a variable lies beyond the range of the data (1 within it); `note`, why a value or a band is
        null. Beyond the data the band of a law that does not describe the points is withheld, and a value
        with known bounds (AUC, percent) is refused where the law leaves them or has no limit. Raises
        OrchError for a missing or non-positive variable, and when the fit has no estimates.
        """
        self._require_estimates()
        points = self._points(at, x)
        values = np.broadcast_to(self.law.value(points, self.estimates), next(iter(points.values())).shape)
        ends = self._bands(points, values, band, self.level if level is None else level)
        return self._predicted(points, self.value, self.law.name, values, ends, band)

    def _predicted(
        self,
        points: Mapping[str, Array],
        quantity: str,
        predictor: str,
        values: Array,
        ends: Array | None,
        band: Band,
    ) -> pl.DataFrame:
        extent = np.ones(values.size)
        for name, (low, high) in self.ranges.items():
            extent = np.maximum(extent, np.maximum(points[name] / high, low / points[name]))
        beyond = extent > 1.0 + 1e-9
        withheld = beyond & self._band_fails
        refused, remark = self._refused(predictor, values, beyond)
        bounds = self._bounds()
        ends = np.full((2, values.size), np.nan) if ends is None else ends
        if bounds is not None:
            ends = np.clip(ends, bounds.low, bounds.high)
        lo, hi = np.where(withheld | refused, np.nan, ends)
        notes = np.where(withheld, f"band withheld: {self.outcome}", "")
        notes = np.where(refused, remark, notes)
        numbers = {"value": np.where(refused, np.nan, values), "lo": lo, "hi": hi}
        return pl.DataFrame(dict(points)).with_columns(
            quantity=pl.lit(quantity), predictor=pl.lit(predictor),
            **{name: pl.Series(array, nan_to_null=True) for name, array in numbers.items()},
            band=pl.lit(band), extrapolation=pl.Series(extent),
            note=pl.Series([str(note) or None for note in notes], dtype=pl.String),
        )  # fmt: skip

    @property
    def _band_fails(self) -> bool:
        """Whether the bands are those of a law that does not describe the points."""
        return self.outcome is Outcome.MISFIT

    def _bounds(self) -> Bounds | None:
        """The bounds of what is predicted; a ceiling bounds what a metric lacks to it."""
        ceiling = self.options.ceiling
        known = bounds_of(self.value, self.y_data) if ceiling is None else (0.0, ceiling)
        return None if known is None else Bounds(low=known[0], high=known[1], limited=self.law.bounded)

    def _refused(
        self, predictor: str, values: Array, beyond: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], str]:
        """Which values are refused because their bounds are known, and the cause with its remedy."""
        bounds = self._bounds()
        if bounds is None:
            return np.zeros(values.size, dtype=bool), ""
        other = " or with a bounded law (auc, accuracy)" if bounds.high == 1 else ""
        remedy = (
            f"fit again with --ceiling {bounds.high:g}{other}"
            if self.options.ceiling is None
            else "use another law"
        )
        note = (
            f"refused: the value lies between {bounds.low:g} and {bounds.high:g}, which {predictor} does not "
            f"respect beyond the data; {remedy}"
        )
        return bounds.refused(values, self._highest(), beyond), note

    def _highest(self) -> float:
        """The highest value that the law has at the points."""
        x = {name: np.array(values) for name, values in self.x_data.items()}
        return float(np.max(self.law.value(x, self.estimates), initial=-np.inf))

    def _require_estimates(self) -> None:
        if not self.estimates:
            msg = f"the {self.law.name} fit has no estimates: {self.message}"
            raise OrchError(msg, hint="correct the points and fit again")

    def _points(self, at: pl.DataFrame | None, x: Mapping[str, float | Sequence[float]]) -> dict[str, Array]:
        """The law's variables as arrays of one length."""
        given: dict[str, Any] = dict(x)
        if at is not None:
            places = {name: name if name in at.columns else str(self.x[name]) for name in self.law.x}
            given = {name: at[place] for name, place in places.items() if place in at.columns} | given
        for name in self.law.x:
            if name not in given:
                msg = f"law {self.law.name} needs {', '.join(self.law.x)}; {name} is missing"
                raise OrchError(msg, hint=f"give {name}=...")
        extra = sorted(set(given) - set(self.law.x))
        if extra:
            msg = f"law {self.law.name} has no variable {', '.join(extra)}"
            raise OrchError(msg, hint=f"its variables: {', '.join(self.law.x)}")
        arrays = [np.atleast_1d(np.asarray(given[name], dtype=np.float64)) for name in self.law.x]
        points = dict(zip(self.law.x, np.broadcast_arrays(*arrays), strict=True))
        for name, values in points.items():
            bad = values[~((values > 0) & np.isfinite(values))]
            if bad.size:
                msg = f"{name} must be positive and finite, got {bad[0]}"
                raise OrchError(msg, hint="sizes are counts: parameters, samples, FLOPs")
        return points

    def _bands(self, points: Mapping[str, Array], values: Array, band: Band, level: float) -> Array | None:
        """Lower and upper ends (2, points), NaN where there is no band at a point; None without any."""
        if self.line is not None:
            return self._line_bands(self.line, next(iter(points.values())), values, band, level)
        if not len(self.draws):
            return None
        named = {name: self.draws[:, i : i + 1] for i, name in enumerate(self.law.free)}
        noise: Array | float = 0.0
        if band == "new" and self.residuals:
            pool = np.asarray(self.residuals) * np.sqrt(self.n / max(self.n - len(self.law.free), 1))
            noise = np.random.default_rng(self.options.seed).choice(pool - pool.mean(), size=len(self.draws))
        kind: resampling.Kind = "t" if self.interval == "none" else self.interval
        ends = np.full((2, values.size), np.nan)
        for at in range(values.size):
            point = {name: array[at : at + 1] for name, array in points.items()}
            with np.errstate(all="ignore"):
                drawn = to_link(self.link, self.law.value(point, named)[:, 0]) + noise
            drawn = drawn[np.isfinite(drawn)]
            if drawn.size >= FEWEST:
                both = from_link(self.link, np.array(resampling.percentile(drawn, level, kind)))
                ends[:, at] = both.min(), both.max()
        return ends

    @staticmethod
    def _line_bands(line: Line, at: Array, values: Array, band: Band, level: float) -> Array:
        from scipy.special import stdtrit

        variance = 1.0 / line.weight + (np.log(at) - line.center) ** 2 / line.spread + (band == "new")
        half = float(stdtrit(line.dof, 0.5 + level / 2)) * line.sd * np.sqrt(variance)
        return np.stack([values * np.exp(-half), values * np.exp(half)])

    def plot(self) -> Figure:
        """The points and the law with its band; for several variables, predicted against measured values."""
        from orch_analysis.figures import law_plot

        self._require_estimates()
        measured = pl.DataFrame(
            {name: self.x_data.get(name, ()) for name in self.law.x} | {"value": self.y_data}
        )
        if len(self.law.x) > 1:
            return law_plot.parity(measured["value"], self.predict(measured)["value"], value=self.value)
        variable = self.law.x[0]
        curve = self.predict(**{variable: np.geomspace(*self.ranges[variable], 60).tolist()})
        return law_plot.curve(measured, curve, variable=variable, value=self.value)

    def summary(self) -> str:
        """The fit as text: law, points, loss, a line per parameter with interval, outcome and warnings."""
        where = f"{self.value} of {self.label}" if self.group else self.value
        counts = f"{self.n} points, {len(self.dropped)} left out; loss {self.loss}; intervals {self.interval}"
        lines = [
            f"{self.law.name}: {self.law.formula}",
            f"{where}: {counts}",
            f"{self.outcome}: {self.message}",
        ]
        if self.estimates:
            lines += ["", columns([self._head(), *self._rows()], left=1), ""]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)]).rstrip()

    __str__ = summary

    def bound_of(self, name: str) -> float | None:
        """The bound of the law at which a parameter ended; None for one that did not."""
        if name not in self.at_bound:
            return None
        return min(self.law.bound(name), key=lambda bound: abs(bound - self.estimates[name]))

    def _head(self) -> list[str]:
        return ["parameter", "estimate", f"{percent(self.level)} interval", "unit"]

    def _rows(self) -> list[list[str]]:
        rows = []
        for name, value in self.estimates.items():
            ends = self.intervals.get(name)
            words = "fixed" if name in self.law.fixed else "-"
            interval = f"[{ends[0]:.4g}, {ends[1]:.4g}]" if ends else words
            bound = self.bound_of(name)
            shown = f"{value:.5g}" if bound is None else f"{bound:g} (at the bound)"
            rows.append([name, shown, interval, self.law.units.get(name, "1")])
        return rows

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value:.4g}" for name, value in self.estimates.items())
        return (
            f"<{type(self).__name__} {self.law.name} of {self.value}, n={self.n}, "
            f"{self.outcome}: {shown or '-'}>"
        )

    def _repr_html_(self) -> str:
        cells = [
            "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in row)
            for kind, row in (("th", self._head()), *(("td", row) for row in self._rows()))
        ]
        notes = "".join(f"<li>{escape(warning)}</li>" for warning in self.warnings)
        where = f" of {escape(self.label)}" if self.group else ""
        return (
            f"<p><b>{escape(self.law.name)}</b>: {escape(self.law.formula)}<br>{escape(self.value)}{where}, "
            f"{self.n} points, {len(self.dropped)} left out; {self.outcome}: {escape(self.message)}</p>"
            f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table><ul>{notes}</ul>"
        )

    def to_json(self, *, draws: bool = True) -> dict[str, Any]:
        """The fit as JSON values, which `from_json` reads; without `draws` it has no bands."""
        law = {
            "law": self.law.name, "formula": self.law.formula, "file": self.law.file or None,
            "fixed": dict(self.law.fixed), "value": self.value, "x": self.x,
        }  # fmt: skip
        left_out = {"law"} if draws else {"law", "draws"}
        names = [item.name for item in fields(self) if item.name not in left_out]
        return law | {name: to_plain(getattr(self, name)) for name in names}

    @classmethod
    def from_json(
        cls, document: Mapping[str, Any], *, draws: Array | None = None, trust: bool = False
    ) -> Self:
        """The fit that `to_json` wrote; `draws` stand for those that were left out.

        Raises OrchError for a law that is not known, or in a Python file unless `trust` allows to execute it;
        KeyError, TypeError or ValueError for another document.
        """
        law = laws.restored(document, tuple(document["x"]), trust=trust)
        drawn = np.asarray(document.get("draws", ()) if draws is None else draws, dtype=np.float64)
        found = {"law": law, "draws": drawn.reshape(-1, len(law.free))}
        return from_plain(cls, document, found)  # type: ignore[no-any-return]
