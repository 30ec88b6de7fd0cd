"""`--law auto`: which form describes the points, and a forecast that does not depend on that choice.

Picking a form by AICc or by its backtest predicts worse than an equal-weight average on runs left out
(`tests/bench/bench_extrapolation.py`), so the two jobs are kept apart. The *prediction* is that of
`one_variable.forecast`, an average, or for params and samples that of `two_variables.forecast`. The *form*
that is named, with its estimates and intervals, is the simplest one within 10% of the best rolling-origin
error: every form is fitted to the small scales and scored on the larger ones. A constant competes too. It is
named where it wins, and where the log of the value is not shown to depend on the logs of the variables (an F
test at 5%); there is no trend to extrapolate then. Only the table given is looked at: points that are kept
for a test must not be in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orch_analysis import laws
from orch_analysis.fitting.checks.bounds import Bounds, bounds_of
from orch_analysis.fitting.estimates import Band, Fit
from orch_analysis.fitting.fit import fit
from orch_analysis.fitting.options import DEFAULTS, FitOptions
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.fitting.points import Points
from orch_analysis.fitting.problem import evenly_spaced
from orch_analysis.fitting.used_rows import usable
from orch_analysis.fitting.used_rows.variables import SIZES, mapped, with_derived, with_value
from orch_analysis.forecast import one_variable, two_variables
from orch_analysis.forecast.one_variable import Forecast
from orch_analysis.forecast.shapes import Floats
from orch_analysis.laws.law import Law
from orch_analysis.laws.null import constant
from orch_core.errors import OrchError

CLOSE = 1.1  # forms within 10% of the best error count as equal, and the one with fewer parameters is named
CUTS = (2.0, 4.0, 8.0)  # a form is fitted up to x_last / cut (or C_last / cut) and scored beyond
LEAST = 5  # points that a form is fitted to, at least, when its turn is scored
SCORED = 200  # points that forms are scored on: the time of the forecast's turns grows with their cube
LEVEL = 0.9
CHANCE = 0.05  # largest p value of an F test that shows a trend
GROWS = 0.5  # correlation of log value and log scale above which a metric grows
PREDICTORS = {1: "average of forecasts", 2: "law and discrepancy"}  # by number of variables

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A form's worth: rolling-origin error (RMS of ln predicted/measured, NaN if a turn could not be fitted).

    aicc: Akaike's corrected criterion on the scored points, for the reader only
    parameters: of the form, without noise
    """

    form: str
    error: float
    aicc: float
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Why a form was named, and how well the average of forecasts did on scales that were held back.

    origins: turns of the rolling origin
    coverage: share of held-back points inside the 90% band of the average
    widening: factor on the band's half width that makes it cover 90% of them, never below 1
    message: the choice in a sentence
    """

    scores: tuple[Score, ...]
    origins: int
    coverage: float
    widening: float
    message: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AutoFit(Fit):
    """The fit of the form that `auto` named, with the reasons for it; it predicts by a separate forecast."""

    choice: Choice

    def forecast(self, at: Mapping[str, Floats], *, level: float = LEVEL) -> Forecast:
        """The average's forecast at `at` (arrays by variable), its band widened as the held-back scales ask.

        It is in the unit of the metric, whatever its ceiling.
        """
        ceiling = self.options.ceiling
        average = _average(self.x_data, self._measured(), at, level, ceiling)
        return _widened(average, self.choice.widening, ceiling)

    def predict(
        self,
        at: pl.DataFrame | None = None,
        *,
        band: Band = "new",
        level: float | None = None,
        **x: float | Sequence[float],
    ) -> pl.DataFrame:
        """The average's forecast with the columns of `Fit.predict`; `quantity` is the metric itself.

        The band, at the level of the fit by default, is that of one more measured point, for on such it is
        calibrated. Raises OrchError for band="mean", a missing variable, or points that allow no forecast.
        """
        if band != "new":
            message = (
                f"the forecast's band is calibrated on single points held back; there is none for {band!r}"
            )
            raise OrchError(message, hint='ask for band="new", or predict with the fit of a named law')
        points = self._points(at, x)
        found = self.forecast(points, level=self.level if level is None else level)
        if found.outcome is not Outcome.OK:
            message = f"no forecast: {found.message}"
            raise OrchError(message, hint="add points at other scales")
        ends = np.array([found.lo, found.hi])
        return self._predicted(
            points, self.options.value, PREDICTORS[len(points)], np.array(found.value), ends, band
        )

    @property
    def _band_fails(self) -> bool:
        """The forecast's band is calibrated on points held back, whatever form is named."""
        return False

    def _bounds(self) -> Bounds | None:
        """Those of the metric itself, below whose ceiling, if it has one, the forecast stays."""
        ceiling = self.options.ceiling
        known = bounds_of(self.options.value, self._measured())
        low, high = known or (-np.inf, np.inf)
        if ceiling is not None:
            return Bounds(low=low, high=ceiling, limited=True)
        return None if known is None else Bounds(low=low, high=high, limited=False)

    def _highest(self) -> float:
        return max(self._measured())

    def _measured(self) -> tuple[float, ...]:
        ceiling = self.options.ceiling
        return self.y_data if ceiling is None else tuple(ceiling - error for error in self.y_data)


