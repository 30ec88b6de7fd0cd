"""Names of a plan's cells: unique, and with everything that varies in the grid. Names are never parsed."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from orch_core.cell import Override
from orch_core.grid.columns import overrides_of

BASE = ("algorithm", "model", "mix", "images", "seed")  # parts of every cell's name
VARYING = {  # column -> how its value is written if the cells of an algorithm differ in it
    "recipe": "{}",
    "width": "w{}",
    "depth": "d{}",
    "heads": "h{}",
    "mlp_ratio": "mlp{}",
    "resolution": "{}px",
    "patch": "p{}",
    "channels": "{}ch",
    "batch": "b{}",
    "precision": "{}",
    "subset_seed": "subset{}",
    "samples_seen": "{}seen",
}
IMPLIED = {"recipe": "algorithm", "width": "model", "depth": "model", "heads": "model", "mlp_ratio": "model"}


def cell_names(frame: pl.DataFrame) -> pl.Series:
    """A name for every row of a plan's frame, such as `mae-w64-all-2000-s0`; no two are equal.

    Columns that vary within an algorithm come before the seed: `mae-w64-all-2000-224px-mask_ratio0.6-s0`.
    Lengths are included if cells of one model, data and seed have several. Cells whose names still collide
    get the start of their ids.
    """
    parts = [frame.filter(pl.col("algorithm") == name) for name in frame["algorithm"].unique()]
    named = pl.concat([part.select("id", name=_name(part)) for part in parts])
    names = frame.select("id").join(named, on="id", how="left", maintain_order="left")
    twice = pl.col("name").is_duplicated()
    return names.select(
        pl.when(twice)
        .then(pl.format("{}-{}", "name", pl.col("id").str.slice(0, 8)))
        .otherwise(pl.col("name"))
    )["name"]


def _name(cells: pl.DataFrame) -> pl.Expr:
    images = pl.when(pl.col("images") > 0).then(pl.col("images").cast(pl.String))
    mix = pl.when(pl.col("mix").cast(pl.String) != "").then(pl.col("mix").cast(pl.String))
    extra = [pl.format(VARYING[column], pl.col(column)) for column in _varying(cells)]
    parts = ["algorithm", "model", mix, images, *extra, *_overrides(cells), pl.format("s{}", "seed")]
    return pl.concat_str(parts, separator="-", ignore_nulls=True)


def _varying(cells: pl.DataFrame) -> Iterable[str]:
    for column in VARYING:
        if cells[column].n_unique() == 1:
            continue
        beside = [IMPLIED[column]] if column in IMPLIED else list(BASE) if column == "samples_seen" else []
        if cells.select(*beside, column).n_unique() > max(
            1, cells.select(beside).n_unique() if beside else 1
        ):
            yield column


def _overrides(cells: pl.DataFrame) -> Iterable[pl.Expr]:
    """The recipe constants in which cells differ, each with its value."""
    texts = cells["overrides"].unique().to_list()
    given: dict[str, dict[str, Override]] = {
        text: {one[0]: one for one in overrides_of(text)} for text in texts
    }
    for constant in dict.fromkeys(name for found in given.values() for name in found):
        values = {text: _shown(found.get(constant)) for text, found in given.items()}
        if len(set(values.values())) > 1:
            yield pl.col("overrides").cast(pl.String).replace_strict(values, return_dtype=pl.String)


def _shown(override: Override | None) -> str | None:
    if override is None:
        return None
    name, value = override
    return f"{name}{value:g}" if isinstance(value, float) else f"{name}{value}"
