"""Power laws of a study: loss and downstream metrics against size, data and compute, with controls.

Every slope is d log(value) / d log(axis). A grid varies several quantities at once, so a slope along one axis
is taken
at fixed values of the others: log(value) = log A + slope log(axis) + sum_k b_k log(other_k), by least squares
                               with t
intervals whose unit of evidence is a value of the axis (`partial_fit`). `held` contains the names of these
others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orch_analysis.fitting.checks.misfit import lack_of_fit, with_misfit
from orch_analysis.fitting.estimates import Fit
from orch_analysis.fitting.fit import fit
from orch_analysis.fitting.options import FitOptions
from orch_analysis.fitting.outcome import Outcome
from orch_analysis.tables import CONTROLS

if TYPE_CHECKING:
    from orch_analysis.tables.study_tables import Results

AXES: Mapping[str, str] = {
    "params_encoder": "encoder parameters",
    "images": "pretraining images",
    "samples_seen": "samples seen",
    "flops_train": "training FLOPs",
}
HELD: Mapping[str, tuple[str, ...]] = {
    "params_encoder": ("images", "samples_seen"),
    "images": ("params_encoder", "samples_seen"),
    "samples_seen": ("params_encoder", "images"),
    "flops_train": (),
}
TASK_KEYS = ("dataset", "task")  # columns of a table of points that contain the task
LEVELS = 3  # distinct values of an axis that a slope needs
VALUES: Mapping[str, str] = {
    "heldout_loss": "held-out pretraining loss",
    "readout_error": "held-out read-out error (nearest neighbours)",
    "auc": "AUC",
    "error": "error (1 − AUC)",
    "error_ratio": "error relative to control",
}
Z95 = 1.959964
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """A fitted slope with its group and axis; `held`: fixed quantities, `units`: values of the axis."""

    algorithm: str
    mix: str
    task: str
    value: str
    axis: str
    held: tuple[str, ...]
    units: int
    fit: Fit

    @property
    def slope(self) -> float | None:
        """The exponent; None if the fit failed."""
        return self.fit.estimates.get("slope")

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the exponent; None if the fit lacks one."""
        return self.fit.intervals.get("slope")

    @property
    def differs(self) -> bool:
        """True if the interval excludes zero."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    @property
    def falls(self) -> bool:
        """True if the interval is below zero."""
        return self.interval is not None and self.interval[1] < 0


def group_labels(group: Mapping[str, str]) -> dict[str, str]:
    """Algorithm, mix and task of a group of points; any other column of the group counts as the algorithm."""
    task = " · ".join(group[key] for key in TASK_KEYS if key in group)
    others = [value for key, value in group.items() if key not in {*TASK_KEYS, "mix"}]
    return {"algorithm": " · ".join(others), "mix": group.get("mix", ""), "task": task}


def pretraining_slopes(results: Results) -> list[Slope]:
    """Held-out loss against every axis by algorithm and mix, or the read-out error if losses differ in unit.

    The read-out error is 1 - the accuracy of a nearest-neighbour vote on held-out images at the end of
    training.
    """
    runs = results.pretraining.filter(~pl.col("algorithm").is_in(CONTROLS))
    if "knn_accuracy" in runs.columns:
        runs = runs.with_columns(readout_error=1 - pl.col("knn_accuracy"))
    found = []
    for _, part in runs.sort("algorithm", "mix").group_by("algorithm", "mix", maintain_order=True):
        for axis in AXES:
            value = "readout_error" if loss_obstacle(part, axis) else "heldout_loss"
            if value in part.columns:
                found += _slopes(part, (value,), (axis,), ("algorithm", "mix"))
    return found


def loss_obstacle(runs: pl.DataFrame, axis: str) -> str:
    """The reason why losses of one algorithm and mix cannot be compared along `axis`; empty if they can.

    `Recipe.loss_comparable_across` contains the axes along which a loss keeps its unit; the losses of an
    unknown recipe are taken as comparable.
    """
    from orch_core.recipes import RECIPES

    recipe = RECIPES.get(runs["recipe"][0]) if runs.height else None
    if recipe is None:
        return ""
    kept, sized = recipe.loss_comparable_across, axis in {"params_encoder", "flops_train"}
    if runs["batch"].n_unique() > 1 and "batch" not in kept:
        return f"{recipe.loss_unit}, so losses at different batch sizes are different quantities"
    if sized and runs["params_encoder"].n_unique() > 1 and "size" not in kept:
        return f"{recipe.loss_unit}, so losses of different encoder sizes are different quantities"
    return ""


def joint_laws(results: Results, *, bootstrap: int = 1000, seed: int = 0) -> list[Fit]:
    """The held-out loss as E + A/N^alpha + B/D^beta, per algorithm and mix with 3 sizes and 3 values of data.

    N is encoder parameters; D is samples seen if they vary, else the number of pretraining images.
    """
    runs = results.pretraining.filter(~pl.col("algorithm").is_in(CONTROLS), pl.col("heldout_loss") > 0)
    found = []
    for (algorithm, mix), part in runs.sort("algorithm", "mix").group_by(
        "algorithm", "mix", maintain_order=True
    ):
        names = ("images",) if tied(part) else ("samples_seen", "images")
        data = [name for name in names if part[name].n_unique() >= LEVELS]
        if not data or part["params_encoder"].n_unique() < LEVELS or loss_obstacle(part, "params_encoder"):
            continue
        found.append(
            fit(
                "chinchilla",
                part,
                FitOptions(
                    value="heldout_loss", x={"params": "params_encoder", "samples": data[0]},
                    bootstrap=bootstrap, seed=seed,
                ),
                group={"algorithm": str(algorithm), "mix": str(mix or "")},
            )
        )  # fmt: skip
    return found


def probe_slopes(results: Results) -> list[Slope]:
    """AUC, error, and error relative to the random control against every axis, per algorithm, mix and task.

    The control itself has slopes in encoder parameters only: its AUC and error improve with size without
    training.
    """
    table = with_controls(results.probes)
    trained = table.filter(~pl.col("algorithm").is_in(CONTROLS))
    control = table.filter(pl.col("algorithm") == "random")
    found = _slopes(trained, ("auc", "error", "error_ratio"), AXES, ("algorithm", "mix", "task"))
    return found + _slopes(control, ("auc", "error"), ("params_encoder",), ("algorithm", "mix", "task"))


def with_controls(probes: pl.DataFrame) -> pl.DataFrame:
    """Add to every probe its controls, gains and errors.

    error = 1 - auc; control, control_se: mean AUC and standard error of the untrained encoders of the same
    shape on the task; pixels, pixels_se: the raw-pixel probe; gain = auc - control with gain_lo, gain_hi
    (95%), the same for gain_pixels; error_ratio = (1 - auc) / (1 - control). The interval of a gain is that
    of the paired bootstrap over the test images that both probes share. Without resampled AUCs, standard
    errors are added in quadrature, which gives wider intervals.
    """
    key = ["model", "resolution", "patch", "task"]
    table = probes.with_columns(error=1 - pl.col("auc"), se=_standard_error())
    control = _floor(table, "random", key, "control")
    pixels = _floor(table, "pixels", ["resolution", "task"], "pixels")
    joined = table.join(control, on=key, how="left").join(pixels, on=["resolution", "task"], how="left")
    measured = joined.with_columns(
        *_gain("gain", "control"),
        *_gain("gain_pixels", "pixels"),
        error_ratio=(1 - pl.col("auc")) / (1 - pl.col("control")),
    )
    draws = {path: _draws(path) for path in measured["draws"].unique()}
    paired = _paired(measured, "gain", "control_draws", draws)
    return _paired(paired, "gain_pixels", "pixels_draws", draws).drop(
        "control_draws", "pixels_draws", "draws"
    )


def _draws(path: str | None) -> Numbers | None:
    try:
        return np.load(path).astype(np.float64) if path else None
    except (OSError, ValueError, EOFError):  # the last of an empty file
        return None


def _paired(
    table: pl.DataFrame, name: str, floor: str, draws: Mapping[str | None, Numbers | None]
) -> pl.DataFrame:
    """Replace the interval of a gain by the paired bootstrap's if both probes have resampled AUCs."""
    ends: list[tuple[float, float]] = []
    rows = table.select("draws", floor, f"{name}_lo", f"{name}_hi").iter_rows()
    for own_path, floor_paths, *interval in rows:
        own, floors = draws.get(own_path), [draws.get(path) for path in floor_paths or ()]
        kept = [one for one in floors if one is not None]
        if own is not None and kept and len(kept) == len(floors):
            interval = np.percentile(own - np.mean(kept, axis=0), (2.5, 97.5)).tolist()  # noqa: PLW2901
        ends.append((interval[0], interval[1]))
    return table.with_columns(
        pl.Series(f"{name}_{side}", [end[index] for end in ends], dtype=pl.Float64)
        for index, side in enumerate(("lo", "hi"))
    )


