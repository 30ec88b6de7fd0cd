"""The mirror in MLflow, read back through MLflow's client and plain SQL."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mirrored import client, content, runs_of

from orch.tracking import track
from orch.tracking.run_metrics import thin
from orch_core.errors import OrchError
from orch_core.study.folder import Study, create_study


def test_a_cell_is_one_run_with_all_its_numbers(study: Study, write: SimpleNamespace) -> None:
    summary = track.sync(study)
    assert (summary.added, summary.updated, summary.unchanged, summary.unreadable) == (3, 0, 0, ())
    cell = write.a_cell(1)
    run = runs_of(study)[cell.id]
    record = study.record(cell.id)
    assert run.info.run_name == "mae-w64-all-1000-s0"
    assert run.info.status == "FINISHED"
    assert (run.info.start_time, run.info.end_time) == (
        record.cost["started"] * 1000,
        record.cost["ended"] * 1000,
    )
    params = run.data.params
    for key, value in {"width": 64, "depth": 4, "patch": 4, "images": 1000, "batch": 64, "seed": 0}.items():
        assert float(params[key]) == value
    assert params["algorithm"] == "mae"
    assert params["recipe"] == "mae@1"
    assert params["hp.lr"] == "0.001"
    assert float(params["params_encoder"]) == record.values["params_encoder"]
    for key, value in record.values.items():
        assert run.data.metrics[key] == value
    for probe in (record for record in study.records() if record.task and record.cell == cell.id):
        for key in ("auc", "auc_lo", "auc_hi", "accuracy"):
            assert run.data.metrics[f"{key}/{probe.task}"] == probe.values[key]
    assert len([key for key in run.data.metrics if key.startswith("auc/")]) == 4
    inputs = {entry.dataset.name: entry for entry in run.inputs.dataset_inputs}
    assert set(inputs) == {"tissue-1000", "breast", "pneumonia", "blood", "tissue"}
    assert inputs["tissue-1000"].dataset.digest == "ab" * 16
    artifacts = study.root / "mlruns" / run.info.run_id / "artifacts"
    folder = study.cell_folder(cell.id)
    for name in ("cell.json", "record.json", "attempts/0/log.txt"):
        assert (artifacts / name).read_bytes() == (folder / name).read_bytes()


def test_a_failed_cell_is_a_failed_run_with_its_reason(study: Study, write: SimpleNamespace) -> None:
    track.sync(study)
    run = runs_of(study)[write.a_cell(2).id]
    assert run.info.status == "FAILED"
    assert run.data.metrics == {}
    assert run.data.tags["orch.cause"] == "out_of_memory"
    note = run.data.tags["mlflow.note.content"]
    assert "needs 3.1 GB, 2.0 GB are free" in note
    assert "RuntimeError: allocation of 3 GB failed" in note  # the end of the log


def test_no_metric_is_infinite(study: Study, write: SimpleNamespace) -> None:
    folder = study.cell_folder(write.a_cell(0).id)
    with (folder / "metrics.ndjson").open("a") as file:
        file.write('{"step": 501, "loss": NaN}\n{"step": 502, "loss": Infinity}\n{"step": 503, "lo')
    track.sync(study)
    with contextlib.closing(sqlite3.connect(study.root / "mlflow.db")) as database:
        rows = database.execute("select value, is_nan from metrics").fetchall()
    assert rows
    assert all(abs(value) < 1e300 and not nan for value, nan in rows)


def test_again_changes_nothing(study: Study) -> None:
    track.sync(study)
    before = content(study)
    summary = track.sync(study)
    assert (summary.added, summary.updated, summary.unchanged) == (0, 0, 3)
    assert content(study) == before


def test_what_is_new_is_added_and_the_rest_is_left(study: Study, write: SimpleNamespace) -> None:
    track.sync(study)
    before = {cell: run.info.run_id for cell, run in runs_of(study).items()}
    write.cell(study, 5)
    summary = track.sync(study)
    assert (summary.added, summary.updated, summary.unchanged) == (1, 0, 3)
    after = {cell: run.info.run_id for cell, run in runs_of(study).items()}
    assert before.items() <= after.items()


def test_a_late_probe_completes_the_same_run(study: Study, write: SimpleNamespace) -> None:
    cell = write.a_cell(0)
    folder = next(study.cell_folder(cell.id).glob("probes/tissue-*"))
    later = folder.rename(study.root / "later")
    failed = write.fail_probe(study, cell, "tissue")
    track.sync(study)
    run = runs_of(study)[cell.id]
    assert "auc/tissue" not in run.data.metrics
    assert run.info.status == "FAILED"
    assert run.data.tags["orch.failed_probes"] == "tissue"
    assert "a class is missing" in run.data.tags["mlflow.note.content"]
    shutil.rmtree(failed.parents[1])
    later.rename(folder)
    summary = track.sync(study)
    assert (summary.added, summary.updated, summary.unchanged) == (0, 1, 2)
    again = runs_of(study)[cell.id]
    assert again.info.run_id == run.info.run_id
    assert again.info.status == "FINISHED"
    assert again.data.metrics["auc/tissue"] == 0.75
    assert "orch.failed_probes" not in again.data.tags
    assert "mlflow.note.content" not in again.data.tags


def test_a_cell_that_failed_and_then_succeeded_is_one_finished_run(
    study: Study, write: SimpleNamespace
) -> None:
    track.sync(study)
    cell = write.a_cell(2)
    shutil.rmtree(study.cell_folder(cell.id))
    write.cell(study, 2)
    summary = track.sync(study)
    assert (summary.added, summary.updated, summary.unchanged) == (0, 1, 2)
    run = runs_of(study)[cell.id]
    assert run.info.status == "FINISHED"
    assert "orch.cause" not in run.data.tags
    assert len(run.data.metrics) > 20


def test_two_probes_of_one_task_have_two_names(study: Study, write: SimpleNamespace) -> None:
    track.sync(study)
    cell = write.a_cell(0)
    folder = next(study.cell_folder(cell.id).glob("probes/tissue-*"))
    document = json.loads((folder / "record.json").read_text())
    second = folder.with_name("tissue-00000000")
    second.mkdir()
    document = document | {"probe": "0" * 32, "values": {"auc": 0.5}}
    (second / "record.json").write_text(json.dumps(document))
    track.sync(study)
    metrics = runs_of(study)[cell.id].data.metrics
    assert metrics["auc/tissue-00000000"] == 0.5
    assert metrics[f"auc/{folder.name}"] == 0.75
    assert "auc/tissue" not in metrics


def test_the_report_is_a_run_and_a_new_one_takes_its_place(study: Study) -> None:
    (study.root / "report" / "figures").mkdir(parents=True)
    (study.root / "report" / "report.html").write_text("<p>one</p>")
    (study.root / "report" / "figures" / "loss.svg").write_text("<svg/>")
    track.sync(study)
    first = runs_of(study)["report"]
    assert first.data.tags["orch.kind"] == "analysis"
    (study.root / "report" / "report.html").write_text("<p>two</p>")
    track.sync(study)
    second = runs_of(study)["report"]
    artifacts = study.root / "mlruns" / second.info.run_id / "artifacts"
    assert (artifacts / "report.html").read_text() == "<p>two</p>"
    assert (artifacts / "figures" / "loss.svg").exists()


def test_the_experiment_describes_the_study(study: Study) -> None:
    (study.root / "grid.yaml").write_text(
        "# Larger encoders lower the loss.\n# Cost: 5 minutes\nname: demo\n"
    )
    track.sync(study)
    tags = client(track.local_uri(study)).get_experiment_by_name("demo").tags
    text = tags["mlflow.note.content"]
    assert text.startswith("Larger encoders lower the loss.\nCost: 5 minutes")
    assert "2 cells done, 1 failed" in text
    assert "| mae | w32 | all | 1000 | 1 |  |" in text
    view = json.loads(tags["mlflow.sharedViewState.orch-scaling"])
    assert "metrics.`auc/tissue`" in json.loads(view["state"])["selectedColumns"]


def test_an_experiment_deleted_in_the_ui_comes_back(study: Study) -> None:
    track.sync(study)
    api = client(track.local_uri(study))
    api.delete_experiment(api.get_experiment_by_name("demo").experiment_id)
    track.sync(study)
    assert api.get_experiment_by_name("demo").lifecycle_stage == "active"
    assert len(runs_of(study)) == 3


def test_a_run_deleted_in_the_ui_comes_back(study: Study, write: SimpleNamespace) -> None:
    track.sync(study)
    api = client(track.local_uri(study))
    api.delete_run(runs_of(study)[write.a_cell(0).id].info.run_id)
    assert track.sync(study).added == 1
    assert len(runs_of(study)) == 3


def test_points_are_those_of_the_records(study: Study) -> None:
    track.sync(study)
    frame = track.read_points(track.local_uri(study), "demo")
    expected = {(record.cell, record.task): record.values for record in study.records() if record.task}
    assert frame.height == len(expected) == 8
    for row in frame.iter_rows(named=True):
        values = expected[row["cell"], row["task"]]
        for key in ("auc", "auc_lo", "auc_hi", "accuracy"):
            assert row[key] == values[key]
        run = study.record(row["cell"])
        assert row["params_encoder"] == run.values["params_encoder"]
        assert row["flops_train"] == run.values["flops_train"]
        assert row["algorithm"] == "mae"
        assert row["images"] == 1000.0


def test_points_of_an_experiment_that_orch_did_not_make(study: Study) -> None:
    api = client(track.local_uri(study))
    experiment = api.create_experiment("foreign")
    for size, loss in ((1e6, 3.0), (1e7, 2.5)):
        run = api.create_run(experiment)
        api.log_param(run.info.run_id, "size", size)
        api.log_param(run.info.run_id, "family", "vit")
        api.log_metric(run.info.run_id, "loss", loss)
        api.set_terminated(run.info.run_id)
    api.create_run(experiment)  # still running
    frame = track.read_points(track.local_uri(study), "foreign").sort("size")
    assert frame["size"].to_list() == [1e6, 1e7]
    assert frame["loss"].to_list() == [3.0, 2.5]
    assert frame["family"].to_list() == ["vit", "vit"]


def test_points_that_are_not_there_are_named(study: Study, tmp_path: Path) -> None:
    with pytest.raises(OrchError, match="no MLflow database"):
        track.read_points(f"sqlite:///{tmp_path}/absent.db", "demo")
    assert not (tmp_path / "absent.db").exists()
    with pytest.raises(OrchError, match="no experiment 'other'"):
        track.read_points(track.local_uri(study), "other")


@given(st.sets(st.integers(0, 10_000)), st.integers(2, 50))
def test_thinned_curves_keep_their_ends_and_only_real_steps(steps: set[int], limit: int) -> None:
    kept = list(thin(sorted(steps), limit))
    assert len(kept) == min(limit, len(steps))
    assert kept == sorted(set(kept) & steps)
    assert not steps or (kept[0], kept[-1]) == (min(steps), max(steps))


def test_curves_are_thinned_and_end_in_the_final_value(study: Study, write: SimpleNamespace) -> None:
    track.sync(study)
    cell = write.a_cell(0)
    api = client(track.local_uri(study))
    history = api.get_metric_history(runs_of(study)[cell.id].info.run_id, "curve/loss")
    assert len(history) == 100
    assert {point.step for point in history} >= {1, 500}
    assert all(math.isclose(point.value, 1 + 1 / point.step) for point in history)
    heldout = api.get_metric_history(runs_of(study)[cell.id].info.run_id, "heldout_loss")
    assert [point.step for point in heldout] == list(
        range(50, 501, 50)
    )  # the final value is the curve's last


def test_of_steps_trained_twice_the_last_counts(study: Study, write: SimpleNamespace) -> None:
    cell = write.a_cell(0)
    (study.cell_folder(cell.id) / "metrics.ndjson").write_text(
        '{"step": 1, "loss": 5.0}\n{"step": 2, "loss": 4.0}\n{"step": 3, "lo\n{"step": 2, "loss": 3.5}\n'
    )
    track.sync(study)
    run = runs_of(study)[cell.id].info.run_id
    history = client(track.local_uri(study)).get_metric_history(run, "curve/loss")
    assert [(point.step, point.value) for point in history] == [(1, 5.0), (2, 3.5)]


def test_a_study_of_nothing_makes_an_empty_experiment(tmp_path: Path, empty_database: Path) -> None:
    study = create_study(tmp_path / "study", "demo")
    shutil.copy(empty_database, study.root / "mlflow.db")
    assert track.sync(study).added == 0
    assert runs_of(study) == {}
