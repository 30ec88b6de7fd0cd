"""What a scaling law is: a formula with named parameters, their bounds, and where it was published."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from orch_core.errors import OrchError

Array = NDArray[np.float64]
Values = Mapping[str, Array]
Link = Literal["log", "linear", "log_error"]
POSITIVE = (0.0, float("inf"))
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """One factor `(scale * variable) ** (sign * exponent)` of a term; `exponent` names a parameter."""

    variable: str
    exponent: str
    sign: float = -1.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """`coefficient` (a positive parameter) times a product of powers; no power at all is a constant."""

    coefficient: str
    powers: tuple[Power, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """A scaling law: everything that is needed to fit it, print it and cite it.

    `f(x, p)` gives the value from the variables `x` and the parameters `p`, two mappings of broadcastable
    arrays (parameters come as columns, points as rows). `link` is the space in which residuals are taken:
    "log" (relative errors), "linear", or "log_error" (log of one minus the value, for metrics with a ceiling
    of 1). `linear` names the parameters in which `f` is affine: the global search solves them in closed
    form. `slopes(x, p)` gives the value and its derivative by each parameter; without it they are
    differences. `starts(x, y)` gives candidate values of the remaining parameters, one array per name, all
    of one length; without it the search covers the bounds. `terms` is set when `f` is a sum of power-law
    terms, whose derivatives are then exact. `loss` is the one that "auto" stands for, that of the law's
    publication. `auto` is true for the forms that `--law auto` compares. `bounded` is true for laws whose
    value stays between two levels at any scale. `file` is the path of a user's law. A bound of infinity
    above zero means "any positive number" and is searched in its logarithm. Two laws are equal when all but
    their functions is equal.
    """

    name: str
    formula: str
    params: tuple[str, ...]
    x: tuple[str, ...]
    source: str
    f: Callable[[Values, Values], Array] = field(compare=False, repr=False)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    link: Link = "log"
    linear: tuple[str, ...] = ()
    slopes: Callable[[Values, Values], tuple[Array, Values]] | None = field(
        default=None, compare=False, repr=False
    )
    starts: Callable[[Values, Array], Values] | None = field(default=None, compare=False, repr=False)
    terms: tuple[Term, ...] = ()
    fixed: Mapping[str, float] = field(default_factory=dict)
    loss: Literal["huber", "mse"] = "huber"
    auto: bool = False
    bounded: bool = False
    file: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a law of a file by the file, whose functions have no module, and any other by its fields."""
        if self.file:
            return _loaded, (self.file, self.x, dict(self.fixed))
        return partial(Law, **{item.name: getattr(self, item.name) for item in fields(self)}), ()

    @property
    def free(self) -> tuple[str, ...]:
        """The parameters that a fit estimates, in order."""
        return tuple(name for name in self.params if name not in self.fixed)

    @property
    def exactly_loglinear(self) -> bool:
        """True for a single power-law term: least squares on logs has exact t intervals."""
        return len(self.terms) == 1 and self.link == "log" and not self.fixed

    def bound(self, name: str) -> tuple[float, float]:
        """Lowest and highest value of a parameter; any positive number unless the law says otherwise."""
        return self.bounds.get(name, POSITIVE)

    def value(self, x: Values, p: Mapping[str, float] | Values) -> Array:
        """The law's value at `x` for parameters `p` (those that are fixed may be left out)."""
        full = {**self.fixed, **p}
        return self.f(x, {name: np.asarray(full[name], dtype=float) for name in self.params})

    def fix(self, **values: float) -> Law:
        """The same law with some parameters held at given values, as `data_constrained_full.fix(E=1.87)`."""
        unknown = sorted(set(values) - set(self.params))
        if unknown:
            msg = f"law {self.name} has no parameter {', '.join(unknown)}; it has {', '.join(self.params)}"
            raise OrchError(msg, hint="fix only parameters of the law")
        return replace(self, fixed={**self.fixed, **values})

    def along(self, variable: str) -> Law:
        """A law of one variable, read along another one (a power law of compute instead of params)."""
        if len(self.x) != 1:
            msg = f"law {self.name} needs {' and '.join(self.x)}, not only {variable}"
            raise OrchError(msg, hint="map every variable of the law to a column")
        own = self.x[0]
        if variable == own:
            return self
        terms = tuple(
            replace(term, powers=tuple(replace(power, variable=variable) for power in term.powers))
            for term in self.terms
        )
        return replace(
            self,
            x=(variable,),
            formula=self.formula.replace(own, variable),
            f=partial(_renamed, self.f, own, variable),
            slopes=partial(_renamed, self.slopes, own, variable) if self.slopes else None,
            starts=partial(_renamed, self.starts, own, variable) if self.starts else None,
            terms=terms,
        )


