"""Points to fit: CSV, Parquet or a frame in, usable rows and a list of those left out with their reasons out."""

from __future__ import annotations

import codecs
import csv
import hashlib
from pathlib import Path

import polars as pl

from orch_analysis.fitting.points import ROW, Dropped, Points
from orch_core.errors import OrchError

SEPARATORS = (",", ";", "\t", "|")


def load_points(source: str | Path | pl.DataFrame, *, name: str = "table") -> Points:
    """Read a table of points, one row per run or checkpoint; `name` is the source of a frame.

    Leaves out rows of a CSV file with another number of fields than the header, and exact duplicates of an earlier
    row. Values that are missing, not numbers or out of range are left out later, by the fit that needs them. Raises
    OrchError for a file that is missing, empty or of another kind.
    """
    if not isinstance(source, pl.DataFrame):
        return _from_file(Path(source))
    digest = hashlib.sha256(source.write_csv().encode()).hexdigest()
    return _numbered(source, range(1, source.height + 1), (), digest, name)


def _from_file(path: Path) -> Points:
    if not path.is_file():
        msg = f"no such file: {path}"
        raise OrchError(msg, hint="give a CSV or Parquet file of points, one row per run")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if path.suffix.lower() in {".parquet", ".pq"}:
        try:
            frame = pl.read_parquet(data)
        except Exception as error:
            msg = f"{path} cannot be read as Parquet: {error}"
            raise OrchError(msg, hint="check that the file is complete") from error
        return _numbered(frame, range(1, frame.height + 1), (), digest, str(path))
    return _from_csv(_text(data), digest, str(path))


def _text(data: bytes) -> str:
    """Text as spreadsheets save it: UTF-8, UTF-16 by its mark, else Windows' western code page."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _from_csv(text: str, digest: str, source: str) -> Points:
    """Line by line, so that one broken line (an open quote, a lost field) costs that line and no other.

    Lines that start with # are comments.
    """
    lines = text.splitlines()
    head = next((i for i, line in enumerate(lines) if line.strip() and not _comment(line)), None)
    if head is None:
        msg = f"{source} is empty"
        raise OrchError(msg, hint="the first line names the columns, every other line is a point")
    separator = max(SEPARATORS, key=lines[head].count)
    names = [field.strip() for field in _fields(lines[head], separator)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"{source}: column {', '.join(map(repr, twice))} is there twice"
        raise OrchError(msg, hint="rename one of them in the header line")
    rows: list[list[str]] = []
    numbers: list[int] = []
    dropped: list[Dropped] = []
    for number, line in enumerate(lines[head + 1 :], start=head + 2):
        if not line.strip():
            continue
        if _comment(line):
            dropped.append(Dropped(row=number, reason="a comment"))
            continue
        fields = _fields(line, separator)
        if len(fields) == len(names):
            rows.append([field.strip() for field in fields])
            numbers.append(number)
        else:
            cause = f"{len(fields)} fields where the header has {len(names)}" if fields else "an open quote"
            reason = f"broken line: {cause}"
            dropped.append(Dropped(row=number, reason=reason))
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    comma = separator == ";"
    frame = pl.DataFrame({name: _typed(name, column, comma=comma) for name, column in columns.items()})
    return _numbered(frame, numbers, tuple(dropped), digest, source)


def _comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _fields(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, strict=True))
    except (csv.Error, StopIteration):
        return []


def _typed(name: str, column: list[str], *, comma: bool) -> pl.Series:
    """Numbers where all filled fields are numbers, text otherwise; empty fields are missing.

    With `comma` the decimal sign may be a comma, as spreadsheets write it where fields are parted by semicolons.
    """
    series = pl.Series(name, [field or None for field in column], dtype=pl.String)
    for text in (series, series.str.replace(",", ".", literal=True)) if comma else (series,):
        numbers = text.cast(pl.Float64, strict=False)
        if numbers.null_count() == series.null_count():
            return numbers
    return series


def _numbered(
    frame: pl.DataFrame, numbers: range | list[int], dropped: tuple[Dropped, ...], digest: str, source: str
) -> Points:
    """Add the row numbers, and leave out exact duplicates of an earlier row."""
    if not frame.width:
        return Points(frame=frame, dropped=dropped, sha256=digest, source=source)
    numbered = frame.with_columns(pl.Series(ROW, list(numbers), dtype=pl.Int64))
    kept = numbered.unique(subset=frame.columns, keep="first", maintain_order=True)
    repeats = sorted(set(numbered[ROW].to_list()) - set(kept[ROW].to_list()))
    same = tuple(Dropped(row=row, reason="duplicate of an earlier row") for row in repeats)
    return Points(frame=kept, dropped=(*dropped, *same), sha256=digest, source=source)
