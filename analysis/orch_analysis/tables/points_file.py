"""Points to fit: a file or a frame in, usable rows and a list of those left out with their reasons out."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from orch_analysis.fitting.points import ROW, Dropped, Points
from orch_analysis.fitting.used_rows.numerals import Decimal, as_floats, decimals
from orch_analysis.tables.delimited import read_cells
from orch_analysis.tables.export import flat
from orch_core.errors import OrchError

INDEX = re.compile(
    r"Unnamed: \d+|index|level_\d+|_row"
)  # columns that number the rows, as pandas writes them
NOT_TABLES = {  # how other files begin, and what to do with them
    b"PK\x03\x04": ("a spreadsheet or another zip file", "save the sheet as CSV or Parquet"),
    b"\xd0\xcf\x11\xe0": ("an Excel file", "save the sheet as CSV or Parquet"),
    b"version https://git-lfs": (
        "a pointer of Git LFS, not the file", "run `git lfs pull` to download the file",
    ),
    b"<": ("a web page or XML", "download the file itself: this may be a page that asks to sign in"),
}  # fmt: skip


def load_points(source: str | Path | object, *, name: str = "table") -> Points:
    """Read a table of points, one row per run or checkpoint.

    source: a CSV file (separated by comma, semicolon, tab, bar or blanks), JSON lines, a JSON list
    of objects, any of them compressed with gzip, a Parquet file, or a polars or pandas frame,
    whose source is then `name`.

    Leaves out broken lines, exact duplicates of an earlier row, and trials of an Optuna study that are not
    complete. Values that are missing, not numbers or out of range are left out later, by the fit that needs
    them. Raises OrchError for a file that is missing, empty or of another kind.
    """
    if isinstance(source, str | Path):
        return _from_file(Path(source))
    frame = source if isinstance(source, pl.DataFrame) else _from_pandas(source)
    digest = hashlib.sha256(flat(frame).write_csv().encode()).hexdigest()
    return _points(frame, range(1, frame.height + 1), (), digest, name)


def _from_pandas(frame: Any) -> pl.DataFrame:
    if not hasattr(frame, "reset_index"):
        msg = f"a table of points is a path or a frame of polars or pandas, got {type(frame).__name__}"
        raise OrchError(msg, hint='load_points("points.csv")')
    named = any(name is not None for name in frame.index.names)
    columns = frame.reset_index() if named else frame
    if len({str(name) for name in columns.columns}) < len(columns.columns):
        msg = "two columns of the frame have one name"
        raise OrchError(msg, hint="rename one of them")
    values = {
        str(name): column.astype(object).where(column.notna(), None).tolist()
        for name, column in columns.items()
    }
    return pl.DataFrame(values, strict=False, infer_schema_length=None)


def _from_file(path: Path) -> Points:
    if not path.is_file():
        msg = f"no such file: {path}"
        raise OrchError(msg, hint="give a CSV, JSON lines or Parquet file of points, one row per run")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            msg = f"{path} cannot be decompressed: {error}"
            raise OrchError(msg, hint="check that the file is complete") from error
    if data.startswith(b"PAR1") or path.suffix.lower() in {".parquet", ".pq"}:
        try:
            frame = pl.read_parquet(data)
        except Exception as error:
            msg = f"{path} cannot be read as Parquet: {error}"
            raise OrchError(msg, hint="check that the file is complete") from error
        return _points(frame, range(1, frame.height + 1), (), digest, str(path))
    for start, (what, remedy) in NOT_TABLES.items():
        if data.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(start):
            msg = f"{path} is not a table: it is {what}"
            raise OrchError(msg, hint=remedy)
    text = _text(data)
    if text.lstrip().startswith(("{", "[")):
        return _from_json(text, digest, str(path))
    return _from_csv(text, digest, str(path))


def _text(data: bytes) -> str:
    """Text as spreadsheets save it: UTF-8, UTF-16 by its mark, else Windows' western code page."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _from_json(text: str, digest: str, source: str) -> Points:
    """A JSON list of objects, or an object on every line; a line that is not one is left out."""
    try:
        whole = json.loads(text)
        rows = list(enumerate(whole if isinstance(whole, list) else [whole], 1))
    except ValueError:
        rows = [(number, _object(line)) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    kept = [(number, row) for number, row in rows if isinstance(row, dict)]
    if not kept:
        msg = f"{source} has no row: JSON of points is a list of objects, or an object on every line"
        raise OrchError(msg, hint='{"params": 1e7, "loss": 2.9}')
    dropped = tuple(
        Dropped(row=number, reason="not a JSON object") for number, row in rows if not isinstance(row, dict)
    )
    names = dict.fromkeys(name for _, row in kept for name in row)
    frame = pl.DataFrame(
        {name: pl.Series(name, [row.get(name) for _, row in kept], strict=False) for name in names}
    )
    return _points(frame, [number for number, _ in kept], dropped, digest, source)


def _object(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _from_csv(text: str, digest: str, source: str) -> Points:
    cells = read_cells(text, source)
    columns = [
        pl.Series(name, [cell or None for cell in column], dtype=pl.String)
        for name, column in cells.columns.items()
    ]
    prior: Decimal = "," if cells.separator == ";" else "?"
    frame = pl.DataFrame(columns)
    return _points(frame, cells.lines, tuple(cells.dropped), digest, source, prior=prior)


def _points(
    frame: pl.DataFrame,
    numbers: Sequence[int],
    dropped: tuple[Dropped, ...],
    digest: str,
    source: str,
    *,
    prior: Decimal = "?",
) -> Points:
    """Points with text read as numbers, the rows numbered, and rows that are not points left out."""
    if not frame.width:
        return Points(frame=frame, dropped=dropped, sha256=digest, source=source)
    words = [column for column in frame.get_columns() if column.dtype == pl.String]
    signs = decimals(words, prior=prior)
    frame = frame.with_columns(_typed(column, sign) for column, sign in zip(words, signs, strict=True))
    numbered = frame.with_columns(pl.Series(ROW, list(numbers), dtype=pl.Int64))
    kept, unfinished = _finished(numbered)
    kept, repeats = _distinct(kept)
    notes = (*_commas(words, signs), *_unfinished_runs(kept))
    left_out = (*dropped, *unfinished, *repeats)
    return Points(frame=kept, dropped=left_out, sha256=digest, source=source, notes=notes)


def _commas(columns: Sequence[pl.Series], signs: Sequence[Decimal]) -> list[str]:
    """How commas in numbers are read."""
    names: dict[str, list[str]] = {}
    for column, sign in zip(columns, signs, strict=True):
        numbers = as_floats(column, sign)
        if (column.str.contains(r"\d,\d") & numbers.is_not_null()).any():
            names.setdefault(sign, []).append(column.name)
    meaning = {",": "the decimal sign", ".": "a separator of thousands"}
    return [f"a comma in numbers of {', '.join(names[sign])} is {meaning[sign]}" for sign in names]


def _typed(column: pl.Series, decimal: Decimal) -> pl.Series:
    """Numbers if all filled cells are numbers without a suffix, else text with plainly written numbers."""
    plain = column.cast(pl.Float64, strict=False)
    if decimal == "." and plain.null_count() == column.null_count():
        return plain
    numbers = as_floats(column, decimal)
    suffixed = column.str.contains(r"[kKmMbBgGtT%]\s*$").fill_null(value=False)
    if numbers.null_count() == column.null_count() and not suffixed.any():
        return numbers
    separated = column.str.contains(r"\d[,.' ]\d").fill_null(value=False) & numbers.is_not_null()
    return numbers.cast(pl.String).zip_with(separated, column).alias(column.name)


def _distinct(frame: pl.DataFrame) -> tuple[pl.DataFrame, tuple[Dropped, ...]]:
    """Without exact duplicates of an earlier row, whatever a column that numbers the rows says."""
    compared = [name for name in frame.columns if name != ROW and not INDEX.fullmatch(name)]
    if not compared:
        return frame, ()
    kept = flat(frame.select(*compared, ROW)).unique(subset=compared, keep="first", maintain_order=True)[ROW]
    repeats = sorted(set(frame[ROW].to_list()) - set(kept.to_list()))
    same = tuple(Dropped(row=row, reason="duplicate of an earlier row") for row in repeats)
    return frame.filter(pl.col(ROW).is_in(kept.implode())) if repeats else frame, same


def _finished(frame: pl.DataFrame) -> tuple[pl.DataFrame, tuple[Dropped, ...]]:
    """Without the pruned, failed and running trials of an Optuna study (`study.trials_dataframe()`)."""
    if not {"number", "state", "datetime_start"} <= set(frame.columns) or frame["state"].dtype != pl.String:
        return frame, ()
    complete = frame["state"].str.to_uppercase().str.ends_with("COMPLETE").fill_null(value=False)
    left = frame.filter(~complete).select(ROW, "state").iter_rows()
    dropped = tuple(
        Dropped(row=row, reason=f"the state of the Optuna trial is {state}") for row, state in left
    )
    return frame.filter(complete), dropped


def _unfinished_runs(frame: pl.DataFrame) -> list[str]:
    """What to know about a table of Weights & Biases: runs that crashed have a last value too."""
    if "State" not in frame.columns or frame["State"].dtype != pl.String:
        return []
    states = frame["State"].to_list()
    odd = sorted({state for state in states if state} - {"finished"})
    if "finished" not in states or not odd:
        return []
    return [f"some runs are {', '.join(odd)}: leave them out with --where \"State == 'finished'\""]