def _standard_error() -> pl.Expr:
    return pl.coalesce(pl.col("auc_se"), (pl.col("auc_hi") - pl.col("auc_lo")) / (2 * Z95))


def _floor(table: pl.DataFrame, algorithm: str, key: Sequence[str], name: str) -> pl.DataFrame:
    """Mean over seeds; the standard error is that of the test set, which more seeds do not shrink."""
    rows = table.filter(pl.col("algorithm") == algorithm)
    return rows.group_by(key, maintain_order=True).agg(
        pl.col("auc").mean().alias(name),
        pl.col("se").mean().alias(f"{name}_se"),
        pl.col("draws").alias(f"{name}_draws"),
    )


def _gain(name: str, floor: str) -> list[pl.Expr]:
    gain = pl.col("auc") - pl.col(floor)
    half = Z95 * (pl.col("se") ** 2 + pl.col(f"{floor}_se") ** 2).sqrt()
    return [gain.alias(name), (gain - half).alias(f"{name}_lo"), (gain + half).alias(f"{name}_hi")]


def _slopes(
    table: pl.DataFrame, values: Sequence[str], axes: Iterable[str], by: Sequence[str]
) -> list[Slope]:
    found = []
    for group in table.select(by).unique(maintain_order=True).sort(by).iter_rows(named=True):
        part = table.filter(*(pl.col(key).eq_missing(value) for key, value in group.items()))
        words = {key: str(value or "") for key, value in group.items()}
        for value in values:
            for axis in axes:
                found += _slope(part, value, axis, words)
    return found


