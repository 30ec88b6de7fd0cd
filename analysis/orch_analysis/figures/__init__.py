"""The door to seaborn and matplotlib: every figure of a report, drawn from tables and slopes.

The package itself imports neither; its modules do.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A drawn figure: `svg` for the page, files on disk, and its words.

    caption: what is drawn, with n and the meaning of bars and bands; alt: the same for who cannot see it.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    files: tuple[str, ...]