def auto(
    table: pl.DataFrame | Points, options: FitOptions = DEFAULTS, *, group: Mapping[str, str] | None = None
) -> AutoFit:
    """Choose a form for a value over one variable, or over params and samples, and forecast it.

    A metric that grows needs a ceiling: forms are then fitted to ceiling - value, and forecasts are in the
    metric's own unit. Without one, values between 0 and 1 that grow are taken to have ceiling 1 (AUC,
    accuracy), which `warnings` states. Never raises for bad rows: see `Fit.outcome` and `Fit.dropped`. Raises
    OrchError for unknown columns, other sets of variables, and options that auto does not take.
    """
    points = table if isinstance(table, Points) else Points(frame=table)
    options = auto_options(points.frame, options)
    options, notes = with_ceiling([points.frame], options)
    return chosen(points, options, group=group, notes=notes)


def auto_options(table: pl.DataFrame, options: FitOptions) -> FitOptions:
    """Options that name every column; raises OrchError as `auto` does."""
    given = {"loss": options.loss != "auto", "huber_delta": options.huber_delta, "weights": options.weights}
    refused = [name for name, value in {**given, "stderr": options.stderr}.items() if value]
    if refused:
        message = f"{' and '.join(refused)} cannot be set here: auto fits every form its own way"
        raise OrchError(message, hint=f"leave out {' and '.join(refused)}, or use a law's name")
    x = mapped(table, options.x)
    if set(x) <= set(SIZES):
        x |= {name: name for name in SIZES if name not in x and name in table.columns}
    if len(x) != 1 and set(x) != set(SIZES):
        message = f"auto chooses laws of one variable, or of params and samples; got {', '.join(x) or 'none'}"
        raise OrchError(message, hint="name a law with --law, or map other variables")
    return with_value(table, replace(options, x={name: x[name] for name in (SIZES if len(x) > 1 else x)}))


def with_ceiling(tables: Sequence[pl.DataFrame], options: FitOptions) -> tuple[FitOptions, tuple[str, ...]]:
    """The ceiling of a metric that grows in most of the tables, the same for all, and what to warn of."""
    if options.ceiling is not None:
        return options, ()
    rows = [_rows(table, options) for table in tables]
    growth = [_growth(part.x, part.y) for part in rows]
    known = [value for value in growth if not np.isnan(value)]
    if not known or np.median(known) <= GROWS:
        return options, ()
    if max(part.y.max(initial=0.0) for part in rows) <= 1:
        note = f"{options.value} grows with scale and lies between 0 and 1: its ceiling is taken to be 1"
        return replace(options, ceiling=1.0), (note,)
    note = f"{options.value} grows with scale: laws describe errors, so give its ceiling (100 for percent)"
    return options, (note,)


