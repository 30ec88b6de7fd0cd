"""Reading points: what is left out is named by line and reason, and nothing else is touched."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orch_analysis.fitting.fit import FitOptions, fit
from orch_analysis.fitting.used_rows.variables import as_numbers
from orch_analysis.tables import export
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


LOSSES = (2.806, 2.506, 2.324)
SIZES = (12500.0, 31000.0, 1250000.0)


@pytest.mark.parametrize(
    ("head", "sizes", "losses"),
    [
        ("params;loss", ("12500", "31000", "1250000"), ("2,806", "2,506", "2,324")),
        ("params;loss", ("12.500", "31.000", "1.250.000"), ("2,806", "2,506", "2,324")),
        ("params;loss", ("12,500", "31,000", "1,250,000"), ("2.806", "2.506", "2.324")),
        ("params\tloss", ("12500", "31000", "1250000"), ("2,8060", "2,506", "2,324")),
        ("params|loss", ("12 500", "31 000", "1 250 000"), ("2.806", "2.506", "2.324")),
        ("params|loss", ("12'500", "31'000", "1'250'000"), ("2,8060", "2,506", "2,324")),
        ("params|loss", ("12.5k", "31K", "1.25m"), ("2.806", "2.506", "2.324")),
        ("params|loss", ("12_500", "31\u202f000", '="1250000"'), ("280.6%", "250.6 %", "232.4%")),
    ],
)  # fmt: skip
def test_a_file_has_one_convention_for_numbers(
    tmp_path: Path, head: str, sizes: tuple[str, ...], losses: tuple[str, ...]
) -> None:
    separator = head[6]
    rows = [separator.join(pair) for pair in zip(sizes, losses, strict=True)]
    points = load_points(write(tmp_path / "p.csv", "\n".join([head, *rows])))
    assert as_numbers(points.frame, "params").tolist() == list(SIZES)
    assert as_numbers(points.frame, "loss") == pytest.approx(LOSSES)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("params\tloss\n12500\t2,806\n31000\t2,506\n64000\t2,324\n", "'2,806' can be read in two ways"),
        ('params,loss\n"12,500",2\n"31,000",3\n"64,000",4\n', "'12,500' can be read in two ways"),
        ("params,loss\n1e6,2.8061 nats\n1e7,2.5 nats\n1e8,2.3 nats\n", "'2.8061 nats'"),
        ("params,loss\n10^6,3\n10^7,2\n10^8,1\n", "'10^6'"),
    ],
)
def test_a_cell_that_is_not_read_is_shown(tmp_path: Path, text: str, cell: str) -> None:
    found = fit("power", load_points(write(tmp_path / "p.csv", text)))
    assert (found.n, found.estimates) == (0, {})
    assert cell in found.message
    assert all(cell in item.reason for item in found.dropped)


BODY = "12500,250000,2.8\n31000,620000,2.5\n64000,1280000,2.3\n125000,2500000,2.2\n"


@pytest.mark.parametrize(
    "text",
    [
        "params,samples,loss,,\n" + BODY.replace("\n", ",,\n"),
        "params,samples,loss\n" + BODY.replace("\n", ",,\n"),
        "# a comment\n# params,samples,loss\n" + BODY,
        "# params samples loss\n" + BODY.replace(",", " "),
        "params samples  loss\n" + BODY.replace(",", "   "),
        "sep=;\nparams;samples;loss\n" + BODY.replace(",", ";"),
        "Results of the sweep\n\nparams,samples,loss\n" + BODY,
        "Results, of May\nby: me\nparams,samples,loss\n" + BODY,
        "params,samples,loss\n" + BODY + "params,samples,loss\n" + BODY,
        "params,samples,loss\r" + BODY.replace("\n", "\r"),
    ],
)
def test_a_header_is_found_wherever_programs_put_it(tmp_path: Path, text: str) -> None:
    frame = load_points(write(tmp_path / "p.csv", text)).frame
    assert frame.drop("_row").to_dict(as_series=False) == {
        "params": [12500, 31000, 64000, 125000],
        "samples": [250000, 620000, 1280000, 2500000],
        "loss": [2.8, 2.5, 2.3, 2.2],
    }


def test_a_file_without_a_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OrchError, match=r"has no header line: it starts with '12500,250000,2.8'"):
        load_points(write(tmp_path / "p.csv", BODY))


def test_quoted_line_breaks_are_part_of_a_field(tmp_path: Path) -> None:
    text = 'name,note,"loss\n(nats)"\nr0,"first try,\nsecond ""line""\n\nlast",2.8\nr1,\u2028x,2.5\n'
    points = load_points(write(tmp_path / "p.csv", text))
    assert points.frame["loss (nats)"].to_list() == [2.8, 2.5]
    assert points.frame["note"][0] == 'first try,\nsecond "line"\n\nlast'
    assert points.frame["_row"].to_list() == [3, 7]
    assert points.dropped == ()


def test_repeats_are_found_beside_an_index_and_ids_are_not_comments(tmp_path: Path) -> None:
    rows = [f"{1000 * size},{3 / size}" for size in (1, 2, 3)]
    text = "\n".join([",params,loss", *(f"{number},{row}" for number, row in enumerate([*rows, *rows]))])
    points = load_points(write(tmp_path / "p.csv", text))
    assert [(item.row, item.reason) for item in points.dropped] == [
        (row, "duplicate of an earlier row") for row in (5, 6, 7)
    ]
    ids = "\n".join(["run,params,loss", *(f"#{number},{row}" for number, row in enumerate(rows))])
    assert load_points(write(tmp_path / "p.csv", ids)).frame["run"].to_list() == ["#0", "#1", "#2"]


def test_json_lines_gzip_and_pandas_give_the_points_of_csv(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = [{"params": 1e6, "loss": 3.0}, {"params": 1e7, "loss": 2.5}, {"params": 1e8, "loss": float("nan")}]
    lines = "\n".join(map(json.dumps, rows))
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(b"params,loss\n1e6,3\n1e7,2.5\n1e8,nan\n"))
    given = [
        load_points(tmp_path / "p.csv.gz"),
        load_points(write(tmp_path / "p.jsonl", f"{lines}\n")),
        load_points(write(tmp_path / "p.json", json.dumps(rows))),
        load_points(pandas.DataFrame(rows)),
    ]
    for points in given:
        found = fit("power", points)
        assert (found.n, found.x_data["params"]) == (2, (1e6, 1e7))
    broken = load_points(write(tmp_path / "p.jsonl", f'{lines}\n{{"params": 1e9'))
    assert [(item.row, item.reason) for item in broken.dropped] == [(4, "not a JSON object")]


def test_columns_that_no_law_reads_may_hold_anything(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "params": [1e6, 1e7, 1e8, 1e8],
            "loss": [3.0, 2.5, 2.1, 2.1],
            "tags": [["a"], ["b", "c"], [], []],
            "config": [{"lr": 0.1}, {"lr": 0.2}, None, None],
            "took": [timedelta(seconds=seconds) for seconds in (1, 2, 3, 3)],
            "raw": [b"1", b"2", b"3", b"3"],
        }
    )
    frame.write_parquet(tmp_path / "p.parquet")
    for source in (frame, tmp_path / "p.parquet"):
        points = load_points(source)
        assert [item.row for item in points.dropped] == [4]
        assert fit("power", points).n == 3
    export.save(frame, tmp_path / "tables", "points")
    assert pl.read_csv(tmp_path / "tables" / "points.csv")["tags"].to_list()[1] == "['b', 'c']"


def test_the_largest_float_is_infinity(tmp_path: Path) -> None:
    text = "params,loss\n1e6,3\n1e7,2.5\n1e8,2.1\n1e9,1.797e308\n1e10,-1.7976931348623157e308\n"
    found = fit("power", load_points(write(tmp_path / "p.csv", text)))
    assert [(item.row, item.reason) for item in found.dropped] == [
        (5, "loss is infinite"),
        (6, "loss is infinite"),
    ]


def test_only_complete_trials_of_optuna_are_points(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study()
    study.add_trials(
        optuna.trial.create_trial(state=optuna.trial.TrialState[state], value=value, user_attrs={"params": size})
        for state, value, size in (("COMPLETE", 3.0, 1e6), ("PRUNED", 9.0, 1e7), ("COMPLETE", 2.5, 1e8))
    )  # fmt: skip
    study.trials_dataframe().to_csv(tmp_path / "trials.csv")
    points = load_points(tmp_path / "trials.csv")
    assert points.frame["value"].to_list() == [3.0, 2.5]
    assert [item.reason for item in points.dropped] == ["the state of the Optuna trial is PRUNED"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"PK\x03\x04...", "a spreadsheet"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        (b"\x1f\x8b\x08broken", "cannot be decompressed"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "p.csv").write_bytes(data)
    with pytest.raises(OrchError, match=says):
        load_points(tmp_path / "p.csv")


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
        10: "params is not a number: 'x'",
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
    assert [(item.row, item.reason) for item in found.dropped] == [(8, "loss is not a number: 'x'")]