def _renamed(
    function: Callable[[Values, Any], Result], own: str, variable: str, x: Values, second: Any
) -> Result:
    return function({own: x[variable]}, second)


def _loaded(file: str, x: tuple[str, ...], fixed: Mapping[str, float]) -> Law:
    law = load(file)
    law = law.along(x[0]) if len(law.x) == 1 == len(x) else law
    return law.fix(**fixed) if fixed else law


def sum_of_terms(terms: tuple[Term, ...], x: Values, p: Values) -> Array:
    """The value `sum_j coefficient_j * prod (scale * x)^(sign * exponent)`, the `f` of a law with `terms`."""
    total: Array = np.zeros(())
    for term in terms:
        value = p[term.coefficient]
        for power in term.powers:
            value = value * np.exp(power.sign * p[power.exponent] * np.log(power.scale * x[power.variable]))
        total = total + value
    shape = np.broadcast_shapes(total.shape, *(np.shape(v) for v in x.values()))
    return np.broadcast_to(total, shape)


def product(**axes: Array) -> Values:
    """All combinations of the values of each axis, as arrays of one length."""
    grids = np.meshgrid(*axes.values(), indexing="ij")
    return {name: grid.ravel() for name, grid in zip(axes, grids, strict=True)}


def load(path: str | Path) -> Law:
    """Read a user's law: a Python file that assigns a `Law` to the name `LAW`.

    Raises OrchError when the file does not exist, cannot be executed, or defines no `LAW`.
    """
    file = Path(path)
    if not file.is_file():
        msg = f"no such law file: {file}"
        raise OrchError(
            msg, hint="give one of the built-in names, or the path of a Python file that sets LAW"
        )
    try:
        found = runpy.run_path(str(file)).get("LAW")
    except Exception as error:
        msg = f"{file} could not be executed: {type(error).__name__}: {error}"
        raise OrchError(msg, hint="run it with python to see the line") from error
    if not isinstance(found, Law):
        msg = f"{file} does not set LAW to a Law"
        raise OrchError(
            msg, hint="from orch_analysis.laws.law import Law; LAW = Law(name=..., formula=..., f=...)"
        )
    return replace(check(found), file=str(file.resolve()))


def check(law: Law) -> Law:
    """Return the law; raise OrchError for names that contradict and functions that cannot be computed."""
    if isinstance(law.params, str) or isinstance(law.x, str) or not law.params or not law.x:
        msg = f"law {law.name}: `params` and `x` must be tuples of at least one name"
        raise OrchError(msg, hint='a tuple of one has a comma: x=("params",)')
    problems = [f"`linear` names {name!r}, no parameter" for name in law.linear if name not in law.params]
    problems += [f"`bounds` names {name!r}, no parameter" for name in law.bounds if name not in law.params]
    problems += [
        f"bounds of {name!r}: {lo} is not below {hi}" for name, (lo, hi) in law.bounds.items() if not lo < hi
    ]
    problems += [
        f"{name!r} is named twice" for name in dict.fromkeys(law.params) if law.params.count(name) > 1
    ]
    if law.link not in get_args(Link):
        problems.append(f"link {law.link!r} is none of {', '.join(get_args(Link))}")
    if problems:
        msg = f"law {law.name}: " + "; ".join(problems)
        raise OrchError(msg, hint="use the same names in params, linear and bounds")
    _try(law)
    return law


def _try(law: Law) -> None:
    """Compute the law at seven points for two sets of parameters at once, as the search will."""
    x = {name: np.linspace(1.0, 4.0, 7) for name in law.x}
    params = {name: np.full((2, 1), _inner(*law.bound(name))) for name in law.params}
    try:
        with np.errstate(all="ignore"):
            shape = np.shape(law.f(x, params))
        problem = "" if np.broadcast_shapes(shape, (2, 7)) == (2, 7) else f"it has shape {shape}"
    except Exception as error:  # noqa: BLE001 - whatever a user's function raises
        problem = f"{type(error).__name__}: {error}"
    if problem:
        msg = f"law {law.name}: `f` cannot be computed for 2 sets of parameters at 7 points: {problem}"
        raise OrchError(
            msg, hint="write f with numpy, so that x of shape (n,) and p of shape (k, 1) give (k, n)"
        )


def _inner(lo: float, hi: float) -> float:
    if np.isfinite(lo) and np.isfinite(hi):
        return (lo + hi) / 2
    return lo + 1.0 if np.isfinite(lo) else min(hi - 1.0, 1.0)
