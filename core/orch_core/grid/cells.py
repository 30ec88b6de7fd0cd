"""From a checked grid to a table of cells: the product of the axes, with prices and ids computed by column.

Plain Python runs once per axis value, or once per combination that determines the price. polars computes the
product, and an id is the sum of hashes of axis values (see `orch_core.identity`). Tests check that the ids
equal `Cell.id`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import polars as pl

from orch_core.cell import Cell, algorithm_of
from orch_core.cost import price
from orch_core.grid.axes import Block, DataChoice, blocks, data_choices, models, overrides, refuse
from orch_core.grid.check import CheckedGrid
from orch_core.grid.columns import COLUMNS, DTYPES, REAL, data_text, identify, names_of, row_of
from orch_core.grid.expression import evaluate
from orch_core.grid.isoflop import solve
from orch_core.grid.language import LENGTHS
from orch_core.grid.section import MOST
from orch_core.grid.trunks import refuse_short, with_trunks
from orch_core.identity import join_ids
from orch_core.recipes import RECIPES

MOST_CELLS = 20_000_000  # about 8 GB of a planner's memory
NO_DATA = DataChoice(mix="", images=0, portions=())  # of controls that train on nothing


def enumerate_cells(checked: CheckedGrid) -> pl.DataFrame:
    """One row per cell, unique by id, in the order of the grid's axes.

    Columns: `id`, those of `orch_core.grid.columns`, and `samples_paid` and `continues` (`trunks`). Raises
    GridError, at its place, if the grid asks for more data than there is, for a budget that no size can meet,
    or for a length that is too short for warm-up and cool-down, or if no cell is left.
    """
    return cells_and_idle_rules(checked)[0]


def cells_and_idle_rules(checked: CheckedGrid) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The frame of `enumerate_cells`, and the rules of `exclude` that match none of the remaining cells."""
    used: set[str] = set()
    frame = pl.concat([_block(checked, block, used) for block in blocks(checked)], how="vertical")
    if frame.is_empty():
        rules = "; ".join(checked.grid.exclude)
        message = f"`exclude` removes every cell ({rules}): remove a rule, or widen the axes"
        raise refuse(checked, ("exclude",) if checked.grid.exclude else ("axes",), message)
    keys = np.sort(frame["id"].hash().to_numpy())
    if (keys[1:] == keys[:-1]).any():  # else all ids differ; this is faster than asking for unique ones
        frame = frame.unique(subset="id", keep="first", maintain_order=True)
    return with_trunks(frame), tuple(rule for rule in checked.grid.exclude if rule not in used)


def rule_mask(rule: str) -> pl.Expr:
    """Rows that match an expression over the axes; a control matches no condition on a field it lacks."""
    columns = {column.axis: pl.col(column.name) for column in COLUMNS if column.axis}
    found = evaluate(rule, columns, is_in=lambda value, items: value.is_in(items))
    return pl.lit(found).fill_null(value=False) if isinstance(found, bool) else found.fill_null(value=False)


def _block(checked: CheckedGrid, block: Block, used: set[str]) -> pl.DataFrame:
    """One product of axes; for a control, without the axes on which it does not depend.

    Rules of `exclude` that match a cell are added to `used`.
    """
    choices = [] if block.isoflop else data_choices(checked, block)
    recipes = dict.fromkeys(block.axes["algorithm"])
    frame = _with_seeds({name: _recipe_block(checked, block, name, choices) for name in recipes}, block)
    for rule in checked.grid.exclude if block.ruled else ():
        left = frame.filter(~rule_mask(rule))
        used |= {rule} if left.height < frame.height else set()
        frame = left
    _refuse_lacking(checked, block, frame, choices)
    return frame


def _refuse_lacking(
    checked: CheckedGrid, block: Block, frame: pl.DataFrame, choices: Sequence[DataChoice]
) -> None:
    """Raise GridError, at its place, for a data size that exceeds the sources, if any cell has it."""
    for choice in choices:
        if (
            choice.short
            and frame.select(
                ((pl.col("mix") == choice.mix) & (pl.col("images") == choice.images)).any()
            ).item()
        ):
            hint = "lower it or the weights, add a source, or set `beyond_data: repeat` under `training`"
            raise refuse(checked, (*block.loc, "images", choice.asked), f"{choice.short}: {hint}")


