"""Figures: what they show is what the numbers say, nothing overlaps, and the bytes repeat."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from orch_analysis.figures import coverage, factor_plots, style, task_plots, training_plots
from orch_analysis.reports.study_findings import mix_rows, study_findings
from orch_analysis.tasks.slopes import slope_table


@pytest.fixture(scope="module")
def found(make_study):
    maker = make_study(noise=0.03, seed=1)
    maker.whole()
    return study_findings(maker.study, bootstrap=50)


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of tick labels, of one axis, whose boxes touch."""
    figure.canvas.draw()
    pairs = []
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            boxes = [
                (label.get_window_extent(), label.get_text())
                for label in axis.get_ticklabels()
                if label.get_text()
            ]
            low, high = sorted(axis.get_view_interval())
            shown = [
                box for box, tick in zip(boxes, axis.get_ticklocs(), strict=False) if low <= tick <= high
            ]
            pairs += [(a[1], b[1]) for a, b in pairwise(shown) if a[0].overlaps(b[0])]
    return pairs


@pytest.mark.parametrize(
    "name", ["loss", "curves", "scores", "gain", "forest", "mixes", "scatter", "correlations", "coverage"]
)
def test_no_tick_labels_overlap(found, name):
    errors = [row for row in found.probes if row.value == "error" and row.axis == "params_encoder"]
    table = slope_table(errors).filter(mix="all").with_columns(group=pl.col("algorithm"))
    drawn = {
        "loss": lambda: training_plots.loss_figure(found.results.pretraining, found.loss),
        "curves": lambda: training_plots.curves_figure(found.curves.filter(pl.col("flops_spent") > 0)),
        "scores": lambda: task_plots.score_figure(found.scored),
        "gain": lambda: task_plots.gain_figure(found.scored),
        "forest": lambda: task_plots.forest_figure({"error": errors, "again": errors}),
        "mixes": lambda: task_plots.mix_figure(mix_rows(found.scored)),
        "scatter": lambda: factor_plots.scatter_figure(
            table, found.grouped, ["classes", "dbi_pixels", "headroom"], value="error"
        ),
        "correlations": lambda: factor_plots.correlation_figure(found.correlations["auc"]),
        "coverage": lambda: coverage.coverage_figure(found.cells),
    }
    with style.theme():
        assert overlapping(drawn[name]()) == []


def test_scores_stand_where_the_records_say(found):
    with style.theme():
        figure = task_plots.score_figure(found.scored)
    panel = next(axes for axes in figure.axes if axes.get_title(loc="left") == "tissue")
    control = found.scored.filter(task="tissue", algorithm="random").sort("params_encoder")
    (line,) = [one for one in panel.get_lines() if one.get_linestyle() == "--" and len(one.get_xdata()) == 4]
    assert list(line.get_ydata()) == pytest.approx(control["auc"].to_list())
    assert list(line.get_xdata()) == pytest.approx(control["params_encoder"].to_list())
    assert any(
        one.get_linestyle() == ":" and one.get_ydata()[0] == pytest.approx(0.88) for one in panel.get_lines()
    )


def test_forest_fills_exactly_the_slopes_that_differ_from_zero(found):
    rows = [row for row in found.probes if row.value == "error" and row.axis == "images"]
    with style.theme():
        (axes,) = task_plots.forest_figure({"images": rows}).axes
    drawn = {
        round(float(dots.get_offsets()[0][0]), 9): tuple(dots.get_facecolor()[0][:3])
        for dots in axes.collections
    }
    assert {slope for slope, face in drawn.items() if face != (1, 1, 1)} == {
        round(row.slope, 9) for row in rows if row.differs
    }
    assert len(drawn) == len(rows)


def test_law_and_band_are_the_fits(found):
    row = next(row for row in found.loss if row.mix == "all" and row.axis == "params_encoder")
    with style.theme():
        _, (axes,) = style.canvas(1, 1, height=2)
        training_plots._law(axes, row, "black")
    x, y = axes.get_lines()[0].get_data()
    assert y[7] == pytest.approx(row.fit.estimates["A"] * x[7] ** row.slope)
    assert (x[0], x[-1]) == pytest.approx(row.fit.ranges["params_encoder"])


def test_a_grid_with_gaps_shows_crosses(found):
    cells = found.cells.with_columns(
        state=pl.when(pl.col("images") == 500).then(pl.lit("missing")).otherwise("state"),
        minutes=pl.when(pl.col("images") == 500).then(None).otherwise("minutes"),
    )
    with style.theme():
        (axes,) = coverage.coverage_figure(cells).axes
    words = [text.get_text() for text in axes.texts]
    assert words.count("× 1") == 8
    assert "54 s" in words


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(0.1, 9)), min_size=1, max_size=30))
def test_envelope_is_what_no_cheaper_point_undercuts(points):
    x, y = np.array(points).T
    ex, ey = training_plots.envelope(x, y)
    brute = {
        (a, b) for a, b in points if not any((c <= a and d < b) or (c < a and d <= b) for c, d in points)
    }
    assert set(zip(ex.tolist(), ey.tolist(), strict=True)) == brute


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=8, unique=True))
def test_ticks_keep_the_ends_and_their_distance(values):
    values = sorted(values)
    kept = style._apart(values, 0.2)
    span = np.log(values[-1] / values[0])
    assert (kept[0], kept[-1]) == (values[0], values[-1])
    assert all(np.log(b / a) >= 0.2 * span - 1e-9 for a, b in pairwise(kept))


def test_files_repeat_byte_for_byte_and_inline_svg_is_clean(found, tmp_path):
    pictures = []
    for folder in ("a", "b"):
        with style.theme():
            figure = task_plots.gain_figure(found.scored)
            pictures.append(
                style.save(figure, tmp_path / folder, "gain", title="t", caption="c", alt='a "b" <c>')
            )
    for kind in ("svg", "png", "pdf"):
        assert (tmp_path / "a" / f"gain.{kind}").read_bytes() == (
            tmp_path / "b" / f"gain.{kind}"
        ).read_bytes()
    svg = pictures[0].svg
    assert svg == pictures[1].svg
    assert "http" not in svg
    assert "xmlns" not in svg
    root = ET.fromstring(svg)
    assert root.get("aria-label") == 'a "b" <c>'
    ids = {node.get("id") for node in root.iter() if node.get("id")}
    assert all(name.startswith("gain-") for name in ids)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    assert used <= ids


def test_theme_leaves_matplotlib_as_it_was():
    before = dict(mpl.rcParams)
    with style.theme():
        assert mpl.rcParams["svg.fonttype"] == "none"
    assert dict(mpl.rcParams) == before
