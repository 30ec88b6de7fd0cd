"""Tables of a report: as files (CSV, Parquet, LaTeX) and as rows of text for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

FORMATS = ("csv", "parquet", "tex")
ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "$": r"\$",
    "~": r"\textasciitilde{}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table for the page.

    `words` says which columns hold text (left-aligned); `files` are its data on disk.
    strong: indices of rows to print in bold; folded: shown only when the reader opens it; trailing: the
    last column is text as well.
    """

    name: str
    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    files: tuple[str, ...] = ()
    strong: frozenset[int] = frozenset()
    folded: bool = False
    trailing: bool = False


def save(frame: pl.DataFrame, folder: Path, name: str) -> tuple[str, ...]:
    """Write `folder/name.{csv,parquet,tex}` and return the paths relative to the folder's parent."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(folder / f"{name}.parquet")
    text = flat(frame)
    text.write_csv(folder / f"{name}.csv")
    (folder / f"{name}.tex").write_text(latex(text), encoding="utf-8")
    return tuple(f"{folder.name}/{name}.{kind}" for kind in FORMATS)


def flat(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with lists, structs, durations and bytes as text, which CSV has no form for."""
    kinds = (pl.List, pl.Array, pl.Struct, pl.Duration, pl.Binary, pl.Object)
    odd = [column for column in frame.get_columns() if column.dtype.base_type() in kinds]
    words = ([None if value is None else str(value) for value in column.to_list()] for column in odd)
    return frame.with_columns(
        pl.Series(column.name, cells, pl.String) for column, cells in zip(odd, words, strict=True)
    )


def latex(frame: pl.DataFrame) -> str:
    r"""The frame as a booktabs tabular, numbers to four significant digits."""
    align = "".join("r" if kind.is_numeric() else "l" for kind in frame.dtypes)
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", _line(frame.columns), r"\midrule"]
    lines += [_line([_plain(value) for value in row]) for row in frame.iter_rows()]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _line(values: Sequence[str]) -> str:
    return " & ".join("".join(ESCAPES.get(letter, letter) for letter in value) for value in values) + r" \\"


def _plain(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