def _recipe_block(
    checked: CheckedGrid, block: Block, name: str, choices: Sequence[DataChoice]
) -> pl.DataFrame:
    recipe, training = RECIPES[name], checked.grid.training
    shapes = _shape_table(checked, block, name)
    if not recipe.uses_data:
        frame = shapes.join(_data_table([NO_DATA]), how="cross").with_columns(_constant("samples_seen", 0))
    elif block.isoflop:
        frame = _isoflop_table(checked, block, name, shapes)
    else:
        data = _data_table(choices)
        lengths = next(len(block.axes[length]) for length in LENGTHS if block.axes.get(length))
        _refuse_too_many(checked, block, shapes.height * data.height * lengths)
        frame = _with_length(checked, block, shapes.join(data, how="cross"))
    refuse_short(checked, block, frame)
    _refuse_too_many(checked, block, frame.height * len(_seeds(block, name)))
    seen, batch = pl.col("samples_seen"), training.batch if recipe.uses_data else 0
    frame = frame.with_columns(
        _constant("recipe", name),
        _constant("algorithm", algorithm_of(recipe.id)),
        _constant("batch", batch),
        _constant("precision", training.precision),
        _constant("channels", training.channels),
        _constant("subset_seed", training.subset_seed if recipe.uses_data else 0),
        steps=seen // batch if batch else pl.lit(0, DTYPES["steps"]),
        epochs=seen / pl.col("images") if batch else pl.lit(0.0),
        flops_train=seen * pl.col("flops_train_image"),
    )
    return frame.select(column.name for column in COLUMNS if column.name != "seed")


def _seeds(block: Block, name: str) -> Sequence[int]:
    return block.axes["seed"] if RECIPES[name].uses_model else [0]


def _with_seeds(frames: Mapping[str, pl.DataFrame], block: Block) -> pl.DataFrame:
    """The rows of every recipe's frame once per seed, with their ids.

    The whole frame is written once, in one piece: polars copies a frame in several pieces as a whole later.
    """
    seeds = [pl.DataFrame({"seed": _seeds(block, name)}, {"seed": DTYPES["seed"]}) for name in frames]
    pairs = list(zip(frames.values(), seeds, strict=True))
    hashes = [(identify(part)[:, None] + identify(seed)).reshape(-1, 2) for part, seed in pairs]
    column = np.concatenate([np.tile(seed["seed"], part.height) for part, seed in pairs])
    frame = pl.concat(frames.values(), how="vertical")
    counts = np.concatenate([np.full(part.height, seed.height) for part, seed in pairs])
    frame = frame[np.repeat(np.arange(frame.height, dtype=np.uint32), counts)]
    frame = frame.with_columns(pl.Series("seed", column)).select(column.name for column in COLUMNS)
    return frame.insert_column(0, join_ids(np.concatenate(hashes)))


def _constant(name: str, value: object) -> pl.Expr:
    return pl.lit(value, DTYPES[name]).alias(name)


def _refuse_too_many(checked: CheckedGrid, block: Block, count: int) -> None:
    if count > MOST_CELLS:
        message = f"the axes make {count:,} cells, more than the {MOST_CELLS:,} of a plan: narrow one of them"
        raise refuse(checked, block.loc, message)


def _shape_table(checked: CheckedGrid, block: Block, name: str) -> pl.DataFrame:
    """Every shape x overrides x resolution x patch with its cost."""
    recipe, training, axes = RECIPES[name], checked.grid.training, block.axes
    batch = training.batch if recipe.uses_data else 0
    cells = [
        Cell(
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
        for model in (models(checked, block) if recipe.uses_model else [None])
        for given in overrides(checked, name)
        for resolution in axes["resolution"]
        for patch in axes["patch"]
    ]
    rows = [
        row_of(cell) | {name: float(cost) for name, cost in asdict(price(cell)).items()} for cell in cells
    ]
    names = names_of("shape", "cost")
    columns = {name: [row[name] for row in rows] for name in names}
    return pl.DataFrame(columns, schema={name: DTYPES[name] for name in names})


def _data_table(choices: Sequence[DataChoice]) -> pl.DataFrame:
    columns = {
        "mix": [choice.mix for choice in choices],
        "images": [choice.images for choice in choices],
        "data": [data_text(choice.portions) for choice in choices],
    }
    return pl.DataFrame(columns, schema={name: DTYPES[name] for name in columns})


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
    frame = frame.join(pl.DataFrame({"_length": pl.Series(axes[name], dtype=REAL)}), how="cross")
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
        message = f"{asked:.3g} FLOPs cannot pay for a batch of {batch} images: raise it, or lower `batch`"
        raise refuse(checked, (*block.loc, name, index), message)
    steps = (wanted / batch).round().clip(lower_bound=1)
    return frame.with_columns(samples_seen=(steps * batch).cast(pl.Int64)).drop("_length")
