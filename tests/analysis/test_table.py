"""Reading points: what is left out is named by line and reason, and nothing else is touched."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orch_analysis.fitting.fit import FitOptions, fit
from orch_analysis.tables.points_file import load_points
from orch_core.errors import OrchError

GOOD = "N,D,loss,data\n1e6,1e8,3.2,imagenet\n1e7,1e9,2.9,imagenet\n1e8,1e10,2.6,imagenet\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_clean_file_is_read_whole(tmp_path: Path) -> None:
    points = load_points(write(tmp_path / "p.csv", GOOD))
    assert points.frame["N"].to_list() == [1e6, 1e7, 1e8]
    assert points.frame["data"].to_list() == ["imagenet"] * 3
    assert points.dropped == ()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1e9,1e11", "2 fields where the header has 4"),
        ("1e9,1e11,2.2,a,b", "5 fields"),
        ('1e9,1e11,2.2,"open', "broken line"),
        ("1e8,1e10,2.6,imagenet", "duplicate"),
    ],
)
def test_a_broken_line_costs_that_line_and_no_other(tmp_path: Path, line: str, reason: str) -> None:
    head, last = GOOD.rsplit("1e8,1e10", 1)
    text = GOOD + line + "\n" if reason == "duplicate" else f"{head}{line}\n1e8,1e10{last}"
    points = load_points(write(tmp_path / "p.csv", text))
    assert points.frame["N"].to_list() == [1e6, 1e7, 1e8]
    assert len(points.dropped) == 1
    assert reason in points.dropped[0].reason
    assert text.splitlines()[points.dropped[0].row - 1] == line


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_files_are_read_as_programs_save_them(tmp_path: Path, encoding: str) -> None:
    text = "# Größe gegen Verlust\n\nN|Verlust (μ)\n1e6|3.2\n# 1e7|2.9\n1e8|2.6\n".replace("μ", "µ")
    (tmp_path / "p.txt").write_bytes(text.encode(encoding))
    points = load_points(tmp_path / "p.txt")
    assert points.frame["N"].to_list() == [1e6, 1e8]
    assert [(item.row, item.reason) for item in points.dropped] == [(5, "a comment")]


def test_lists_are_no_values() -> None:
    frame = pl.DataFrame({"params": [1e6, 1e7, 1e8], "loss": [3.0, 2.0, 1.5], "all": [[3.0], [2.0], [1.5]]})
    for wrong in (
        {"value": "all"},
        {"value": "loss", "cluster": "all"},
        {"value": "loss", "x": {"params": "all"}},
    ):
        with pytest.raises(OrchError, match=r"'all' holds List"):
            fit("power", frame, FitOptions(**wrong))


def test_a_wide_table_names_a_few_of_its_columns() -> None:
    with pytest.raises(OrchError, match=r"c19, \.\.\. \(1000 in all\)\n"):
        fit("power", pl.DataFrame({f"c{i}": [1.0] for i in range(1000)}), FitOptions(x={"params": "N"}))


@given(
    st.lists(st.tuples(st.floats(1, 1e12), st.floats(1e-3, 1e3)), min_size=1, max_size=20, unique=True),
    st.sampled_from([",", ";", "\t"]),
)
def test_numbers_survive_the_way_through_a_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, float]], separator: str
) -> None:
    out = io.StringIO()
    csv.writer(out, delimiter=separator).writerows([("N", "loss"), *rows])
    path = write(tmp_path_factory.mktemp("t") / "p.csv", "\ufeff" + out.getvalue())
    frame = load_points(path).frame
    assert list(zip(frame["N"], frame["loss"], strict=True)) == rows


def test_parquet_and_frames_are_the_same_points(tmp_path: Path) -> None:
    frame = pl.DataFrame({"N": [1e6, 1e7, 1e7], "loss": [3.0, 2.5, 2.5]})
    frame.write_parquet(tmp_path / "p.parquet")
    from_file = load_points(tmp_path / "p.parquet")
    from_frame = load_points(frame, name="study")
    assert from_file.frame.equals(from_frame.frame)
    assert [item.row for item in from_frame.dropped] == [3]
    assert from_frame.source == "study"
    assert len(from_file.sha256) == len(from_frame.sha256) == 64


def test_a_fit_names_the_line_of_the_file(tmp_path: Path) -> None:
    lines = ["N,loss", *(f"{10**k},{3 * (10**k) ** -0.1}" for k in range(3, 10)), "-5,1", "x,2", "1e12,nan"]
    points = load_points(write(tmp_path / "p.csv", "\n".join(lines)))
    found = fit("power", points.frame, FitOptions(value="loss", x={"params": "N"}))
    assert found.estimates["slope"] == pytest.approx(-0.1)
    assert {item.row: item.reason for item in found.dropped} == {
        9: "params is not positive",
        10: "params is not a number",
        11: "loss is not a number",
    }


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [("p.csv", "", "empty"), ("p.csv", "N,N\n1,2\n", "twice"), ("p.parquet", "no parquet", "cannot be read")],
)
def test_files_that_are_no_tables(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(OrchError, match=says):
        load_points(write(tmp_path / name, text))


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(OrchError, match="no such file"):
        load_points(tmp_path / "missing.csv")
    with pytest.raises(OrchError, match="did you mean 'loss'"):
        fit("power", load_points(write(tmp_path / "p.csv", GOOD)), FitOptions(value="los", x={"params": "N"}))


def test_sizes_are_read_as_people_write_them(tmp_path: Path) -> None:
    lines = [
        "N,loss",
        '"1,000",1',
        "10k,.8",
        '"100,000",.64',
        "1M,.512",
        "0.01B,.4096",
        "1e8,.32768",
        "1 G,x",
    ]
    points = load_points(write(tmp_path / "p.csv", "\n".join(lines)))
    found = fit("power", points.frame, FitOptions(value="loss", x={"params": "N"}))
    assert found.estimates["slope"] == pytest.approx(math.log10(0.8))
    assert [(item.row, item.reason) for item in found.dropped] == [(8, "loss is not a number")]
