"""Numbers as people write them in text: thousands, decimal commas, suffixes of sizes, percent.

`1.234,5` and `1,234.5` are the same number under two conventions, and `1,234` has two readings. A table has
one convention: the cells with a single reading settle it, and a cell that stays ambiguous is not a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import polars as pl

Decimal = Literal[".", ",", "?"]
"""The decimal sign of a column; `?` if cells such as `1,234` have two readings that nothing settles."""

LARGEST = 1.79e308  # databases store infinity as the largest float, 1.797...e308
SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12, "%": 1e-2}
_SPACES = "[ '\u2019_\u00a0\u2009\u202f]"  # between groups of three digits
_GROUPED = rf"^(\d{{1,3}})({_SPACES}\d{{3}})+([.,]\d*)?$"
_THOUSANDS = {".": r"^\d{1,3}(,\d{2,3})*,\d{3}(\.\d*)?$", ",": r"^\d{1,3}(\.\d{3})+(,\d*)?$"}
_ALWAYS_DECIMAL = (
    r"^(\d*S\d{1,2}|\d*S\d{4,}|0+S\d+|\d{4,}S\d*|\d+S)$"  # S, a separator that cannot group thousands
)
_GROUPS = {
    ".": r"^\d{1,3}(,\d{2,3})+,\d{3}$|^\d{1,3}(,\d{2,3})*,\d{3}\.",
    ",": r"^\d{1,3}(\.\d{3}){2,}$|^\d{1,3}(\.\d{3})+,",
}
_AMBIGUOUS = r"^[1-9]\d{0,2}[.,]\d{3}$"


def is_ambiguous(cell: str) -> bool:
    """Whether a cell such as `1,234` has two readings."""
    return bool(_mantissa(pl.Series([cell])).str.contains(_AMBIGUOUS)[0])


def decimals(columns: Sequence[pl.Series], *, prior: Decimal = "?") -> list[Decimal]:
    """The decimal sign of each column of text of one table; `prior` is what the kind of file suggests.

    A column's cells with one reading settle it, else those of the other columns. Columns whose cells are
    mostly words have no say.
    """
    votes = [_votes(column) for column in columns]
    all_votes = set().union(*votes)
    agreed: Decimal = all_votes.pop() if len(all_votes) == 1 else "?"
    if agreed == "?" and not all_votes:
        commas = any(_count(column, _AMBIGUOUS, ",") for column in columns)
        agreed = prior if commas else "."
    return [_decimal(column, own, agreed, prior) for column, own in zip(columns, votes, strict=True)]


def _decimal(column: pl.Series, own: set[Decimal], agreed: Decimal, prior: Decimal) -> Decimal:
    if own:
        return next(iter(own)) if len(own) == 1 else "?"
    if agreed == "," != prior and _count(column, _AMBIGUOUS, "."):
        return "?"  # `1.234` beside another column's `0,5`: thousands only where the file's kind says so too
    return agreed


def as_floats(text: pl.Series, decimal: Decimal | None = None) -> pl.Series:
    """Text as Float64, null where a cell is not a number.

    Without `decimal` the column itself settles its convention. Reads `1,300,000`, `1 300 000`, `1.3M`, `70b`
    (k, M, B or G, T: powers of a thousand), `51.2%` as .512, `="12"`.
    """
    text = _unwrapped(text)
    decimal = decimal or decimals([text])[0]
    body = text.str.replace(r"\s*[kKmMbBgGtT%]$", "")
    suffix = text.str.extract(r"\d[.,]?\s*([kKmMbBgGtT%])$", 1).str.to_lowercase()
    body = body.zip_with(suffix.is_not_null(), text)
    sign = body.str.extract(r"^([+-])", 1).replace_strict({"-": -1.0}, default=1.0, return_dtype=pl.Float64)
    mantissa = _mantissa(text)
    numbers = body.cast(pl.Float64, strict=False)
    if decimal == "?":
        numbers = _where(numbers, mantissa.str.contains(_AMBIGUOUS), None)
    else:
        plain = mantissa.str.replace_all(_SPACES, "")
        plain = plain.zip_with(_true(mantissa.str.contains(_GROUPED)), mantissa)
        thousands = "," if decimal == "." else "."
        short = plain.str.replace_all(thousands, "", literal=True)
        plain = short.zip_with(_true(plain.str.contains(_THOUSANDS[decimal])), plain)
        plain = plain.str.replace(",", ".", literal=True) if decimal == "," else plain
        exponent = body.str.extract(r"([eE][+-]?\d+)$", 1).fill_null("")
        read = (plain + exponent).cast(pl.Float64, strict=False) * sign
        numbers = read.zip_with(read.is_not_null(), numbers)
    return numbers * suffix.replace_strict(SUFFIXES, return_dtype=pl.Float64).fill_null(1.0)


def _unwrapped(text: pl.Series) -> pl.Series:
    """Without blanks at the ends, spreadsheets' `="..."`, and the typographic minus."""
    return text.str.strip_chars().str.replace(r'^="(.*)"$', "$1").str.replace("^\u2212", "-")


def _mantissa(text: pl.Series) -> pl.Series:
    """What stands between sign and exponent or suffix; null if it is not made of digits and separators."""
    digits = r"^[+-]?(\d[\d.,'\u2019_ \u00a0\u2009\u202f]*|[.,]\d+)(?:[eE][+-]?\d+)?\s*[kKmMbBgGtT%]?$"
    return _unwrapped(text).str.extract(digits, 1).str.strip_chars()


def _votes(column: pl.Series) -> set[Decimal]:
    mantissa = _mantissa(column)
    filled = column.len() - column.null_count()
    if 2 * (mantissa.len() - mantissa.null_count()) < filled:
        return set()
    signs: tuple[Decimal, Decimal] = (".", ",")
    return {
        sign
        for sign in signs
        if mantissa.str.contains(_ALWAYS_DECIMAL.replace("S", f"[{sign}]")).any()
        or mantissa.str.contains(_GROUPS[sign]).any()
    }


def _count(column: pl.Series, pattern: str, sign: str) -> int:
    mantissa = _mantissa(column)
    return int((mantissa.str.contains(pattern) & mantissa.str.contains(sign, literal=True)).sum())


def _true(mask: pl.Series) -> pl.Series:
    return mask.fill_null(value=False)


def _where(numbers: pl.Series, mask: pl.Series, value: float | None) -> pl.Series:
    return (
        pl.Series([value], dtype=pl.Float64)
        .extend_constant(value, numbers.len() - 1)
        .zip_with(_true(mask), numbers)
        if numbers.len()
        else numbers
    )
