"""`--law auto`: which form describes the points, and a forecast that does not hang on that choice.

Picking a form by AICc or by its backtest predicts worse than an equal-weight average on runs left out
(`tests/bench/bench_extrapolation.py`), so the two jobs are kept apart. The *prediction* is that of
`one_variable.forecast`, or of `two_variables.forecast` for params and samples. The *form* that is named, with
its estimates and intervals, is the simplest one within 10% of the best rolling-origin error: every form is
fitted to the small scales and scored on the larger ones. A constant competes too; when it wins there is no trend
to extrapolate. Only the table given is looked at: points kept aside for a test must not be in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orch_analysis import laws
from orch_analysis.fitting import usable
from orch_analysis.fitting.estimates import Band, Prediction
from orch_analysis.fitting.fit import Fit, Interval, fit
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.forecast import one_variable, two_variables
from orch_analysis.forecast.one_variable import Forecast
from orch_analysis.forecast.shapes import Floats
from orch_analysis.laws.law import Law
from orch_analysis.laws.null import constant
from orch_core.errors import OrchError

FORMS = {
    count: tuple(law.name for law in laws.LAWS.values() if law.auto and len(law.x) == count)
    for count in (1, 2)
}
CLOSE = 1.1  # forms within 10% of the best error count as equal, and the one with fewer parameters is named
CUTS = (2.0, 4.0, 8.0)  # a form is fitted up to x_last / cut (or C_last / cut) and scored beyond
LEAST = 5  # points that a form is fitted to, at least, when its turn is scored
LEVEL = 0.9

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A form's worth: rolling-origin error (RMS of ln predicted/measured, NaN where a turn could not be fitted).

    aicc: Akaike's corrected criterion on all points, for the reader only; parameters: of the form, without noise.
    """

    form: str
    error: float
    aicc: float
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What `auto` found: the fit of the named form, every form's score, and the means to predict.

    origins: turns of the rolling origin; coverage: share of held-back points inside the 90% band of the average;
    widening: factor on the band's half width that makes it cover 90% of them, never below 1; x and y: the points,
    in the order of the table, by variable of the law; ceiling: as for `extrapolate.forecast`.
    """

    fit: Fit
    scores: tuple[Score, ...]
    origins: int
    coverage: float
    widening: float
    x: Mapping[str, tuple[float, ...]]
    y: tuple[float, ...]
    ceiling: float | None
    warnings: tuple[str, ...]
    message: str

    @property
    def law(self) -> str:
        """The name of the form chosen; "constant" when nothing beats no trend."""
        return self.fit.law.name

    def forecast(self, at: Mapping[str, Floats], *, level: float = LEVEL) -> Forecast:
        """The average's forecast at `at` (arrays by variable), its band widened as the held-back scales ask."""
        return _widened(_average(self.x, self.y, at, level, self.ceiling), self.widening, self.ceiling)

    def predict(self, *, band: Band = "new", level: float | None = None, **x: float) -> Prediction:
        """One forecast, as `Fit.predict` gives it; `extrapolation` is the factor beyond the largest scale.

        The band, at the level of the fit by default, is that of one more measured point, for on such it is
        calibrated. Raises OrchError for band="mean", a missing variable, or points that allow no forecast.
        """
        if band != "new":
            message = (
                f"the forecast's band is calibrated on single points held back; it has none for {band!r}"
            )
            raise OrchError(message, hint='ask for band="new", or predict with the fit of a named law')
        missing = [name for name in self.x if name not in x]
        if missing:
            message = f"the forecast needs {', '.join(self.x)}; {', '.join(missing)} is missing"
            raise OrchError(message, hint=f"give {missing[0]}=...")
        at = {name: np.array([x[name]]) for name in self.x}
        found = self.forecast(at, level=self.fit.level if level is None else level)
        if found.outcome is not Outcome.OK:
            raise OrchError(f"no forecast: {found.message}", hint="add points at other scales")  # noqa: EM102
        return Prediction(value=found.value[0], lo=found.lo[0], hi=found.hi[0], extrapolation=found.horizon)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` needs beside the fit, as JSON values (NaN as None)."""
        return {
            "scores": [
                {
                    "form": s.form,
                    "error": _number(s.error),
                    "aicc": _number(s.aicc),
                    "parameters": s.parameters,
                }
                for s in self.scores
            ],
            "origins": self.origins,
            "coverage": _number(self.coverage),
            "widening": self.widening,
            "x": {name: list(values) for name, values in self.x.items()},
            "y": list(self.y),
            "ceiling": self.ceiling,
            "warnings": list(self.warnings),
            "message": self.message,
        }


def from_dict(entry: Mapping[str, Any], found: Fit) -> Choice:
    """The choice that `Choice.to_dict` wrote, around the fit of its named form."""
    return Choice(
        fit=found,
        scores=tuple(
            Score(
                form=s["form"], error=_float(s["error"]), aicc=_float(s["aicc"]), parameters=s["parameters"]
            )
            for s in entry["scores"]
        ),
        origins=entry["origins"],
        coverage=_float(entry["coverage"]),
        widening=entry["widening"],
        x={name: tuple(values) for name, values in entry["x"].items()},
        y=tuple(entry["y"]),
        ceiling=entry["ceiling"],
        warnings=tuple(entry["warnings"]),
        message=entry["message"],
    )


def auto(
    table: pl.DataFrame,
    *,
    value: str,
    x: Mapping[str, str],
    group: Mapping[str, str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    cluster: str | None = None,
    interval: Interval = "auto",
    level: float = 0.95,
    ceiling: float | None = None,
) -> Choice:
    """Choose a form for `value` over `x` (variable to column; one variable, or params and samples) and forecast it.

    `bootstrap`, `seed`, `cluster`, `interval` and `level` are those of the named form's fit.

    A metric that grows needs its `ceiling`: forms are then fitted to ceiling - value, and forecasts are in the metric's
    own unit. Without one, values between 0 and 1 that grow are taken to have ceiling 1 (AUC, accuracy), which
    `warnings` states. Never raises for bad rows: see `Choice.fit.outcome` and `.dropped`. Raises OrchError
    for unknown columns and for other sets of variables.
    """
    variables = tuple(x)
    if len(variables) not in FORMS or (len(variables) == 2 and set(variables) != {"params", "samples"}):
        message = f"auto chooses laws of one variable, or of params and samples; got {', '.join(variables)}"
        raise OrchError(message, hint="name a law with --law, or map other variables")
    null = constant(variables)
    raw = usable.usable(null, table, value=value, x=x, link="log", cluster=cluster)
    growing = _growing(raw.x, raw.y)
    warnings: tuple[str, ...] = ()
    if growing and ceiling is None:
        ceiling, warnings = _assumed(value, raw.y)
    column = value if ceiling is None else usable.error_column(value, ceiling)
    if ceiling is not None:
        table = usable.with_error_column(table, value, ceiling)
    rows = usable.usable(null, table, value=column, x=x, link="log", cluster=cluster)
    xs = {name: rows.x[name] for name in variables}
    forms: dict[str, Law] = {"constant": null} | {
        name: _along(name, variables) for name in FORMS[len(variables)]
    }
    turns = _turns(_scale(xs)) if rows.y.size else []
    scores = tuple(_score(law, xs, rows.y, turns, seed) for law in forms.values())
    named = _named(scores)
    found = fit(
        forms[named], table, value=column, x=x, bootstrap=bootstrap, seed=seed, cluster=cluster,
        interval=interval, level=level, group=group,
    )  # fmt: skip
    if ceiling is not None:
        found = replace(found, settings={**found.settings, "ceiling": ceiling, "metric": value})
    coverage, widening = _calibrated(xs, rows.y, turns)
    return Choice(
        fit=found, scores=scores, origins=len(turns), coverage=coverage, widening=widening,
        x={name: tuple(values.tolist()) for name, values in xs.items()},
        y=tuple((rows.y if ceiling is None else ceiling - rows.y).tolist()),
        ceiling=ceiling, warnings=warnings, message=_message(named, scores, turns),
    )  # fmt: skip


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
    whole = fit(law, _frame(xs, y), value="_y", bootstrap=0, seed=seed) if y.size else None
    return Score(
        form=law.name,
        error=float(np.sqrt(np.mean(np.square(errors)))) if errors else float("nan"),
        aicc=_aicc(np.asarray(whole.residuals), len(law.free)) if whole else float("nan"),
        parameters=len(law.free),
    )


def _held_out(law: Law, xs: Mapping[str, Floats], y: Floats, mask: Mask, seed: int) -> float:
    """RMS of ln predicted/measured beyond the rows of `mask`, NaN when the form cannot be fitted to those."""
    small = fit(law, _frame({k: v[mask] for k, v in xs.items()}, y[mask]), value="_y", bootstrap=0, seed=seed)
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
    """The form with fewest parameters within CLOSE of the best error; the power law where nothing was scored."""
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


def _growing(xs: Mapping[str, Floats], y: Floats) -> bool:
    """Whether ln value rises with ln scale (correlation above one half)."""
    if y.size < 3 or np.ptp(y) == 0 or np.ptp(_scale(xs)) == 0:
        return False
    return bool(np.corrcoef(np.log(_scale(xs)), np.log(y))[0, 1] > 0.5)


def _assumed(value: str, y: Floats) -> tuple[float | None, tuple[str, ...]]:
    """The ceiling of a growing metric where its values show one, and what to tell."""
    if y.max() < 1:
        return 1.0, (f"{value} grows with scale and stays below 1: its ceiling is taken to be 1",)
    return None, (f"{value} grows with scale: laws describe errors, so give its ceiling (100 for percent)",)


def _message(named: str, scores: tuple[Score, ...], turns: list[Mask]) -> str:
    if not turns:
        return (
            f"too few scales to hold any back: {named} is named unchecked; the forecast averages all members"
            f" (a check needs {LEAST} scales at half the largest or less)"
        )
    listed = ", ".join(f"{s.form} {s.error:.3g}" for s in scores if np.isfinite(s.error))
    verdict = (
        "no form beats a constant: there is no trend to extrapolate"
        if named == "constant"
        else f"{named} named"
    )
    return f"{verdict}; RMS ln errors on larger scales held back in {len(turns)} turns: {listed}"


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _float(value: float | None) -> float:
    return float("nan") if value is None else value
