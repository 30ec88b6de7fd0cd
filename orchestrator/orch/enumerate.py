"""From a checked grid to a table of cells: the product of the axes, priced and identified by the column.

Everything that is computed per cell in plain Python is computed per axis value, or per combination that
prices differ by, and joined; the product itself is polars' work. Ids equal `Cell.id` (a test holds them to it).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from orch_core.cell import Cell, Model, Portion
from orch_core.check import CheckedGrid
from orch_core.cost import price
from orch_core.errors import OrchError
from orch_core.expression import evaluate
from orch_core.grid import Axes, Include
from orch_core.identity import lanes
from orch_core.recipe import RECIPES
from orch_core.subset import apportion

LENGTHS = ("samples_seen", "epochs", "flops")
_KEY = ["model", "recipe", "resolution", "patch"]


@dataclass(frozen=True, slots=True)
class DataChoice:
    """One (mix, data size) of a grid: the portions that a cell with it draws, and their total."""

    mix: str
    images: int
    portions: tuple[Portion, ...]


def enumerate_cells(checked: CheckedGrid) -> pl.DataFrame:
    """One row per cell, unique by id, in the order of the grid's axes.

    Columns: id, labels and axes of `Cell`, shape columns, `data` and `overrides` as JSON, and the cost of each
    cell (`price`). Raises OrchError where the grid leaves no cell or asks for more data than there is.
    """
    axes = checked.grid.axes
    blocks = [_block(checked, _axes_of(axes, None))]
    blocks += [_block(checked, _axes_of(axes, include), keep=True) for include in checked.grid.include]
    frame = pl.concat(blocks, how="vertical")
    if frame.is_empty():
        message = f"{checked.path.name}: no cell is left after `exclude`"
        raise OrchError(message, hint="drop a rule, or widen the axes")
    return frame.unique(subset=["id"], keep="first", maintain_order=True)


def _axes_of(axes: Axes, include: Include | None) -> dict[str, list[Any]]:
    if include is None:
        return dict(axes)
    given = dict(axes) | {name: value for name, value in include if value is not None}
    if any(getattr(include, name) for name in LENGTHS):
        given |= {name: getattr(include, name) for name in LENGTHS}
    named = {shape.name: shape for shape in axes.model}
    return given | {"model": [named[model] if isinstance(model, str) else model for model in given["model"]]}


def _block(checked: CheckedGrid, axes: Mapping[str, list[Any]], *, keep: bool = False) -> pl.DataFrame:
    """One product of axes: what controls do not depend on is left out of their product."""
    parts = [_recipe_block(checked, axes, recipe) for recipe in axes["algorithm"]]
    frame = pl.concat([part for part in parts if part is not None], how="vertical")
    for rule in () if keep else checked.grid.exclude:
        columns = {name: pl.col(column) for name, column in _EXPRESSION_COLUMNS.items()}
        frame = frame.filter(~evaluate(rule, columns, is_in=lambda value, items: value.is_in(items)))
    return _identified(frame)


_EXPRESSION_COLUMNS = {
    **{
        name: name
        for name in ("model", "width", "depth", "heads", "algorithm", "recipe", "images", "mix", "seed")
    },
    **{name: name for name in ("resolution", "patch", "samples_seen", "epochs", "steps")},
    "params": "params_encoder",
    "flops": "flops_train",
}


def _recipe_block(checked: CheckedGrid, axes: Mapping[str, list[Any]], name: str) -> pl.DataFrame:
    recipe, training = RECIPES[name], checked.grid.training
    models = [shape.model() for shape in axes["model"]] if recipe.uses_model else [None]
    choices = _data_choices(checked, axes) if recipe.uses_data else [DataChoice("", 0, ())]
    frame = pl.DataFrame({"recipe": [name], "algorithm": [recipe.name]})
    frame = frame.join(_model_table(models), how="cross").join(_data_table(choices), how="cross")
    for axis in ("resolution", "patch"):
        frame = frame.join(pl.DataFrame({axis: pl.Series(axes[axis], dtype=pl.Int64)}), how="cross")
    frame = frame.join(
        _price_table(checked, axes, models, name), on=["model", "resolution", "patch"], nulls_equal=True
    )
    frame = frame.join(_length_table(axes) if recipe.uses_data else pl.DataFrame({"_none": [0]}), how="cross")
    frame = frame.join(_seed_table(axes["seed"] if recipe.uses_model else [0]), how="cross")
    batch = training.batch if recipe.uses_data else 0
    frame = frame.with_columns(
        batch=pl.lit(batch, pl.Int64),
        precision=pl.lit(training.precision),
        channels=pl.lit(training.channels, pl.Int64),
        subset_seed=pl.lit(training.subset_seed if recipe.uses_data else 0, pl.Int64),
        overrides=pl.lit(json.dumps(sorted(checked.grid.overrides.get(name, {}).items()))),
    )
    return _with_length(frame, batch).select(COLUMNS)


COLUMNS = [
    "model", "width", "depth", "heads", "mlp_ratio", "recipe", "algorithm", "overrides", "mix", "images", "data",
    "resolution", "patch", "channels", "samples_seen", "epochs", "steps", "batch", "precision", "seed", "subset_seed",
    "params_encoder", "params_head", "params_total", "flops_forward", "flops_train_image", "flops_train",
    "memory_bytes", "checkpoint_bytes",
]  # fmt: skip


def _with_length(frame: pl.DataFrame, batch: int) -> pl.DataFrame:
    """Samples seen as a whole number of batches, and what follows from it."""
    if batch == 0:
        frame = frame.with_columns(samples_seen=pl.lit(0, pl.Int64))
    else:
        wanted = pl.coalesce(
            pl.col("_samples_seen"),
            pl.col("_epochs") * pl.col("images"),
            pl.col("_flops") / pl.col("flops_train_image"),
        )
        steps = (wanted / batch).round().clip(lower_bound=1)
        frame = frame.with_columns(samples_seen=(steps * batch).cast(pl.Int64))
    seen = pl.col("samples_seen")
    return frame.with_columns(
        steps=seen // batch if batch else pl.lit(0, pl.Int64),
        epochs=seen / pl.col("images") if batch else pl.lit(0.0),
        flops_train=seen * pl.col("flops_train_image"),
    )


def _model_table(models: Sequence[Model | None]) -> pl.DataFrame:
    rows = [
        {
            "model": model.name if model else None,
            "width": model.width if model else None,
            "depth": model.depth if model else None,
            "heads": model.heads if model else None,
            "mlp_ratio": model.mlp_ratio if model else None,
        }
        for model in models
    ]
    schema = {
        "model": pl.String,
        "width": pl.Int64,
        "depth": pl.Int64,
        "heads": pl.Int64,
        "mlp_ratio": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema)


def _data_table(choices: Sequence[DataChoice]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "mix": [choice.mix for choice in choices],
            "images": [choice.images for choice in choices],
            "data": [json.dumps([asdict(portion) for portion in choice.portions]) for choice in choices],
        },
        schema={"mix": pl.String, "images": pl.Int64, "data": pl.String},
    )


def _seed_table(seeds: Sequence[int]) -> pl.DataFrame:
    return pl.DataFrame({"seed": pl.Series(seeds, dtype=pl.Int64)})


def _length_table(axes: Mapping[str, list[Any]]) -> pl.DataFrame:
    name = next(name for name in LENGTHS if axes.get(name))
    columns = {f"_{other}": axes[other] if other == name else [None] * len(axes[name]) for other in LENGTHS}
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.Float64))


def _price_table(
    checked: CheckedGrid, axes: Mapping[str, list[Any]], models: Iterable[Model | None], recipe: str
) -> pl.DataFrame:
    training, rows = checked.grid.training, []
    batch = training.batch if RECIPES[recipe].uses_data else 0
    for model in models:
        for resolution in axes["resolution"]:
            for patch in axes["patch"]:
                cell = Cell(
                    model=model,
                    recipe=recipe,
                    overrides=tuple(sorted(checked.grid.overrides.get(recipe, {}).items())),
                    resolution=resolution,
                    patch=patch,
                    channels=training.channels,
                    samples_seen=batch,
                    batch=batch,
                    precision=training.precision,
                )
                costs = {name: value for name, value in asdict(price(cell)).items() if name != "flops_train"}
                key = {"model": model.name if model else None, "resolution": resolution, "patch": patch}
                rows.append(key | {name: float(value) for name, value in costs.items()})
    schema = {"model": pl.String, "resolution": pl.Int64, "patch": pl.Int64}
    return pl.DataFrame(rows, schema_overrides=schema)


def _data_choices(checked: CheckedGrid, axes: Mapping[str, list[Any]]) -> list[DataChoice]:
    choices = []
    for mix in axes["mix"]:
        weights = checked.grid.mixes[mix]
        available = {name: checked.sources[name].pretraining for name in weights}
        for size in axes["images"]:
            asked = _asked(size, sum(available.values()))
            counts = _portion_counts(checked, mix, weights, available, asked)
            portions = tuple(_portion(checked, name, counts[name]) for name in sorted(counts) if counts[name])
            choices.append(DataChoice(mix, sum(counts.values()), portions))
    return choices


def _asked(size: int | str, available: int) -> int:
    if isinstance(size, int):
        return size
    return available if size == "all" else max(1, math.ceil(float(size.removesuffix("%")) / 100 * available))


def _portion_counts(
    checked: CheckedGrid,
    mix: str,
    weights: Mapping[str, float | None],
    available: Mapping[str, int],
    asked: int,
) -> dict[str, int]:
    shares = {name: float(weight or available[name]) for name, weight in weights.items()}
    total = sum(available.values())
    if asked > total and checked.grid.training.beyond_data == "repeat":
        return dict(available)
    counts = apportion(asked, shares)
    short = [name for name in counts if counts[name] > available[name]]
    if asked > total or short:
        what = (
            f"source {short[0]!r} has {available[short[0]]:,}"
            if short and asked <= total
            else f"it has {total:,}"
        )
        message = f"mix {mix!r} is asked for {asked:,} images but {what} for pretraining"
        hint = "lower axes.images or the weights, add a source, or say `beyond_data: repeat` under `training`"
        raise OrchError(message, hint=hint)
    return counts


def _portion(checked: CheckedGrid, name: str, images: int) -> Portion:
    source = checked.grid.sources[name]
    return Portion(
        source=name,
        modality=source.modality,
        images=images,
        fingerprint=checked.sources[name].fingerprint,
        path=str(checked.file(name)),
    )


def _identified(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `id`: the lanes of each field, hashed once per distinct value and added by the column."""
    high = np.zeros(frame.height, dtype=np.uint64)
    low = np.zeros(frame.height, dtype=np.uint64)
    for field, columns in _IDENTITY.items():
        distinct = frame.select(columns).unique(maintain_order=True)
        halves = [lanes(field, _identity_value(field, row)) for row in distinct.iter_rows()]
        table = distinct.with_columns(
            _high=pl.Series([half[0] for half in halves], dtype=pl.UInt64),
            _low=pl.Series([half[1] for half in halves], dtype=pl.UInt64),
        )
        joined = frame.select(columns).join(
            table, on=columns, how="left", nulls_equal=True, maintain_order="left"
        )
        high += joined["_high"].to_numpy()
        low += joined["_low"].to_numpy()
    text = np.stack([high, low], axis=1).astype(">u8").tobytes().hex()
    ids = [text[start : start + 32] for start in range(0, len(text), 32)]
    return frame.select(pl.Series("id", ids, dtype=pl.String), pl.all())


