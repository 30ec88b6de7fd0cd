"""The figures of reports, drawn with seaborn and matplotlib from tables and slopes.

Only the modules of this package import these two libraries; the package itself does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure

PANELS = 24  # panels in one figure
SERIES = 12  # colours in one figure
ROWS = 60  # tasks in one forest


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A drawn figure: `svg` for the page, its files on disk, and its text.

    caption: describes the figure, with n and the meaning of bars and bands; alt: for readers who cannot see
             it.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    files: tuple[str, ...]
