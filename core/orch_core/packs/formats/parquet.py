"""Parquet files as a source: a column of images, and columns of labels, splits, groups and modalities."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from orch_core.errors import OrchError
from orch_core.packs.formats.folders import natural
from orch_core.packs.gather import UNLABELLED, Item, Spec, Unit, printable
from orch_core.packs.splits import require_known, split_of_word

IMAGE = ("image", "img")
"""Names of the column of images if there are several of bytes, in this order."""
LABELS = ("label", "labels")
ROWS = 1000
"""Rows read at a time."""
MOST = 2**31
"""Numbers of classes from here on are names: a label is stored in 32 bits."""


def parquet_classes(paths: Sequence[Path], spec: Spec) -> tuple[str, ...]:
    """Names of the classes of a source's files in natural order, none if its labels are class numbers.

    Labels that are words, several for an image or one, and numbers of 2^31 and more, are names.
    Raises OrchError for labels that are neither words nor whole numbers, and for words in a column
    `split` that name no split.
    """
    values: set[str | int] = set()
    named = False
    for path in paths:
        with _reading(path):
            scan = pl.scan_parquet(path)
            schema = scan.collect_schema()
            column = label_column(path, schema, spec)
            if "split" in schema and column != "split":
                words = scan.select("split").unique().collect()["split"].drop_nulls().cast(pl.String)
                require_known(words.to_list(), f"column 'split' of {path}")
            if not column:
                continue
            cells = scan.select(column).collect()[column]
        several = isinstance(cells.dtype, pl.List | pl.Array)
        found = cells.explode() if several else cells
        _require_classes(path, column, found)
        unique = found.drop_nulls().unique().to_list()
        named = named or any(isinstance(value, str) or _whole(value) >= MOST for value in unique)
        named = named or (several and cells.list.len().n_unique() > 1)
        values |= {value if isinstance(value, str) else _whole(value) for value in unique}
    names = {str(value) for value in values if not isinstance(value, int) or value >= 0}
    return tuple(sorted(names, key=natural)) if named else ()


def _whole(value: Any) -> int:
    """A label as a number; -1, which means none, for NaN."""
    return -1 if isinstance(value, float) and math.isnan(value) else int(value)


def _require_classes(path: Path, column: str, values: pl.Series) -> None:
    kind = values.dtype
    whole = kind.is_integer() or kind in {pl.Boolean, pl.String, pl.Categorical, pl.Null} or kind == pl.Enum
    if kind.is_float():
        filled = values.drop_nulls().drop_nans()
        whole = bool((filled == filled.round()).all())
    if not whole:
        message = f"column {column!r} of {path} holds {kind}, which are not classes"
        raise OrchError(
            message, hint="give whole numbers or words, or name another column by `label` in a YAML file"
        )


def parquet_notes(paths: Sequence[Path], spec: Spec) -> list[str]:
    """What the columns leave open: a group that is not a column, and labels that may be in another one."""
    with _reading(paths[0]):
        schema = pl.read_parquet_schema(paths[0])
    said = []
    image, label = image_column(paths[0], schema, spec), label_column(paths[0], schema, spec)
    others = [
        name for name, kind in schema.items() if name != image and not kind.is_nested() and kind != pl.Binary
    ]
    if not label and others:
        said.append(
            f"its images have no labels: no column is called label; if one of {', '.join(others[:8])} is, "
            "name it by `label`"
        )
    return said


def image_column(path: Path, schema: Mapping[str, Any], spec: Spec) -> str:
    """The column of images; raises OrchError if there is none, or several and none is called image."""
    found = [name for name, kind in schema.items() if _is_image(kind)]
    if spec.image:
        found = [name for name in found if name == spec.image]
    if not found:
        message = f"{path} has no column of image bytes; it has {', '.join(schema)}"
        raise OrchError(message, hint="a column of binary, or of {bytes, path} as Hugging Face writes it")
    called = [name for want in IMAGE for name in found if name.lower() == want]
    if len(found) > 1 and not called:
        message = f"{path} has several columns of bytes: {', '.join(found)}"
        raise OrchError(message, hint="name the images' by `image` in a YAML file of sources")
    return (called or found)[0]


def label_column(path: Path, schema: Mapping[str, Any], spec: Spec) -> str:
    """The column of labels, or nothing; raises OrchError if the source names one that is not there."""
    if spec.label and spec.label not in schema:
        message = f"{path} has no column {spec.label!r}; it has {', '.join(schema)}"
        raise OrchError(message, hint="name another column by `label`")
    found = spec.label or next((name for name in LABELS if name in schema), "")
    return "" if found and _is_image(schema[found]) else found


def parquet_items(unit: Unit, spec: Spec) -> Iterator[Item]:
    """The images of a file, a row each."""
    path = Path(unit.paths[0])
    with _reading(path):
        scan = pl.scan_parquet(path)
        schema = scan.collect_schema()
        image, label = image_column(path, schema, spec), label_column(path, schema, spec)
        wanted = [name for name in (image, label, "split", "modality", spec.group) if name in schema]
        row = 0
        batches = scan.select(list(dict.fromkeys(wanted))).collect_batches(
            chunk_size=ROWS, maintain_order=True
        )
        for frame in batches:
            for fields in frame.iter_rows(named=True):
                yield _item(f"{printable(path.name)}/{row}", fields, unit, spec, (image, label))
                row += 1


def _item(name: str, fields: Mapping[str, Any], unit: Unit, spec: Spec, columns: tuple[str, str]) -> Item:
    image, label = columns
    cell = fields[image]
    blob = cell.get("bytes") if isinstance(cell, dict) else cell
    if not blob and isinstance(cell, dict) and cell.get("path"):
        return Item(name=name, problem=f"its bytes are not in the file, only the path {cell['path']}"[:200])
    split = fields.get("split")
    labels = _labels(fields[label], unit.classes) if label else ()
    return Item(
        name=name,
        blob=blob or b"",
        modality=str(fields.get("modality") or ""),
        group=str(fields[spec.group]) if fields.get(spec.group) is not None else "",
        split=split_of_word(str(split)) if split is not None else unit.split,
        labels=labels or (),
        note=UNLABELLED if labels is None else "",
    )


def _labels(value: Any, classes: Sequence[str]) -> tuple[int, ...] | None:
    """The labels of a cell: a class number, one for each class if a cell has several, None if it has none."""
    if isinstance(value, list):
        if not classes:
            return tuple(map(_whole, value))
        present = {one if isinstance(one, str) else str(_whole(one)) for one in value if one is not None}
        return tuple(int(name in present) for name in classes)
    if value is None or (not isinstance(value, str) and _whole(value) < 0):
        return None
    if classes:
        return (classes.index(value if isinstance(value, str) else str(_whole(value))),)
    return (_whole(value),)


def _is_image(kind: pl.DataType) -> bool:
    return kind == pl.Binary or (isinstance(kind, pl.Struct) and any(f.name == "bytes" for f in kind.fields))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        message = f"{path} is not a readable Parquet file: {' '.join(str(error).split())[:200]}"
        raise OrchError(message, hint="it may be truncated: copy or download it again") from error
