"""One self-contained HTML page from words, pictures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from orch_analysis.figures import Picture
from orch_analysis.tables.export import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A sentence of the first screen: the claim in a few words, then its numbers; verdict colours its edge."""

    verdict: str  # yes, no, unclear or aside
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
    """A heading with an anchor and what stands under it, in order."""

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
    """The page as HTML: styles and pictures inside, no external URL, everything escaped but the drawn SVG."""
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
    """False for a table without rows: what is not there is said in words, not by an empty frame."""
    return not isinstance(block, Table) or bool(block.rows)
