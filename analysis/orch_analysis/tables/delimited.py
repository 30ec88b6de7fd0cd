"""Text of a CSV file to columns of text: records by RFC 4180, the header wherever it is, lines left out."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from orch_analysis.fitting.points import Dropped
from orch_core.errors import OrchError

SEPARATORS = (",", ";", "\t", "|")
BLANKS = " "  # separates fields by any run of blanks
_NUMBER = re.compile(r"[+-]?[\d.,']*\d[\d.,']*([eE][+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A line of the file, or lines joined by a quoted line break; `fields` is empty if a quote stays open."""

    line: int
    text: str
    fields: tuple[str, ...]

    @property
    def comment(self) -> bool:
        """Whether it starts with #."""
        return self.text.lstrip().startswith("#")


@dataclass(slots=True)
class Cells:
    """Columns of text by name, the line of every row, what was left out, and the separator of the fields."""

    separator: str
    columns: dict[str, list[str]] = field(default_factory=dict)
    lines: list[int] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)


def read_cells(text: str, source: str) -> Cells:
    """The cells of a table with a header line, separated by comma, semicolon, tab, bar or blanks.

    A broken line (an open quote, a lost field) costs that line and no other. Raises OrchError for a file
    without a header line, or with two columns of one name.
    """
    lines = re.split(r"\r\n|\n|\r", text)
    separator, header, titles = _header(lines, source)
    names = [" ".join(name.split()) for name in header.fields]
    cells = Cells(separator=separator, dropped=list(titles))
    rows = list(_rows(lines, header, separator, len(names), cells))
    width = max((len(row.fields) for row in rows), default=len(names))
    named = [i for i in range(min(width, len(names))) if names[i] or any(row.fields[i] for row in rows)]
    twice = sorted({names[i] for i in named if [names[j] for j in named].count(names[i]) > 1})
    if twice:
        msg = f"{source}: column {', '.join(map(repr, twice))} is there twice"
        raise OrchError(msg, hint="rename one of them in the header line")
    cells.columns = {names[i] or f"Unnamed: {i}": [row.fields[i] for row in rows] for i in named}
    cells.lines = [row.line for row in rows]
    return cells


def _header(lines: Sequence[str], source: str) -> tuple[str, Record, list[Dropped]]:
    """The separator, the header line, and the lines above it that are titles."""
    given = re.fullmatch(r"sep=(.)", lines[0].strip()) if lines else None  # as Excel writes it
    first = list(_lines(lines, int(bool(given))))
    plain = [at for at in first if not lines[at].lstrip().startswith("#")]
    if not plain:
        msg = f"{source} is empty"
        raise OrchError(msg, hint="the first line names the columns, every other line is a point")
    titles: list[Dropped] = []
    while True:
        separator = given.group(1) if given else _separator(lines, plain)
        if given or not _is_title(lines, plain, separator):
            break
        titles.append(Dropped(row=plain.pop(0) + 1, reason="a title above the header"))
    header = _record(lines, plain[0], separator)
    commented = _commented_header(lines, first, plain[0], separator, header)
    if commented:
        return separator, commented, titles
    if all(_is_number(name) for name in header.fields if name):
        msg = f"{source} has no header line: it starts with {header.text[:60]!r}"
        raise OrchError(msg, hint="name the columns in a first line, such as params,samples,loss")
    return separator, header, titles


def _lines(lines: Sequence[str], start: int) -> Iterator[int]:
    return (at for at in range(start, len(lines)) if lines[at].strip())


def _separator(lines: Sequence[str], plain: Sequence[int]) -> str:
    """The most frequent separator of the header; blanks if it has none and as many words as the next line."""
    best = max(SEPARATORS, key=lines[plain[0]].count)
    if best in lines[plain[0]]:
        return best
    words = [len(lines[at].split()) for at in plain[:2]]
    return BLANKS if len(words) == 2 and words[0] == words[1] > 1 else best