def chosen(
    points: Points, options: FitOptions, *, group: Mapping[str, str] | None = None, notes: Sequence[str] = ()
) -> AutoFit:
    """`auto` with options that name every column and the ceiling; `notes` are added to the fit's warnings."""
    variables = tuple(options.x)
    rows = _rows(points.frame, options)
    few, seed = evenly_spaced(rows.x, SCORED), options.seed
    xs, y = {name: values[few] for name, values in rows.x.items()}, rows.y[few]
    names = [law.name for law in laws.LAWS.values() if law.auto and len(law.x) == len(variables)]
    forms = {"constant": constant(variables)} | {name: _along(name, variables) for name in names}
    turns = _turns(_scale(xs)) if y.size else []
    scores = tuple(_score(law, xs, y, turns, seed) for law in forms.values())
    named = _named(scores) if _has_trend(rows.x, rows.y) else "constant"
    found = fit(forms[named], points, options, group=group)
    coverage, widening = _calibrated(xs, y, turns)
    choice = Choice(
        scores=scores,
        origins=len(turns),
        coverage=coverage,
        widening=widening,
        message=_message(named, scores, turns) + _scored_on(y.size, rows.y.size),
    )
    values = {item.name: getattr(found, item.name) for item in fields(Fit)}
    return AutoFit(**values | {"warnings": (*found.warnings, *notes)}, choice=choice)


def _rows(table: pl.DataFrame, options: FitOptions) -> usable.Usable:
    derived = with_derived(table, options)
    null = constant(tuple(options.x))
    return usable.usable(
        null, derived, value=options.quantity, x=options.x, link="log", cluster=options.cluster
    )


def _along(name: str, variables: tuple[str, ...]) -> Law:
    law = laws.get(name)
    return law.along(variables[0]) if len(variables) == 1 else law


def _scale(xs: Mapping[str, Floats]) -> Floats:
    """The product of the variables: the scale itself, or compute up to its factor."""
    return np.asarray(np.prod(np.array(list(xs.values())), axis=0))


def _turns(scale: Floats) -> list[Mask]:
    """Rows to fit at each turn of the rolling origin: those up to scale_last / cut, where enough are left."""
    masks: list[Mask] = []
    for cut in CUTS:
        mask = scale <= scale.max() / cut * (1 + 1e-9)
        fresh = not masks or bool((mask != masks[-1]).any())
        if fresh and len(np.unique(scale[mask])) >= LEAST:
            masks.append(mask)
    return masks


def _score(law: Law, xs: Mapping[str, Floats], y: Floats, turns: list[Mask], seed: int) -> Score:
    errors = [_held_out(law, xs, y, mask, seed) for mask in turns]
    whole = fit(law, _frame(xs, y), _unasked(seed)) if y.size else None
    return Score(
        form=law.name,
        error=float(np.sqrt(np.mean(np.square(errors)))) if errors else float("nan"),
        aicc=_aicc(np.asarray(whole.residuals), len(law.free)) if whole else float("nan"),
        parameters=len(law.free),
    )


def _unasked(seed: int) -> FitOptions:
    return FitOptions(value="_y", bootstrap=0, seed=seed)


def _held_out(law: Law, xs: Mapping[str, Floats], y: Floats, mask: Mask, seed: int) -> float:
    """RMS of ln predicted/measured beyond the rows of `mask`, NaN when the form cannot be fitted to those."""
    small = fit(law, _frame({k: v[mask] for k, v in xs.items()}, y[mask]), _unasked(seed))
    if not small.estimates:
        return float("nan")
    ahead = law.value({name: v[~mask] for name, v in xs.items()}, small.estimates)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.sqrt(np.mean(np.log(ahead / y[~mask]) ** 2)))


