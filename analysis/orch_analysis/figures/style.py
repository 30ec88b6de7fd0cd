"""The style of every figure: theme, colours, axes for sizes, and reproducible files."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeAlias

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from orch_analysis.figures import Picture
from orch_core.formatting import count, power
from orch_core.recipes import recipe_of_algorithm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

Arguments = ParamSpec("Arguments")
LineStyle: TypeAlias = Literal["-", "--", ":", ""]

WIDTH = 7.4  # inches: the width of a report's text column
DPI = 160
INK, GREY, PALE = "#1a1a1a", "#767676", "#d9d9d9"
SPARE = ("#5e3c99", "#8c5a2b", "#7f0000", "#808000", "#0b2545", "#ece133")  # not of any recipe
FORMATS = ("svg", "png", "pdf")
RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "orch",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "axes.titleweight": "normal",  # one font to embed in every PDF
    "axes.titlelocation": "left",
    "axes.linewidth": 0.7,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.4,
    "grid.color": "#ececec",
    "grid.linewidth": 0.6,
}


@contextmanager
def theme() -> Iterator[None]:
    """Seaborn's ticks style with this project's sizes; restores matplotlib's settings afterwards."""
    with mpl.rc_context():
        sns.set_theme(context="paper", style="ticks", palette="colorblind", rc=RC)
        yield


def themed(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Make a drawing function use `theme`, independently of its caller's settings of matplotlib."""

    @wraps(draw)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with theme():
            return draw(*args, **kwargs)

    return wrapped


def canvas(
    rows: int, columns: int, *, height: float, width: float = WIDTH, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` x `columns` axes, `height` inches a row, without pyplot's global state."""
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    return figure, list(axes.ravel())


def save(figure: Figure, folder: Path, name: str, *, title: str, caption: str, alt: str) -> Picture:
    """Write `folder/name.{svg,png,pdf}` with the same bytes on every run; return the picture for the page."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO()
    with theme(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # labels may be in any script
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        figure.set_layout_engine(None)  # another layout would draw everything once more per format
        figure.savefig(folder / f"{name}.png", dpi=DPI, metadata={"Software": None})
        figure.savefig(
            folder / f"{name}.pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None}
        )
    svg = buffer.getvalue()
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    files = tuple(f"{folder.name}/{name}.{kind}" for kind in FORMATS)
    return Picture(name=name, title=title, caption=caption, alt=alt, svg=inline(svg, name, alt), files=files)


def inline(svg: str, name: str, alt: str) -> str:
    """An SVG for an HTML page: without prolog, metadata and namespace URLs, in the page's font.

    Only ids that are referred to remain, with `name` as prefix so that they differ between figures.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", body)
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', body))
    body = re.sub(
        r'\sid="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", body
    )
    body = re.sub(r'(url\(|href=")#', rf"\1#{name}-", body)
    body = re.sub(r"(font(?:-family)?:[^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1var(--sans)", body)
    width = float(re.search(r'\bwidth="([\d.]+)pt"', body)[1])  # type: ignore[index]
    body = re.sub(r'\s(width|height)="[\d.]+pt"', "", body, count=2)
    share = min(1.0, width / (72 * WIDTH))
    start = f'<svg role="img" aria-label="{_escape(alt)}" style="max-width: {56 * share:.1f}rem"'
    return body.replace("<svg", start, 1).strip()


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def colour(algorithm: str) -> str:
    """The colour of an algorithm's recipe; an unknown algorithm gets a colour that is not of any recipe."""
    recipe = recipe_of_algorithm(algorithm)
    return recipe.colour if recipe else nth(sum(map(ord, algorithm)))


def nth(index: int) -> str:
    """The `index`-th colour for series that are not known algorithms."""
    return SPARE[index % len(SPARE)]


def shades(algorithm: str, count: int) -> list[str]:
    """`count` colours from light to dark in the algorithm's hue, for sizes in order."""
    palette = sns.light_palette(colour(algorithm), n_colors=count + 3)
    return [mpl.colors.to_hex(one) for one in palette[3:]]


def size_axis(axes: Axes, values: Iterable[float], *, gap: float = 0.2, powers: bool = False) -> None:
    """A logarithmic x axis of counts, with ticks at the values if they fit, else at powers of ten.

    gap: smallest distance of two ticks as a share of the span; powers: ticks only at powers of ten, as for
         FLOPs.
    """
    axes.set_xscale("log")
    distinct = sorted({float(value) for value in values})
    if 1 <= len(distinct) <= 8 and not powers:
        axes.xaxis.set_major_locator(FixedLocator(_apart(distinct, gap)))
    else:
        axes.xaxis.set_major_locator(LogLocator(base=10, numticks=5))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power(value) if powers else count(value)))


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """The ends, and values at least `gap` of the span in logs from the last value kept and from the end."""
    logs = [math.log(value) for value in values]
    near = gap * (logs[-1] - logs[0])
    kept = [0]
    for index in range(1, len(values) - 1):
        if logs[index] - logs[kept[-1]] >= near and logs[-1] - logs[index] >= near:
            kept.append(index)
    return [values[index] for index in dict.fromkeys([*kept, len(values) - 1])]


def plain_log_axis(axes: Axes, *, ticks: int = 4) -> None:
    """A logarithmic y axis over less than a decade, with ticks at plain round numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(MaxNLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def end_labels(axes: Axes, ends: Sequence[tuple[float, float, str]], *, inches: float) -> None:
    """Name lines at their right ends (x, y, text), moved apart if they would overlap.

    inches: approximate height of the panel, for the distance of two lines of text. The y limits must be
            final; the x
    axis is widened to contain the text.
    """
    if not ends:
        return
    transform = axes.transData + axes.transAxes.inverted()
    step = 7.5 / (72 * inches)
    placed: list[float] = []
    for x, y, text in sorted(ends, key=lambda end: end[1]):
        height = float(transform.transform((x, y))[1])
        height = max(height, placed[-1] + step) if placed else height
        placed.append(height)
        axes.annotate(
            text, (x, y), xytext=(float(transform.transform((x, y))[0]) + 0.03, height),
            textcoords="axes fraction", fontsize=6.5, color=INK, va="center", annotation_clip=False,
        )  # fmt: skip


def limits(axes: Axes, values: Sequence[float], *, margin: float = 0.08, right: float = 0.0) -> None:
    """Limits of x with a margin in logs around positive values; `right`: a share of the span for labels."""
    low, high = math.log(min(values)), math.log(max(values))
    pad = margin * (high - low) or 0.5
    axes.set_xlim(math.exp(low - pad), math.exp(high + pad + right * (high - low)))


def key(label: str, colour: str, marker: str = "o", linestyle: LineStyle = "-") -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], color=colour, marker=marker, linestyle=linestyle, markersize=4, label=label)


def legend(figure: Figure, keys: Sequence[Line2D]) -> None:
    """A legend above the panels, at most 12 entries in four columns."""
    if keys:
        figure.legend(handles=keys[:12], loc="outside upper center", ncols=min(4, len(keys)))


def hide(axes: Sequence[Axes]) -> None:
    """Hide the unused axes of a grid."""
    for one in axes:
        one.set_axis_off()


def nothing(axes: Axes, words: str) -> None:
    """An empty panel with the reason why it is empty."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=7)


def finish(axes: Sequence[Axes]) -> None:
    """Remove the upper and right frame and draw a pale grid behind the data."""
    for one in axes:
        sns.despine(ax=one)
        one.grid(visible=True)
        one.set_axisbelow(True)