def _slope(part: pl.DataFrame, value: str, axis: str, group: Mapping[str, str]) -> list[Slope]:
    others = [name for name in HELD[axis] if (part[name].fill_null(0) > 0).any()]  # none of a control
    sound = pl.all_horizontal((pl.col(name).fill_null(0) > 0) for name in (value, axis, *others))
    usable = part.filter(sound)
    if usable[axis].n_unique() < LEVELS or same_axis(usable, axis):
        return []
    held = held_fixed(usable, axis, others)
    found = partial_fit(part, sound, value=value, axis=axis, held=held, group=group)
    labels = {key: group.get(key, "") for key in ("algorithm", "mix", "task")}
    return [Slope(**labels, value=value, axis=axis, held=held, units=usable[axis].n_unique(), fit=found)]


def tied(table: pl.DataFrame) -> bool:
    """True if the number of images determines the samples seen: both are then one axis, `images`."""
    return table.select("images", "samples_seen").unique().height == table["images"].n_unique()


def same_axis(table: pl.DataFrame, axis: str) -> str:
    """The earlier axis of AXES that `axis` repeats in this table, or an empty text.

    Two axes are the same if each value of one occurs with a single value of the other, such as training FLOPs
    and encoder sizes if all sizes see the same number of samples. Samples seen are the same axis as the
    number of images if that number determines them.
    """
    if axis == "samples_seen" and tied(table):
        return "images"
    for other in list(AXES)[: list(AXES).index(axis)]:
        pairs = table.select(other, axis).unique().height
        if pairs == table[other].n_unique() == table[axis].n_unique():
            return other
    return ""


def held_fixed(table: pl.DataFrame, axis: str, others: Sequence[str]) -> tuple[str, ...]:
    """The `others` whose effect can be separated from that of `axis`, leaving a degree of freedom for noise.

    Each is added if its logarithm is not a linear function of those added before (rank of the design).
    """
    columns = [np.log(table[axis].to_numpy())]
    held: list[str] = []
    for name in others:
        design = np.column_stack([*columns, np.log(table[name].to_numpy())])
        spread = np.linalg.svd(design - design.mean(axis=0), compute_uv=False)
        if spread[-1] > 1e-3 * spread[0] and table.height > design.shape[1] + 1:
            columns.append(design[:, -1])
            held.append(name)
    return tuple(held)


