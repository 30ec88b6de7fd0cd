"""The columns of a plan's frame, one row per cell, with the field, axis and part of the identity of each.

`row_of` and `cell_of` convert a cell to its row and back. Only they write and read the JSON of `overrides`
and `data`.
"""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from orch_core.cell import Cell, Model, Override, SourceSubset, identity_of_data, identity_of_model
from orch_core.identity import Hashes, field_hashes

Part = Literal["shape", "data", "run", "cost"]
TEXT, SMALL, WHOLE, REAL = pl.Categorical, pl.Int32, pl.Int64, pl.Float64


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the frame.

    part:  the source of its values: the encoder's `shape` with its recipe constants, `data`, `run` or `cost`
    field: the field of `Cell.identity` that it is (part of); "" for labels and derived columns
    axis:  its name in expressions such as `exclude`; "" if expressions cannot use it
    """

    name: str
    dtype: Any
    part: Part
    field: str = ""
    axis: str = ""


def _column(name: str, dtype: Any, part: Part, field: str = "", axis: str = "") -> Column:
    return Column(name=name, dtype=dtype, part=part, field=field, axis=axis)


COLUMNS = (
    _column("model", TEXT, "shape", axis="model"),
    _column("width", SMALL, "shape", "model", "width"),
    _column("depth", SMALL, "shape", "model", "depth"),
    _column("heads", SMALL, "shape", "model", "heads"),
    _column("mlp_ratio", REAL, "shape", "model"),
    _column("recipe", TEXT, "run", "recipe", "recipe"),
    _column("algorithm", TEXT, "run", axis="algorithm"),
    _column("overrides", TEXT, "shape", "overrides"),
    _column("mix", TEXT, "data", axis="mix"),
    _column("images", WHOLE, "data", axis="images"),
    _column("data", TEXT, "data", "data"),
    _column("resolution", SMALL, "shape", "resolution", "resolution"),
    _column("patch", SMALL, "shape", "patch", "patch"),
    _column("channels", SMALL, "run", "channels"),
    _column("samples_seen", WHOLE, "run", "samples_seen", "samples_seen"),
    _column("epochs", REAL, "run", axis="epochs"),
    _column("steps", WHOLE, "run", axis="steps"),
    _column("batch", SMALL, "run", "batch"),
    _column("precision", TEXT, "run", "precision"),
    _column("seed", WHOLE, "run", "seed", "seed"),
    _column("subset_seed", WHOLE, "run", "subset_seed"),
    _column("params_encoder", REAL, "cost", axis="params"),
    _column("params_head", REAL, "cost"),
    _column("params_total", REAL, "cost"),
    _column("flops_forward", REAL, "cost"),
    _column("flops_train_image", REAL, "cost"),
    _column("flops_train", REAL, "run", axis="flops"),
    _column("activation_bytes", REAL, "cost"),
    _column("memory_bytes", REAL, "cost"),
    _column("checkpoint_bytes", REAL, "cost"),
)
DTYPES: Mapping[str, Any] = {column.name: column.dtype for column in COLUMNS}


def names_of(*parts: Part) -> list[str]:
    """Names of the columns of some parts, in the order of the frame."""
    return [column.name for column in COLUMNS if column.part in parts]


def row_of(cell: Cell) -> dict[str, Any]:
    """The columns of a cell's fields; the inverse of `cell_of`."""
    model = asdict(cell.model) if cell.model else dict.fromkeys(Model.__slots__)
    plain = {name: getattr(cell, name) for name in _PLAIN}
    return plain | {
        **{name: model[name] for name in _MODEL},
        "model": model["name"],
        "overrides": json.dumps(cell.overrides),
        "data": data_text(cell.data),
    }


def cell_of(row: Mapping[str, Any], label: str = "") -> Cell:
    """The cell of one row of a frame, with a label if it is given one."""
    plain = {name: row[name] for name in _PLAIN}
    overrides, data = overrides_of(row["overrides"]), data_of(row["data"])
    return Cell(model=_model_of(row), overrides=overrides, data=data, label=label, **plain)


def _model_of(row: Mapping[str, Any]) -> Model | None:
    if row["width"] is None:
        return None
    return Model(name=row.get("model", ""), **{name: row[name] for name in _MODEL})


_MODEL = ("width", "depth", "heads", "mlp_ratio")
_PLAIN = (
    "recipe", "resolution", "patch", "channels", "samples_seen", "batch", "precision", "seed", "subset_seed",
    "mix", "images",
)  # fmt: skip


@functools.lru_cache(maxsize=4096)
def overrides_of(text: str) -> tuple[Override, ...]:
    """The overrides in a value of the column `overrides`."""
    return tuple((name, value) for name, value in json.loads(text))


def data_text(data: Sequence[SourceSubset]) -> str:
    """Portions of sources as a value of the column `data`."""
    return json.dumps([asdict(subset) for subset in data])


@functools.lru_cache(maxsize=4096)
def data_of(text: str) -> tuple[SourceSubset, ...]:
    """The subsets of sources in a value of the column `data`."""
    return tuple(SourceSubset(**subset) for subset in json.loads(text))


# fields whose value in `Cell.identity` is not simply the column of the same name
_VALUES: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
    "model": lambda row: identity_of_model(_model_of(row)),
    "overrides": lambda row: dict(overrides_of(row["overrides"])),
    "data": lambda row: identity_of_data(data_of(row["data"])),
}


def identify(frame: pl.DataFrame) -> Hashes:
    """The summed hashes (`orch_core.identity`) of the identifying fields that a frame has; shape (rows, 2).

    Each field is hashed once per value that its columns have.
    """
    total = np.zeros((frame.height, 2), dtype=np.uint64)
    fields = dict.fromkeys(
        column.field for column in COLUMNS if column.field and column.name in frame.columns
    )
    for field in fields if frame.height else ():
        names = [column.name for column in COLUMNS if column.field == field]
        firsts, places = _distinct(frame.select(names))
        value = _VALUES.get(field, operator.itemgetter(field))
        values = [value(row) for row in frame.select(names)[firsts].iter_rows(named=True)]
        total += field_hashes(field, values).take(places, axis=0)
    return total


def _distinct(columns: pl.DataFrame) -> tuple[pl.Series, NDArray[np.int64]]:
    """First row of each combination of values, and each row's combination (a single 0 if all are equal)."""
    key = columns.to_series().to_physical() if columns.width == 1 else columns.hash_rows()
    firsts = key.arg_unique()
    if firsts.len() == 1:
        return firsts, np.zeros(1, dtype=np.int64)
    numbers = pl.Series(range(firsts.len()), dtype=pl.Int64)
    return firsts, key.replace_strict(key[firsts], numbers).to_numpy()