def _aicc(residuals: Floats, parameters: int) -> float:
    """Hurvich & Tsai 1989: n ln(RSS/n) + 2k + 2k(k + 1)/(n - k - 1), k = parameters + 1 for the noise."""
    n, k = len(residuals), parameters + 1
    if n - k - 1 <= 0:
        return float("nan")
    variance = max(float(residuals @ residuals) / n, 1e-300)
    return float(n * np.log(variance) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def _named(scores: tuple[Score, ...]) -> str:
    """The form with fewest parameters within CLOSE of the best error; the power law if nothing was scored."""
    finite = [score for score in scores if np.isfinite(score.error)]
    if not finite:
        return scores[1].form
    best = min(score.error for score in finite)
    return min((s for s in finite if s.error <= CLOSE * best), key=lambda s: (s.parameters, s.error)).form


def _calibrated(xs: Mapping[str, Floats], y: Floats, turns: list[Mask]) -> tuple[float, float]:
    """Coverage of the average's 90% band on the held-back scales, and the widening that makes it 90%."""
    ratios: list[float] = []
    for mask in turns:
        ahead = {name: v[~mask] for name, v in xs.items()}
        found = _average({k: tuple(v[mask]) for k, v in xs.items()}, tuple(y[mask]), ahead, LEVEL, None)
        half = np.log(np.array(found.hi) / found.lo) / 2
        ratios.extend(np.abs(np.log(y[~mask] / found.value)) / np.maximum(half, 1e-12))
    finite = np.array([ratio for ratio in ratios if np.isfinite(ratio)])
    if not finite.size:
        return float("nan"), 1.0
    return float((finite <= 1).mean()), max(1.0, float(np.quantile(finite, LEVEL)))


def _average(
    x: Mapping[str, tuple[float, ...]],
    y: tuple[float, ...],
    at: Mapping[str, Floats],
    level: float,
    ceiling: float | None,
) -> Forecast:
    if len(x) == 1:
        ((name, values),) = x.items()
        return one_variable.forecast(values, y, at[name], level=level, ceiling=ceiling)
    pairs = list(zip(at["params"].tolist(), at["samples"].tolist(), strict=True))
    errors = np.asarray(y) if ceiling is None else ceiling - np.asarray(y)
    table = _frame({name: np.asarray(values) for name, values in x.items()}, errors)
    found = two_variables.forecast(
        table, value="_y", x={"params": "params", "samples": "samples"}, at=pairs, level=level
    )
    return found if ceiling is None else _flipped(found, ceiling)


def _frame(xs: Mapping[str, Floats], y: Floats) -> pl.DataFrame:
    return pl.DataFrame({**{name: np.asarray(v) for name, v in xs.items()}, "_y": y})


def _flipped(found: Forecast, ceiling: float) -> Forecast:
    """A forecast of errors as one of the metric `ceiling - error`."""
    return replace(
        found,
        value=tuple(ceiling - v for v in found.value),
        lo=tuple(ceiling - v for v in found.hi),
        hi=tuple(ceiling - v for v in found.lo),
        members={name: tuple(ceiling - v for v in values) for name, values in found.members.items()},
    )


def _widened(found: Forecast, factor: float, ceiling: float | None) -> Forecast:
    """The band's half widths in ln error times `factor`."""

    def end(value: float, edge: float) -> float:
        if ceiling is None:
            return float(value * (edge / value) ** factor)
        return float(ceiling - (ceiling - value) * ((ceiling - edge) / (ceiling - value)) ** factor)

    return replace(
        found,
        lo=tuple(end(v, edge) for v, edge in zip(found.value, found.lo, strict=True)),
        hi=tuple(end(v, edge) for v, edge in zip(found.value, found.hi, strict=True)),
    )


def _growth(xs: Mapping[str, Floats], y: Floats) -> float:
    """Correlation of ln value with ln scale; NaN where one of them does not vary."""
    if y.size < 3 or np.ptp(y) == 0 or np.ptp(_scale(xs)) == 0:
        return float("nan")
    return float(np.corrcoef(np.log(_scale(xs)), np.log(y))[0, 1])


def _has_trend(xs: Mapping[str, Floats], y: Floats) -> bool:
    """Whether ln value depends on the ln variables: the F test of a regression, at `CHANCE`.

    True where there are too few points for a test.
    """
    from scipy.special import fdtrc

    freedom = y.size - 1 - len(xs)
    if freedom < 1 or np.ptp(y) == 0:
        return True
    design = np.column_stack([np.ones(y.size), *(np.log(values) for values in xs.values())])
    target = np.log(y)
    residuals = target - design @ np.linalg.lstsq(design, target)[0]
    left, total = float(residuals @ residuals), float(((target - target.mean()) ** 2).sum())
    return bool(fdtrc(len(xs), freedom, (total - left) / len(xs) / max(left / freedom, 1e-300)) < CHANCE)


def _message(named: str, scores: tuple[Score, ...], turns: list[Mask]) -> str:
    if not turns:
        return (
            f"too few scales to hold any back: {named} is named without this check; the forecast averages "
            f"all members (the check needs {LEAST} scales at half the largest or less)"
        )
    listed = ", ".join(f"{s.form} {s.error:.3g}" for s in scores if np.isfinite(s.error))
    verdict = "the points show no trend: the value is constant" if named == "constant" else f"{named} named"
    return f"{verdict}; RMS ln errors on larger scales held back in {len(turns)} turns: {listed}"


def _scored_on(few: int, count: int) -> str:
    return f"; forms were scored on {few} of {count:,} points, evenly spaced in scale" if few < count else ""