def _is_title(lines: Sequence[str], plain: Sequence[int], separator: str) -> bool:
    """Whether the lines below agree on more fields than this one has, and none of them has as many as it."""
    if len(plain) < 4 or separator == BLANKS:
        return False
    own = _record(lines, plain[0], separator)
    below = [at for at in plain if at >= own.line - 1 + own.text.count("\n") + 1][:20]
    if not own.fields or len(below) < 3:
        return False
    inner = max(SEPARATORS, key=lines[below[0]].count)
    widths = Counter(_width(_fields(lines[at], inner)) for at in below)
    width, times = widths.most_common(1)[0]
    alike = {_width(_fields(lines[at], separator)) for at in below}
    return width > _width(own.fields) not in alike and 2 * times > len(below)


def _commented_header(
    lines: Sequence[str], first: Sequence[int], at: int, separator: str, below: Record
) -> Record | None:
    """The line above the first record if it names the columns behind a #, as numpy.savetxt writes it."""
    above = [line for line in first if line < at]
    if not above or not lines[above[-1]].lstrip().startswith("#"):
        return None
    text = lines[above[-1]].lstrip().removeprefix("#")
    names = [name.strip() for name in _fields(text, separator)]
    numbers = any(map(_is_number, below.fields)) and not any(map(_is_number, names))
    if len(names) != len(below.fields) or not numbers:
        return None
    return Record(line=above[-1] + 1, text=text, fields=tuple(names))


def _is_number(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell.strip()))


def _record(lines: Sequence[str], at: int, separator: str) -> Record:
    """The record that begins at a line: several lines if a quoted field has line breaks."""
    text, last = lines[at], at
    if separator != BLANKS and text.count('"') % 2:
        for last in range(at + 1, len(lines)):
            text = f"{text}\n{lines[last]}"
            if lines[last].count('"') % 2:
                break
    fields = tuple(cell.strip() for cell in _fields(text, separator))
    if not fields and last > at:
        text = lines[at]
    return Record(line=at + 1, text=text, fields=fields)


def _fields(text: str, separator: str) -> list[str]:
    if separator == BLANKS:
        return text.split()
    try:
        return next(csv.reader([text], delimiter=separator, strict=True, skipinitialspace=True))
    except (csv.Error, StopIteration):
        return []


def _width(fields: Sequence[str]) -> int:
    """The number of fields up to the last that is not empty: programs fill lines with separators."""
    return max((at for at, cell in enumerate(fields, start=1) if cell.strip()), default=0)


def _rows(lines: Sequence[str], header: Record, separator: str, width: int, cells: Cells) -> Iterator[Record]:
    """The records below the header that have its number of fields; the others go to `cells.dropped`."""
    found: list[Record] = []
    at = header.line + header.text.count("\n")
    while at < len(lines):
        record = _record(lines, at, separator)
        if record.fields and len(record.fields) != width and "\n" in record.text:
            record = Record(line=at + 1, text=lines[at], fields=())
        at += 1 + record.text.count("\n")
        if record.text.strip():
            found.append(_trimmed(record, width))
    comments = _comments(found, width)
    for record in found:
        reason = "a comment" if record.line in comments else _fault(record, header, width)
        if reason:
            cells.dropped.append(Dropped(row=record.line, reason=reason))
        else:
            yield record


def _trimmed(record: Record, width: int) -> Record:
    """Without empty fields beyond the last column."""
    fields = record.fields
    if len(fields) > width and not any(fields[width:]):
        fields = fields[:width]
    return Record(line=record.line, text=record.text, fields=fields)


def _comments(records: Sequence[Record], width: int) -> set[int]:
    """Lines of comments: they start with #, and are not `#0,...` in a complete column of words."""
    plain = [record.fields[0] for record in records if len(record.fields) == width and not record.comment]
    numeric = bool(plain) and all(map(_is_number, plain))
    return {
        record.line
        for record in records
        if record.comment and (numeric or len(record.fields) != width or not re.match(r"\s*#\S", record.text))
    }


def _fault(record: Record, header: Record, width: int) -> str:
    if record.fields == header.fields:
        return "the header again"
    if len(record.fields) == width:
        return ""
    cause = f"{len(record.fields)} fields where the header has {width}" if record.fields else "an open quote"
    return f"broken line: {cause}"