def partial_fit(
    table: pl.DataFrame,
    sound: pl.Expr,
    *,
    value: str,
    axis: str,
    held: Sequence[str],
    group: Mapping[str, str],
) -> Fit:
    """The power law along `axis` at the geometric mean of the `held` quantities.

    By the theorem of Frisch, Waugh and Lovell the line through values adjusted for the others, with the joint
    regression's coefficients, has the joint regression's slope; the spread of the axis given the others
    replaces that of the plain line.

    Runs at one value of the axis share the control of a size, its initial weights or the subset of a data
    size, so their errors are not independent. The unit of evidence is therefore a value of the axis: the
    noise is that of the units' mean residuals, with the degrees of freedom of a line through as many points
    as there are units (the between estimator; Baltagi 2021, Econometric Analysis of Panel Data, section 2.3).
    In a balanced grid the t interval is exact for any dependence within a unit.
    """
    rows = table.filter(sound)
    logs = np.log(rows[axis].to_numpy())
    units, unit = np.unique(logs, return_inverse=True)
    options = FitOptions(value=value, x={axis: axis})
    if not held and units.size == rows.height:
        return fit("power", table, options, group=group)
    others = np.log(rows.select(held).to_numpy()) if held else np.zeros((rows.height, 0))
    others -= others.mean(axis=0)
    design = np.column_stack([np.ones(rows.height), logs - logs.mean(), others])
    values = np.log(rows[value].to_numpy())
    coefficients = np.linalg.lstsq(design, values)[0]
    adjusted = np.exp(values - others @ coefficients[2:])
    frame = pl.concat([rows.with_columns(pl.Series(value, adjusted)), table.filter(~sound)])
    found = fit("power", frame, options, group=group)
    if found.line is None:
        return found
    spread = 1 / float(np.linalg.inv(design.T @ design)[1, 1])
    residuals = values - design @ coefficients
    noise, dof = between_noise(residuals, unit, others)
    found = _with_units(found, spread, noise, dof, held, f"{units.size} values of {axis}")
    root = np.sqrt(np.bincount(unit))
    line = np.stack([root, root * (units - logs.mean())], axis=1)
    tested = lack_of_fit(np.bincount(unit, residuals) / root, line, {axis: units}, root=root)
    return with_misfit(found, tested)


def between_noise(residuals: Numbers, unit: NDArray[np.intp], others: Numbers) -> tuple[float, int]:
    """Standard deviation of a run from the units' mean residuals, and its degrees of freedom.

    Each fixed quantity that varies only between units costs a degree of freedom; at least one is left.
    """
    count = np.bincount(unit)
    sums = np.bincount(unit, residuals)
    within = [np.abs(other - (np.bincount(unit, other) / count)[unit]).max() > 1e-9 for other in others.T]
    dof = max(count.size - 2 - sum(not varies for varies in within), 1)
    return float(np.sqrt((sums**2 / count).sum() / dof)), dof


def _with_units(found: Fit, spread: float, noise: float, dof: int, held: Sequence[str], units: str) -> Fit:
    from scipy.special import stdtrit

    line = found.line
    assert line is not None
    quantile = float(stdtrit(dof, 0.5 + found.level / 2)) * noise
    half = {
        "slope": quantile / np.sqrt(spread),
        "A": quantile * np.sqrt(1 / line.weight + line.center**2 / spread),
    }
    slope, level = found.estimates["slope"], found.estimates["A"]
    fixed = f" at fixed {' and '.join(held)}" if held else ""
    return replace(
        found,
        outcome=Outcome.OK,
        intervals={
            "A": (level * float(np.exp(-half["A"])), level * float(np.exp(half["A"]))),
            "slope": (slope - float(half["slope"]), slope + float(half["slope"])),
        },
        sd=noise,
        line=replace(line, spread=spread, sd=noise, dof=dof),
        held=tuple(held),
        message=f"{found.n} runs at {units}, least squares in logs{fixed}, t intervals between these values",
    )


def slope_table(slopes: Sequence[Slope]) -> pl.DataFrame:
    """One row per slope: group, axis, fixed quantities, slope, 95% interval, runs, units, outcome."""
    rows = [
        {
            "algorithm": row.algorithm,
            "mix": row.mix,
            "task": row.task,
            "value": row.value,
            "axis": row.axis,
            "held": " ".join(row.held),
            "slope": row.slope,
            "lo": row.interval and row.interval[0],
            "hi": row.interval and row.interval[1],
            "differs": row.differs,
            "n": row.fit.n,
            "units": row.units,
            "outcome": str(row.fit.outcome),
        }
        for row in slopes
    ]
    words = dict.fromkeys(("algorithm", "mix", "task", "value", "axis", "held"), pl.String)
    numbers = dict.fromkeys(("slope", "lo", "hi"), pl.Float64)
    rest = {"differs": pl.Boolean, "n": pl.Int64, "units": pl.Int64, "outcome": pl.String}
    return pl.DataFrame(rows, schema={**words, **numbers, **rest})
