"""A table of points: the rows that could be read, and those that could not."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

ROW = "_row"  # column with the row's number in its file, where it comes from one


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A row of the table that was left out: its number (from 1, in the file where there is one) and why."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """A table of points: `frame` has the rows that could be read, `dropped` those that could not.

    Rows are numbered by their line in a CSV file (the header is line 1) and by position from 1 otherwise.
    `sha256` is that of the file's bytes, or of the frame as CSV; `source` names where it came from;
    `notes` say how it was read.
    """

    frame: pl.DataFrame
    dropped: tuple[Dropped, ...] = ()
    sha256: str = ""
    source: str = "table"
    notes: tuple[str, ...] = ()
