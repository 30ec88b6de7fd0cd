"""`orch fit-laws`, `predict` and `frontier` on tables as people have them: bad rows, bad tables, and published points."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from orch.cli import main
from orch.compute_optimal import budget

N = np.geomspace(1e6, 1e9, 8)
LOSS = 1.8 + 500 / N**0.34
ROWS = [f"{n:.6g},{20 * n:.6g},{y:.6g}" for n, y in zip(N, LOSS, strict=True)]


def changed(row: int, field: int, text: str, rows: list[str] = ROWS) -> list[str]:
    fields = rows[row].split(",")
    fields[field] = text
    return [*rows[:row], ",".join(fields), *rows[row + 1 :]]


def run(folder: Path, rows: list[str], *words: str, head: str = "N,D,loss") -> tuple[int, dict, str]:
    """Exit code, document and text of fitting the rows with a power law above an offset."""
    table = folder / "table.csv"
    table.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    usual = [
        "fit-laws",
        str(table),
        "--law",
        "power_offset",
        "--map",
        "params=N",
        "value=loss",
        "--bootstrap",
        "50",
    ]
    command = [*usual, "--out", str(folder / "laws"), *words]
    told = CliRunner().invoke(main, [*command, "--json"], catch_exceptions=False)
    shown = CliRunner().invoke(main, command, catch_exceptions=False)
    assert told.exit_code == shown.exit_code
    return told.exit_code, json.loads(told.stdout), shown.output


@pytest.mark.parametrize(
    ("rows", "outcome", "said"),
    [
        (ROWS[:3], "too_few_points", "it needs at least 4"),
        ([row.rsplit(",", 1)[0] + ",2.0" for row in ROWS], "constant_value", "loss is 2 in all 8 rows"),
        ([f"1e6,{row.split(',', 1)[1]}" for row in ROWS], "one_scale", "all 8 rows have params = 1e+06"),
        ([ROWS[i % 2] + f"{i}" for i in range(8)], "too_few_points", "only 2 distinct scales"),
        (
            [f"{n / (1e6 if n > 1e8 else 1):g},1,{y:g}" for n, y in zip(N, LOSS, strict=True)],
            "mixed_units",
            "params jumps from 1000 to 1e+06",
        ),
        (
            [f"{n:g},1,{y:g}" for n, y in zip(N, [0.6, 0.65, 0.7, 72, 75, 80, 82, 84], strict=True)],
            "mixed_units",
            "fractions and percentages",
        ),
        ([], "no_data", "no usable row"),
    ],
)
def test_a_table_that_allows_no_law_exits_with_3_and_names_what_is_missing(
    tmp_path: Path, rows: list[str], outcome: str, said: str
):
    code, document, text = run(tmp_path, rows)
    (fit,) = document["fits"]
    assert (code, fit["outcome"], fit["estimates"]) == (3, outcome, {})
    assert said in fit["message"]
    assert said in text


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        (ROWS[:2], "too_few_points"),
        ([row.rsplit(",", 1)[0] + ",2.0" for row in ROWS], "constant_value"),
        ([f"1e6,{row.split(',', 1)[1]}" for row in ROWS], "one_scale"),
        ([], "no_data"),
    ],
)
def test_auto_names_what_is_missing_too(tmp_path: Path, rows: list[str], outcome: str):
    code, document, _ = run(tmp_path, rows, "--law", "auto")
    (fit,) = document["fits"]
    assert (code, fit["outcome"], fit["estimates"]) == (3, outcome, {})


@pytest.mark.parametrize(
    ("rows", "row", "reason"),
    [
        (changed(2, 0, "-3"), 4, "params is not positive"),
        (changed(2, 0, "0"), 4, "params is not positive"),
        (changed(3, 2, "nan"), 5, "loss is not a number"),
        (changed(3, 2, "inf"), 5, "loss is infinite"),
        (changed(3, 2, ""), 5, "loss is missing"),
        (changed(3, 2, "n/a"), 5, "loss is not a number"),
        (changed(3, 2, "-1"), 5, "loss is not positive"),
        ([*ROWS, ROWS[0]], 10, "duplicate of an earlier row"),
        ([*ROWS[:4], "1e9,2e10", *ROWS[4:]], 6, "2 fields where the header has 3"),
        ([*ROWS[:4], '"1e9,2e10,3', *ROWS[4:]], 6, "an open quote"),
    ],
)
def test_a_bad_row_is_skipped_by_number_and_reason_and_the_rest_is_fitted(
    tmp_path: Path, rows: list[str], row: int, reason: str
):
    code, document, text = run(tmp_path, rows)
    (fit,) = document["fits"]
    assert code == 0
    (left_out,) = fit["dropped"]
    assert left_out["row"] == row
    assert reason in left_out["reason"]
    assert f"left out: row {row}: {left_out['reason']}" in text
    assert fit["estimates"]["alpha"] == pytest.approx(0.34, abs=1e-3)  # the truth, from the other rows
    assert fit["n"] == len(rows) - 1


def test_values_that_turn_are_fitted_with_a_warning(tmp_path: Path):
    code, document, text = run(tmp_path, changed(4, 2, "4.5"))
    assert code == 0
    assert "1 of 7 steps go against the trend" in document["fits"][0]["warnings"][0]
    assert "warning: loss is not monotone" in text


def test_decimal_commas_between_semicolons_are_numbers(tmp_path: Path):
    rows = [row.replace(",", ";").replace(".", ",") for row in ROWS]
    _, document, _ = run(tmp_path, rows, head="N;D;loss")
    assert document["fits"][0]["estimates"]["alpha"] == pytest.approx(0.34, abs=1e-3)


def test_level_and_interval_reach_the_fit_and_its_predictions(tmp_path: Path):
    noisy = LOSS * np.exp(0.01 * np.random.default_rng(0).standard_normal(8))
    rows = [f"{n:.6g},1,{y:.6g}" for n, y in zip(N, noisy, strict=True)]
    widths = []
    for level in ("50%", "0.9"):
        _, document, text = run(tmp_path, rows, "--level", level, "--interval", "bca")
        assert f"{float(level.rstrip('%')) / (100 if '%' in level else 1):.0%} interval" in text
        lo, hi = document["fits"][0]["intervals"]["alpha"]
        widths.append(hi - lo)
        shown = CliRunner().invoke(main, ["predict", str(tmp_path / "laws"), "--params", "1e10"])
        assert f"{float(level.rstrip('%')) / (100 if '%' in level else 1):.0%} band" in shown.output
    assert widths[0] < widths[1]
    (written,) = json.loads((tmp_path / "laws" / "laws.json").read_text())["fits"]
    assert (written["options"]["level"], written["interval"]) == (0.9, "bca")


def test_a_metric_that_grows_is_forecast_below_its_ceiling(tmp_path: Path):
    accuracy = 100 - 60 * (N / N[0]) ** -0.2
    rows = [f"{n:.6g},1,{y:.6g}" for n, y in zip(N, accuracy, strict=True)]
    code, document, _ = run(tmp_path, rows, "--law", "auto", "--ceiling", "100")
    assert code == 0
    assert document["fits"][0]["estimates"]["slope"] == pytest.approx(-0.2, abs=1e-4)
    shown = CliRunner().invoke(main, ["predict", str(tmp_path / "laws"), "--params", "1e10", "--json"])
    (told,) = json.loads(shown.stdout)["predictions"]
    assert (told["quantity"], told["predictor"]) == ("loss", "average of forecasts")
    assert told["value"] == pytest.approx(100 - 60 * (1e10 / N[0]) ** -0.2, abs=0.1)
    assert told["lo"] < told["value"] < told["hi"] < 100


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--law", "auto", "--huber-delta", "1e-3"), "delta cannot be set here"),
        (("--law", "auc", "--ceiling", "1"), "takes no ceiling"),
        (("--level", "1"), "level must be between 0 and 1"),
        (("--weights", "wieghts"), "no column 'wieghts'"),
        (("--cluster", "los"), "did you mean 'loss'"),
        (("--map", "parms=D"), "does not use parms"),
        (("--law", "auto", "--ceiling", "nan"), "must be a finite number"),
    ],
)
def test_options_that_contradict_are_mistakes(tmp_path: Path, words: tuple[str, ...], said: str):
    (tmp_path / "table.csv").write_text("\n".join(["N,D,loss", *ROWS]) + "\n", encoding="utf-8")
    usual = ["--law", "power_offset", "--map", "params=N", "value=loss", "--out", str(tmp_path / "laws")]
    done = CliRunner().invoke(main, ["fit-laws", str(tmp_path / "table.csv"), *usual, *words])
    assert done.exit_code == 2
    assert said in done.stderr


def orch(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    return done.exit_code, done.output


def test_what_a_law_reads_is_not_its_value(tmp_path: Path):
    loss = np.linspace(2, 4, 12)
    rows = [f"{x:.6g},{0.85 - 2.2 * np.exp(-0.9 * x):.8g}" for x in loss]
    (tmp_path / "t.csv").write_text("\n".join(["loss,error", *rows]) + "\n")
    usual = [
        "fit-laws",
        str(tmp_path / "t.csv"),
        "--law",
        "gadre_error",
        "--bootstrap",
        "0",
        "--out",
        str(tmp_path / "laws"),
    ]
    code, text = orch(*usual, "--json")
    assert code == 0
    assert json.loads(text)["value"] == "error"
    assert json.loads(text)["fits"][0]["estimates"]["gamma"] == pytest.approx(0.9, rel=1e-4)
    code, text = orch(*usual, "--map", "value=loss")
    assert code == 2
    assert "both the value" in text


def test_a_law_uses_the_mapped_column_even_if_one_has_its_variables_name(tmp_path: Path):
    rows = [f"{n:.8g},{n**2:.8g},{9 * n**-0.2:.8g}" for n in N]
    (tmp_path / "t.csv").write_text("\n".join(["params,C,loss", *rows]) + "\n")
    usual = [
        "fit-laws",
        str(tmp_path / "t.csv"),
        "--bootstrap",
        "0",
        "--out",
        str(tmp_path / "laws"),
        "--json",
    ]
    _, text = orch(*usual, "--map", "compute=C")
    assert json.loads(text)["fits"][0]["estimates"]["slope"] == pytest.approx(-0.1, rel=1e-5)


def test_a_number_may_stand_for_a_column(tmp_path: Path):
    sizes = np.geomspace(1e6, 1e9, 10)
    rows = [f"{n:.8g},{0.88 - 0.78 / (1 + (n / 3e7) ** 0.6):.8g}" for n in sizes]
    (tmp_path / "T.CSV").write_text("\n".join(["params,accuracy", *rows]) + "\n")
    usual = [
        "fit-laws",
        str(tmp_path / "T.CSV"),
        "--law",
        "accuracy",
        "--bootstrap",
        "0",
        "--out",
        str(tmp_path / "laws"),
    ]
    code, text = orch(*usual, "--map", "classes=10", "--json")
    assert code == 0
    assert json.loads(text)["fits"][0]["estimates"]["x_half"] == pytest.approx(3e7, rel=1e-3)


def test_warnings_are_printed_on_separate_lines_and_old_reports_are_removed(tmp_path: Path):
    code, _, text = run(tmp_path, [f"{n:.6g},1,{12 * n**-0.076:.8g}" for n in N])
    assert code == 0
    assert "warning: at_bound: E ended at the bound" in text
    assert (tmp_path / "laws" / "report.html").exists()
    assert run(tmp_path, ROWS[:2])[0] == 3
    assert not (tmp_path / "laws" / "report.html").exists()


def test_a_column_named_twice_is_one_group_and_an_unknown_one_a_mistake(tmp_path: Path):
    twice = ("--group-by", "D", "--group-by", "D")
    assert run(tmp_path, [row.replace(row.split(",")[1], "g") for row in ROWS], *twice)[0] == 0
    code, text = orch("frontier", tmp_path / "table.csv", "params=N", "samples=D", "--group-by", "nope")
    assert code == 2
    assert "no column 'nope'" in text


def test_a_frontier_reads_sizes_as_written_and_counts_skipped_rows(tmp_path: Path):
    rows = [
        f"{n:g}M,{d:g}B,{1.7 + 400 / (n * 1e6) ** 0.34 + 410 / (d * 1e9) ** 0.28:.6g}"
        for n in (10, 100, 1000, 9000)
        for d in (1, 10, 100)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["params,samples,loss", *rows, "foo,1B,3"]) + "\n")
    code, text = orch("frontier", tmp_path / "t.csv", "--flops", "1e25")
    assert code == 0
    assert "left out: 1 rows" in text
    assert "at 1e+25 FLOP: N* " in text
    assert "C^0.452 [0.45" in text  # beta / (alpha + beta) = .28 / .62


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit-laws", "a.csv", "b.csv"], "one study or table at a time, got a.csv and b.csv"),
        (["frontier", "a.csv", "b.csv"], "one study or table at a time"),
        (["frontier", "a.csv", "--gpu-hours", "5"], "--gpu-hours requires --flops-per-gpu-hour"),
        (["frontier", "a.csv", "--flops-per-gpu-hour", "5"], "--flops-per-gpu-hour requires --gpu-hours"),
        (
            ["frontier", "a.csv", "--flops", "1", "--gpu-hours", "5", "--flops-per-gpu-hour", "5"],
            "both give the budget",
        ),
    ],
)
def test_what_would_be_passed_over_is_refused(tmp_path: Path, monkeypatch, words: list[str], said: str):
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("params,loss\n1e6,2\n")
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert said in done.output


def test_gpu_hours_are_a_budget_at_what_an_hour_achieves():
    assert budget(None, 1000, 1e18) == budget(1e21, None, None) == 1e21


def test_a_table_may_have_an_equals_sign_in_its_name(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1e-3.csv").write_text("\n".join(["params,loss", *(f"{n:g},{n**-0.1:g}" for n in N)]))
    done = CliRunner().invoke(main, ["fit-laws", "lr=1e-3.csv", "--bootstrap", "20"])
    assert done.exit_code == 0, done.output


def test_predict_executes_the_law_file_of_a_folder_only_when_trusted(tmp_path: Path):
    law, ran = tmp_path / "mine.py", tmp_path / "ran"
    law.write_text(
        f"open({str(ran)!r}, 'a').close()\n"
        "from orch_analysis.laws.law import Law\n"
        "LAW = Law(name='mine', formula='a * params^-b', params=('a', 'b'), x=('params',), source='me',\n"
        "          bounds={'b': (-2.0, 2.0)}, f=lambda x, p: p['a'] * x['params'] ** -p['b'])\n",
        encoding="utf-8",
    )
    code, _, _ = run(tmp_path, ROWS, "--law", str(law))
    assert code == 0
    assert ran.exists()
    ran.unlink()
    command = ["predict", str(tmp_path / "laws"), "--params", "1e9"]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 2
    assert "--trust" in refused.output
    assert not ran.exists()
    trusted = CliRunner().invoke(main, [*command, "--trust", "--json"])
    assert json.loads(trusted.stdout)["predictions"][0]["value"] > 0
    assert ran.exists()
