"""Tables of a report: as files (CSV, Parquet, LaTeX) and as text for the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

FORMATS = ("csv", "parquet", "tex")
MISSING = "–"
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
    """A table for the page. `words` says which columns hold text (left-aligned); `files` are its data on disk.

    strong: indices of rows to print in bold; folded: shown only when the reader opens it; trailing: the last column is
    text as well.
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
    frame.write_csv(folder / f"{name}.csv")
    frame.write_parquet(folder / f"{name}.parquet")
    (folder / f"{name}.tex").write_text(latex(frame), encoding="utf-8")
    return tuple(f"{folder.name}/{name}.{kind}" for kind in FORMATS)


def latex(frame: pl.DataFrame) -> str:
    r"""The frame as a booktabs tabular, numbers to four significant digits."""
    align = "".join("r" if kind.is_numeric() else "l" for kind in frame.dtypes)
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", _line(frame.columns), r"\midrule"]
    lines += [_line([_plain(value) for value in row]) for row in frame.iter_rows()]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """`value` with `digits` decimals and a real minus sign; a dash where there is none."""
    if value is None or value != value:  # NaN
        return MISSING
    return f"{value:+.{digits}f}".replace("-", "−") if signed else f"{value:.{digits}f}".replace("-", "−")


def interval(
    value: float | None, lo: float | None, hi: float | None, digits: int = 3, *, signed: bool = False
) -> str:
    """`value [lo, hi]`; the value alone where it has no interval."""
    if value is None or lo is None or hi is None:
        return number(value, digits, signed=signed)
    ends = ", ".join(number(end, digits, signed=signed) for end in (lo, hi))
    return f"{number(value, digits, signed=signed)} [{ends}]"


def significant(value: float | None) -> str:
    """Three significant digits, thousands grouped."""
    if value is None or value != value:  # NaN
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}".replace("-", "−")


def count(value: float) -> str:
    """A count for a tick: 950, 12k, 3.1M, 21M, 2G; powers of ten beyond."""
    if value >= 1e12:
        return power(value)
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit * 0.9995:
            scaled = value / unit
            whole = scaled >= 99.5 or abs(scaled - round(scaled)) < 0.005
            return f"{scaled:.0f}{name}" if whole else f"{scaled:.2g}{name}"
    return f"{value:.3g}"


def power(value: float) -> str:
    """A number as a multiple of a power of ten, with real superscripts: 10¹², 3·10⁹."""
    exponent = math.floor(math.log10(value) + 1e-9)
    mantissa = value / 10**exponent
    raised = "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return raised if abs(mantissa - 1) < 0.05 else f"{mantissa:.2g}·{raised}"


def p_value(value: float | None) -> str:
    """A p value to three decimals, `< .001` below."""
    if value is None:
        return MISSING
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def plural(count: int, word: str, words: str | None = None) -> str:
    """`1 task`, `4 tasks`."""
    return f"{count} {word if count == 1 else words or word + 's'}"


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else list(items))


def _line(values: Sequence[str]) -> str:
    return " & ".join("".join(ESCAPES.get(letter, letter) for letter in value) for value in values) + r" \\"


def _plain(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
