"""One self-contained HTML page from text, figures and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from orch_analysis.figures import Picture
from orch_analysis.saved import laws_json
from orch_analysis.tables.export import Table
from orch_core.errors import OrchError
from orch_core.files import published_folder

ENTRIES = frozenset({"report.html", "figures", "tables", laws_json.FILE, laws_json.DRAWS, laws_json.CARDS})
"""What a report's folder contains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer at the top of a page: a one-sentence claim, its numbers, and the verdict as its colour."""

    verdict: Literal["yes", "no", "unclear", "aside"]
    claim: str
    numbers: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Paragraphs, or a list where `items` is set; `code` is printed as it is, folded under `title`."""

    paragraphs: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    code: str = ""
    title: str = ""


Block: TypeAlias = Text | Picture | Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with an anchor and its content in order."""

    id: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A whole report."""

    title: str
    kicker: str
    lead: str
    facts: Sequence[tuple[str, str]]
    answers: Sequence[Answer]
    sections: Sequence[Section]


def render(page: Page) -> str:
    """The page as one HTML file without external URLs; everything except the drawn SVG is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    kinds = {Text: "text", Picture: "picture", Table: "table"}
    template = environment.get_template("page.html")
    return template.render(page=page, shown=_shown, kind=lambda block: kinds[type(block)], markup=Markup)


def _shown(block: Block) -> bool:
    """False for a table without rows."""
    return not isinstance(block, Table) or bool(block.rows)


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A new folder for a report, which replaces the report in `folder` at once when all of it is written.

    Inside, a file that cannot be written raises OrchError with its remedy, and the report in `folder` stays.
    """
    try:
        with published_folder(folder, ENTRIES, last=laws_json.FILE) as written:
            yield written
    except OSError as error:
        message = f"cannot write the report into {folder}: {error.strerror or error}"
        raise OrchError(message, hint="free disk space, or choose a writable folder with --out") from error