_IDENTITY = {
    "model": ["width", "depth", "heads", "mlp_ratio"],
    "recipe": ["recipe"],
    "overrides": ["overrides"],
    "data": ["data"],
    "resolution": ["resolution"],
    "patch": ["patch"],
    "channels": ["channels"],
    "samples_seen": ["samples_seen"],
    "batch": ["batch"],
    "precision": ["precision"],
    "seed": ["seed"],
    "subset_seed": ["subset_seed"],
}


def _identity_value(field: str, row: tuple[Any, ...]) -> Any:
    if field == "model":
        return None if row[0] is None else list(row)
    if field == "overrides":
        return dict(json.loads(row[0]))
    if field == "data":
        return [[portion["fingerprint"], portion["images"]] for portion in json.loads(row[0])]
    return row[0]


def cell_of(row: Mapping[str, Any]) -> Cell:
    """The cell of one row of `enumerate_cells`."""
    shape = {name: row[name] for name in ("width", "depth", "heads", "mlp_ratio")}
    return Cell(
        model=Model(name=row["model"], **shape) if row["model"] is not None else None,
        recipe=row["recipe"],
        overrides=tuple((name, value) for name, value in json.loads(row["overrides"])),
        data=tuple(Portion(**portion) for portion in json.loads(row["data"])),
        **{
            name: row[name]
            for name in ("resolution", "patch", "channels", "samples_seen", "batch", "precision", "seed")
        },
        subset_seed=row["subset_seed"],
        mix=row["mix"],
        images=row["images"],
    )
