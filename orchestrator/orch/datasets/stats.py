"""`orch data stats`: what is in a pack folder or an npz, as text, JSON and one page with thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orch.console import say
from orch_core.errors import OrchError
from orch_core.files import write_atomic
from orch_core.formatting import quantity
from orch_core.packs.census import Census, census, thumbnails
from orch_core.packs.facts import problems
from orch_core.packs.layout import is_pack_folder

NAMED = 5
HEADINGS = ("source", "modality", "split", "images", "colour", "sides", "bytes")


def verify(path: Path) -> None:
    """Read every pack and compare it with its hash; raises OrchError that names all that differ."""
    if not is_pack_folder(path):
        message = f"{path} is no pack folder"
        raise OrchError(message, hint="--verify is for what `orch data pack` wrote")
    found = list(problems(path, lambda done, total: say(f"packs read: {done:,} of {total:,}")))
    if found:
        hint = "copy these again from where they came, or pack the folder again"
        raise OrchError("\n".join(found), hint=hint)


def stats(path: Path, page: Path) -> Census:
    """Count, and write the page with thumbnails; raises OrchError for what is neither packs nor npz."""
    found = census(path)
    write_atomic(page, _page(path, found))
    return found


def rows(found: Census) -> list[Sequence[str]]:
    """The counts under HEADINGS."""
    return [
        (
            one.source,
            one.modality,
            one.split,
            f"{one.images:,}",
            f"{one.colour:,}",
            f"{one.smallest} to {one.largest}, median {one.median}",
            quantity(one.bytes, "B"),
        )
        for one in found.counts
    ]


def findings(found: Census) -> list[str]:
    """What a careful reader would want to know, a sentence each."""
    train = sum(one.images for one in found.counts if one.split == "train")
    said = [f"{found.pretraining:,} of {train:,} training images are for pretraining"]
    if found.repeated:
        said.append(
            f"{found.repeated:,} images repeat another byte for byte; {found.across:,} of these sets are in "
            f"more than one split, {found.conflicting:,} have labels that differ"
        )
    if found.alike:
        said.append(
            f"{found.alike:,} more look like another (same difference hash): near duplicates, perhaps"
        )
    if found.torn_groups:
        said.append(f"{found.torn_groups:,} groups have images in more than one split")
    said += [f"{count:,} images left out: {reason}" for reason, count in found.left_out.items()]
    return said


def text(found: Census) -> str:
    """The census for people."""
    table = [HEADINGS, *rows(found)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    lines += ["", *findings(found)]
    lines += [f"  equal: {', '.join(names)}" for names in found.named[:NAMED]]
    return "\n".join(lines)


def _page(path: Path, found: Census) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html").render(
        path=path.name,
        headings=HEADINGS,
        rows=rows(found),
        findings=findings(found),
        named=found.named,
        thumbnails=thumbnails(path),
    )
