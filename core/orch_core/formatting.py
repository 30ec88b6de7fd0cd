"""Numbers and lists as text, the same in every message, table and figure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

MISSING = "–"
SECRETS = r"[\w-]*(?:password|passwd|pwd|token|secret|signature|credential|api_?key|access_?key)[\w-]*"
PREFIXES = (("Z", 1e21), ("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """`value` with `digits` decimals and a real minus sign; a dash for None."""
    if value is None or value != value:  # NaN
        return MISSING
    return f"{value:+.{digits}f}".replace("-", "−") if signed else f"{value:.{digits}f}".replace("-", "−")


def interval(
    value: float | None, lo: float | None, hi: float | None, digits: int = 3, *, signed: bool = False
) -> str:
    """`value [lo, hi]`; the value alone if it has no interval."""
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


def quantity(value: float, unit: str = "") -> str:
    """A number with a unit prefix and at most three significant figures: `18.9 T`, `131 M`."""
    for prefix, size in PREFIXES if abs(value) < 1e24 else ():
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def percent(share: float) -> str:
    """A share as `95%` or `99.9%`."""
    return f"{100 * share:.10g}%"


def duration(hours: float) -> str:
    """Hours in the unit that suits them: `12 s`, `4.5 min`, `3.2 h`, `1,200 h`."""
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    if hours < 1:
        return f"{hours * 60:.1f} min"
    return f"{hours:,.1f} h" if hours < 100 else f"{hours:,.0f} h"


def columns(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Align rows as text: the first `left` columns to the left, the others to the right."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def without_credentials(text: str) -> str:
    """`text` with the user names, passwords and tokens in its URIs replaced by `***`."""
    text = re.sub(r"(\b[\w+.-]+://)[^/\s'\"]*@", r"\1***@", text)
    return re.sub(rf"([?&;](?:{SECRETS})=)[^&;\s'\"]+", r"\1***", text, flags=re.IGNORECASE)
