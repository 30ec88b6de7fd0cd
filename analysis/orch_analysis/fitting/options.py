"""What a fit is asked for: one frozen object from the command line to the fit, its card and laws.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from orch_core.errors import OrchError

Loss = Literal["auto", "huber", "l2", "mse"]
IntervalMethod = Literal["auto", "percentile", "bca", "t"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """Options of `fit` and `auto`; raises OrchError for values that contradict or are out of range.

    `orch fit-laws` has an option of the same name for every field but `value` and `x`, which are its `--map`.
    """

    value: str = ""
    """Column that the law describes; the first of `variables.VALUES` in the table if empty."""

    x: Mapping[str, str | float] = field(default_factory=dict)
    """Variable of the law to its column, or to a number that holds for all rows.

    If empty, columns of the same name are used. The value and the variables may be expressions over columns,
    such as `1 - acc1` and `C / 6 / N`.
    """

    where: str = ""
    """Fit only the rows for which this expression over the columns is true."""

    best_per: tuple[str, ...] = ()
    """Fit only the row with the best value for each combination of these columns, of a sweep for example."""

    envelope: str = ""
    """Fit only rows whose value is better than that of every row with less of this column, say compute."""

    fix: Mapping[str, float] = field(default_factory=dict)
    """Hold parameters of the law at these values, such as E at 0."""

    loss: Loss = "auto"
    """huber and l2 act on residuals in the law's link (relative errors for "log"), mse on the value itself.

    auto is least squares for a single power law, where t intervals are exact, and otherwise the loss that the
    law was published with, Huber's as a rule. A given `huber_delta` asks for Huber's.
    """

    huber_delta: float | None = None
    """Huber's delta, in the link; None is 1.345 times the noise's robust standard deviation."""

    weights: str | None = None
    """Column of factors on the loss of each row."""

    stderr: str | None = None
    """Column of known standard errors of the value: draws come from them instead of from resampling."""

    cluster: str | None = None
    """Column of the units that are resampled as a whole: a run, a seed."""

    bootstrap: int = 1000
    """Number of bootstrap replicates; 0 gives estimates without intervals."""

    interval: IntervalMethod = "auto"
    """Kind of interval; auto is percentile with a hundred units to spare, otherwise t."""

    level: float = 0.95
    """Level of intervals and bands, between 0 and 1."""

    ceiling: float | None = None
    """Best value of a metric that grows: the law then describes `ceiling - value`."""

    seed: int = 0
    """Seed of the global search and of the draws."""

    def __post_init__(self) -> None:
        """Check the values; see the class."""
        for name, kind in (("loss", Loss), ("interval", IntervalMethod)):
            if getattr(self, name) not in get_args(kind):
                message = f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}"
                raise OrchError(message, hint=f'{name}="auto" suits most laws')
        if self.huber_delta is not None and not self.huber_delta > 0:
            message = f"Huber's delta must be positive, got {self.huber_delta}"
            raise OrchError(message, hint="leave it out to scale it to the noise")
        if not 0 < self.level < 1 or self.bootstrap < 0:
            message = (
                "level must be between 0 and 1 and bootstrap not negative, "
                f"got {self.level} and {self.bootstrap}"
            )
            raise OrchError(message, hint="level=0.95, bootstrap=1000")
        if self.stderr and self.cluster:
            message = "stderr and cluster cannot be given together: known errors replace resampling"
            raise OrchError(message, hint="leave out stderr to let clusters show the noise")
        if self.ceiling is not None and not math.isfinite(self.ceiling):
            message = f"the ceiling must be a finite number, got {self.ceiling}"
            raise OrchError(message, hint="1 for fractions, 100 for percent")

    @property
    def quantity(self) -> str:
        """What the law describes: the value, or what the value lacks to its ceiling."""
        return self.value if self.ceiling is None else f"{self.ceiling:g} - {self.value}"


DEFAULTS = FitOptions()
