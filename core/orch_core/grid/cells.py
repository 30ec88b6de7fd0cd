"""From a checked grid to a table of cells: the product of the axes, priced and identified by the column.

Everything that takes plain Python is computed once per axis value, or per combination that prices differ by; the
product itself is polars' work, and an id is the sum of hashes of axis values (see `orch_core.identity`). Ids equal
`Cell.id`: tests hold them to it. Texts are categorical columns, so that a million rows share them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orch_core.cell import Cell, Model, SourceSubset
from orch_core.cost import price
from orch_core.grid.axes import Block, DataChoice, blocks, data_choices, models, overrides, refuse
from orch_core.grid.check import CheckedGrid
from orch_core.grid.expression import evaluate
from orch_core.grid.isoflop import solve
from orch_core.grid.language import LENGTHS
from orch_core.grid.section import MOST
from orch_core.grid.trunks import refuse_short, with_trunks
from orch_core.identity import LANE, lanes
from orch_core.recipes import RECIPES

Lanes = NDArray[np.uint64]
MOST_CELLS = 20_000_000  # about 8 GB of a planner's memory

_TEXT, _WHOLE, _REAL = pl.Categorical, pl.Int32, pl.Float64
SHAPE: Mapping[str, Any] = {
    "model": _TEXT, "width": _WHOLE, "depth": _WHOLE, "heads": _WHOLE, "mlp_ratio": _REAL, "overrides": _TEXT,
    "resolution": _WHOLE, "patch": _WHOLE,
}  # fmt: skip
COSTS = (
    "params_encoder", "params_head", "params_total", "flops_forward", "flops_train_image", "activation_bytes",
    "memory_bytes", "checkpoint_bytes",
)  # fmt: skip
DATA: Mapping[str, Any] = {"mix": _TEXT, "images": pl.Int64, "data": _TEXT}
COLUMNS = (
    "id", "model", "width", "depth", "heads", "mlp_ratio", "recipe", "algorithm", "overrides", "mix", "images", "data",
    "resolution", "patch", "channels", "samples_seen", "epochs", "steps", "batch", "precision", "seed", "subset_seed",
    *COSTS[:5], "flops_train", *COSTS[5:],
)  # fmt: skip
AXIS_COLUMNS: Mapping[str, str] = {
    **{
        name: name
        for name in (
            "model", "width", "depth", "heads", "algorithm", "recipe", "images", "mix", "seed", "resolution", "patch",
            "samples_seen", "epochs", "steps",
        )
    },
    "params": "params_encoder",
    "flops": "flops_train",
}  # fmt: skip


def enumerate_cells(checked: CheckedGrid) -> pl.DataFrame:
    """One row per cell, unique by id, in the order of the grid's axes.

    Columns: id, labels and axes of `Cell`, shape columns, `data` and `overrides` as JSON, the cost of each cell
    (`price`), `samples_paid` and `continues` (`trunks`), and `kind`, equal where recipe, shape and overrides are.
    Raises GridError, at its place, where the grid asks for more data than there is, a budget that no size can meet, a
    length without room for warm-up and cool-down, or leaves no cell.
    """
    frame = pl.concat([_block(checked, block) for block in blocks(checked)], how="vertical")
    if frame.is_empty():
        message = f"no cell is left after `exclude` ({'; '.join(checked.grid.exclude)}): drop a rule, or widen the axes"
        raise refuse(checked, ("exclude",) if checked.grid.exclude else ("axes",), message)
    high = frame["_high"].to_numpy()
    if not _distinct(high):
        frame = frame.unique(subset=["_high", "_low"], keep="first", maintain_order=True)
    ids = _hexadecimal(frame["_high"].to_numpy(), frame["_low"].to_numpy())
    return with_trunks(frame.select(ids, pl.all())).drop("_high", "_low")


def holds(rule: str) -> pl.Expr:
    """Whether an expression over the axes holds, row by row; what a control does not have makes it false."""
    columns = {name: pl.col(column) for name, column in AXIS_COLUMNS.items()}
    found = evaluate(rule, columns, is_in=lambda value, items: value.is_in(items))
    return pl.lit(found).fill_null(value=False) if isinstance(found, bool) else found.fill_null(value=False)


def _block(checked: CheckedGrid, block: Block) -> pl.DataFrame:
    """One product of axes: what controls do not depend on is left out of their product."""
    frame = pl.concat(
        [_recipe_block(checked, block, name) for name in dict.fromkeys(block.axes["algorithm"])],
        how="vertical",
    )
    for rule in checked.grid.exclude if block.ruled else ():
        frame = frame.filter(~holds(rule))
    short = frame.filter(pl.col("_short") != "").head(1)
    if short.height:
        loc = (*block.loc, "images", short["_asked"].item())
        hint = "lower it or the weights, add a source, or say `beyond_data: repeat` under `training`"
        raise refuse(checked, loc, f"{short['_short'].item()}: {hint}")
    return frame.drop("_short", "_asked")


def _recipe_block(checked: CheckedGrid, block: Block, name: str) -> pl.DataFrame:
    recipe, training = RECIPES[name], checked.grid.training
    shapes = _shape_table(checked, block, name)
    if not recipe.uses_data:
        frame = shapes.join(_data_table([DataChoice(mix="", images=0, portions=())]), how="cross")
        frame = frame.with_columns(samples_seen=pl.lit(0, pl.Int64))
    elif block.isoflop:
        frame = _isoflop_table(checked, block, name, shapes)
    else:
        data = _data_table(data_choices(checked, block))
        lengths = next(len(block.axes[length]) for length in LENGTHS if block.axes.get(length))
        _refuse_too_many(checked, block, shapes.height * data.height * lengths)
        frame = _with_length(checked, block, shapes.join(data, how="cross"))
    refuse_short(checked, block, frame)
    seeds = block.axes["seed"] if recipe.uses_model else [0]
    _refuse_too_many(checked, block, frame.height * len(seeds))
    frame = _identified(frame, checked, name).join(_seed_table(seeds), how="cross")
    batch = training.batch if recipe.uses_data else 0
    seen = pl.col("samples_seen")
    frame = frame.with_columns(
        recipe=pl.lit(name, _TEXT),
        algorithm=pl.lit(recipe.name, _TEXT),
        batch=pl.lit(batch, _WHOLE),
        precision=pl.lit(training.precision, _TEXT),
        channels=pl.lit(training.channels, _WHOLE),
        subset_seed=pl.lit(training.subset_seed if recipe.uses_data else 0, pl.Int64),
        steps=seen // batch if batch else pl.lit(0, pl.Int64),
        epochs=seen / pl.col("images") if batch else pl.lit(0.0),
        flops_train=seen * pl.col("flops_train_image"),
        _high=pl.col("_high") + pl.col("_seed_high"),
        _low=pl.col("_low") + pl.col("_seed_low"),
    )
    return frame.select([*COLUMNS[1:], "kind", "_short", "_asked", "_high", "_low"])


def _refuse_too_many(checked: CheckedGrid, block: Block, count: int) -> None:
    if count > MOST_CELLS:
        message = f"the axes make {count:,} cells, more than the {MOST_CELLS:,} of a plan: narrow one of them"
        raise refuse(checked, block.loc, message)


def _shape_table(checked: CheckedGrid, block: Block, name: str) -> pl.DataFrame:
    """Every shape x overrides x resolution x patch with its cost, and the hashes of these fields."""
    recipe, training, axes = RECIPES[name], checked.grid.training, block.axes
    batch = training.batch if recipe.uses_data else 0
    rows: list[dict[str, Any]] = []
    for model in models(checked, block) if recipe.uses_model else [None]:
        for given in overrides(checked, name):
            for resolution in axes["resolution"]:
                for patch in axes["patch"]:
                    cell = Cell(
                        model=model,
                        recipe=name,
                        overrides=given,
                        resolution=resolution,
                        patch=patch,
                        channels=training.channels,
                        samples_seen=batch,
                        batch=batch,
                        precision=training.precision,
                    )
                    rows.append(_shape_row(cell))
    schema = {**SHAPE, **dict.fromkeys(COSTS, _REAL), "_shape_high": pl.UInt64, "_shape_low": pl.UInt64}
    return pl.DataFrame(rows, schema=schema)


def _shape_row(cell: Cell) -> dict[str, Any]:
    costs = asdict(price(cell))
    model = asdict(cell.model) if cell.model else dict.fromkeys(Model.__slots__)
    identity = cell.identity()
    high, low = _sum(lanes(field, identity[field]) for field in ("model", "overrides", "resolution", "patch"))
    return {
        **{name: model[name] for name in ("width", "depth", "heads", "mlp_ratio")},
        "model": model["name"],
        "overrides": json.dumps(cell.overrides),
        "resolution": cell.resolution,
        "patch": cell.patch,
        **{name: float(costs[name]) for name in COSTS},
        "_shape_high": high,
        "_shape_low": low,
    }


def _data_table(choices: Sequence[DataChoice]) -> pl.DataFrame:
    halves = [
        lanes("data", [[portion.fingerprint, portion.images] for portion in choice.portions])
        for choice in choices
    ]
    return pl.DataFrame(
        {
            "mix": [choice.mix for choice in choices],
            "images": [choice.images for choice in choices],
            "data": [json.dumps([asdict(portion) for portion in choice.portions]) for choice in choices],
            "_short": [choice.short for choice in choices],
            "_asked": [choice.asked for choice in choices],
            "_data_high": [high for high, _ in halves],
            "_data_low": [low for _, low in halves],
        },
        schema={**DATA, "_short": _TEXT, "_asked": _WHOLE, "_data_high": pl.UInt64, "_data_low": pl.UInt64},
    )


def _isoflop_table(checked: CheckedGrid, block: Block, name: str, shapes: pl.DataFrame) -> pl.DataFrame:
    named = list(zip(shapes["model"], shapes["flops_train_image"], strict=True))
    rows = solve(checked, block, name, named)
    data = _data_table([row.data for row in rows])
    seen = pl.Series("samples_seen", [row.samples_seen for row in rows], dtype=pl.Int64)
    return shapes[[row.shape for row in rows]].hstack(data).with_columns(seen)


def _with_length(checked: CheckedGrid, block: Block, frame: pl.DataFrame) -> pl.DataFrame:
    """Every training length, as samples seen in whole batches; raises GridError for one beyond 2^53."""
    axes, batch = block.axes, checked.grid.training.batch
    name = next(name for name in LENGTHS if axes.get(name))
    frame = frame.join(pl.DataFrame({"_length": pl.Series(axes[name], dtype=_REAL)}), how="cross")
    wanted = {
        "samples_seen": pl.col("_length"),
        "epochs": pl.col("_length") * pl.col("images"),
        "flops": pl.col("_length") / pl.col("flops_train_image"),
    }[name]
    most = frame.select(wanted.max()).item()
    if most is not None and most >= MOST:
        raise refuse(checked, (*block.loc, name), f"{name}: comes to {most:.3g} samples seen, more than 2^53")
    least = frame.select(pl.col("_length").sort_by(wanted).first(), (wanted.min() / batch).alias("steps"))
    if name == "flops" and least.height and least["steps"].item() < 0.5:
        asked = least["_length"].item()
        index = axes[name].index(asked)
        message = (
            f"{asked:.3g} FLOPs are less than one batch of {batch} images costs: raise them, or lower `batch`"
        )
        raise refuse(checked, (*block.loc, name, index), message)
    steps = (wanted / batch).round().clip(lower_bound=1)
    return frame.with_columns(samples_seen=(steps * batch).cast(pl.Int64)).drop("_length")


def _seed_table(seeds: Sequence[int]) -> pl.DataFrame:
    halves = [lanes("seed", seed) for seed in seeds]
    return pl.DataFrame(
        {"seed": seeds, "_seed_high": [high for high, _ in halves], "_seed_low": [low for _, low in halves]},
        schema={"seed": pl.Int64, "_seed_high": pl.UInt64, "_seed_low": pl.UInt64},
    )


def _identified(frame: pl.DataFrame, checked: CheckedGrid, name: str) -> pl.DataFrame:
    """Add `_high` and `_low`, the sum of the hashes of every field but the seed, and `kind`, of those prices differ by."""
    training, uses_data = checked.grid.training, RECIPES[name].uses_data
    same = {
        "recipe": name,
        "channels": training.channels,
        "batch": training.batch if uses_data else 0,
        "precision": training.precision,
        "subset_seed": training.subset_seed if uses_data else 0,
    }
    base = _sum(lanes(field, value) for field, value in same.items())
    distinct, where = np.unique(frame["samples_seen"].to_numpy(), return_inverse=True)
    halves = [lanes("samples_seen", int(value)) for value in distinct]
    columns = []
    for index, half in enumerate(("high", "low")):
        hashes = np.array([pair[index] for pair in halves], dtype=np.uint64)[where]
        total = hashes + frame[f"_shape_{half}"].to_numpy() + frame[f"_data_{half}"].to_numpy()
        columns.append(pl.Series(f"_{half}", total + np.uint64(base[index]), dtype=pl.UInt64))
    kind = pl.Series("kind", frame["_shape_high"].to_numpy() + np.uint64(base[0]), dtype=pl.UInt64)
    return frame.drop("_shape_high", "_shape_low", "_data_high", "_data_low").with_columns(*columns, kind)


def _sum(halves: Iterable[tuple[int, int]]) -> tuple[int, int]:
    pairs = list(halves)
    return sum(high for high, _ in pairs) % LANE, sum(low for _, low in pairs) % LANE


def _distinct(values: Lanes) -> bool:
    """Whether no two are equal: then no two ids are, of which these are the first halves."""
    ordered = np.sort(values)
    return not bool((ordered[1:] == ordered[:-1]).any())


def _hexadecimal(high: Lanes, low: Lanes) -> pl.Series:
    """Ids as 32 hexadecimal digits."""
    pairs = np.empty((high.size, 2), dtype=">u8")
    pairs[:, 0], pairs[:, 1] = high, low
    text = np.frombuffer(pairs.tobytes().hex().encode(), dtype="S32")
    return pl.Series("id", text, dtype=pl.Binary).cast(pl.String)


def halves_of(ids: pl.Series) -> tuple[Lanes, Lanes]:
    """Both 64-bit halves of ids; the inverse of their hexadecimal form."""
    return _half(ids, 0), _half(ids, 16)


def _half(ids: pl.Series, start: int) -> Lanes:
    digits = ids.str.slice(start, 16).str.decode("hex")
    return digits.bin.reinterpret(dtype=pl.UInt64, endianness="big").to_numpy()


def cell_of(row: Mapping[str, Any]) -> Cell:
    """The cell of one row of `enumerate_cells`."""
    shape = {name: row[name] for name in ("width", "depth", "heads", "mlp_ratio")}
    return Cell(
        model=Model(name=row["model"], **shape) if row["model"] is not None else None,
        recipe=row["recipe"],
        overrides=tuple((name, value) for name, value in json.loads(row["overrides"])),
        data=tuple(SourceSubset(**portion) for portion in json.loads(row["data"])),
        **{
            name: row[name]
            for name in ("resolution", "patch", "channels", "samples_seen", "batch", "precision", "seed")
        },
        subset_seed=row["subset_seed"],
        mix=row["mix"],
        images=row["images"],
    )
