"""The mirror in MLflow, read back through MLflow's client, its REST server and plain SQL."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orch.tracking import mirror, track
from orch_core.errors import OrchError
from orch_core.study import Study, create_study

Make = Callable[..., Study]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's schema, migrated once for all tests."""
    path = tmp_path_factory.mktemp("schema") / "mlflow.db"
    track._quiet()
    track._build_database(path)
    return path


@pytest.fixture
def study(recorded: Make, empty_database: Path) -> Study:
    """Two finished cells and a failed one, and an empty MLflow database."""
    made = recorded(2, 1)
    shutil.copy(empty_database, made.root / "mlflow.db")
    return made


def client(uri: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs_of(study: Study, uri: str | None = None) -> dict:
    """Active runs by cell."""
    api = client(uri or track.local_uri(study))
    experiment = api.get_experiment_by_name("demo")
    runs = list(api.search_runs([experiment.experiment_id], max_results=1000))
    found = {run.data.tags["orch.cell"]: run for run in runs}
    assert len(found) == len(runs), "a cell has two runs"
    return found


def content(study: Study) -> dict[str, object]:
    """What the database says of active runs, ids and hashes of ids left out, to compare two databases."""
    queries = {
        "runs": "select t.value, r.name, r.status, r.start_time, r.end_time from runs r {tag}",
        "params": "select t.value, p.key, p.value from params p join runs r using (run_uuid) {tag}",
        "metrics": "select t.value, m.key, m.value, m.timestamp, m.step from metrics m join runs r using (run_uuid) {tag}",
        "latest": "select t.value, m.key, m.value from latest_metrics m join runs r using (run_uuid) {tag}",
        "tags": "select t.value, g.key, g.value from tags g join runs r using (run_uuid) {tag}",
        "inputs": "select t.value, d.name, d.digest from inputs i join runs r on i.destination_id = r.run_uuid"
        " join datasets d on d.dataset_uuid = i.source_id {tag}",
    }
    tag = "join tags t on t.run_uuid = r.run_uuid and t.key = 'orch.cell' where r.lifecycle_stage = 'active'"
    with contextlib.closing(sqlite3.connect(study.root / "mlflow.db")) as database:
        found = {key: sorted(database.execute(query.format(tag=tag))) for key, query in queries.items()}
    files = {}
    for run in runs_of(study).values():
        root = study.root / "mlruns" / run.info.run_id / "artifacts"
        for path in sorted(root.rglob("*")):
            if path.is_file():
                files[run.data.tags["orch.cell"], path.relative_to(root).as_posix()] = path.read_bytes()
    return found | {"files": files}


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
    assert run.info.status == "FINISHED"
    assert run.data.tags["orch.failed_probes"] == "tissue"
    assert "a class is missing" in run.data.tags["mlflow.note.content"]
    shutil.rmtree(failed.parents[1])
    later.rename(folder)
    summary = track.sync(study)
    assert (summary.added, summary.updated, summary.unchanged) == (0, 1, 2)
    again = runs_of(study)[cell.id]
    assert again.info.run_id == run.info.run_id
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


class Cut(Exception):
    pass


def test_a_sync_cut_at_any_call_is_completed_by_the_next(
    recorded: Make, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    study = recorded(1, 1)
    names = ("create_run", "log_batch", "log_inputs", "update_run_info", "set_tag", "create_experiment")
    originals = {name: getattr(SqlAlchemyStore, name) for name in names}
    calls = Counter()

    def cutting(limit: int, after: bool) -> None:
        calls.clear()
        for name, original in originals.items():

            def call(self, *args, original=original, **kwargs):
                calls["n"] += 1
                if calls["n"] == limit and not after:
                    raise Cut
                result = original(self, *args, **kwargs)
                if calls["n"] == limit:
                    raise Cut
                return result

            monkeypatch.setattr(SqlAlchemyStore, name, call)

    shutil.copy(empty_database, study.root / "mlflow.db")
    cutting(10**9, after=False)
    track.sync(study)
    total, whole = calls["n"], content(study)
    assert total > 10
    for limit in range(1, total + 1):
        for place in ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm", "mlruns"):
            path = study.root / place
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        moved = Study(
            study.root.rename(study.root.with_name(f"study{limit}"))
        )  # a fresh path: MLflow caches engines
        study = moved
        shutil.copy(empty_database, study.root / "mlflow.db")
        cutting(limit, after=bool(limit % 2))
        with pytest.raises(Cut):
            track.sync(study)
        cutting(10**9, after=False)
        track.sync(study)
        assert content(study) == whole


KILLED = """
import os, sys
from pathlib import Path
from mlflow.store.db import utils
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from orch.tracking import track
from orch_core.study import Study

def killing(owner, name, limit, calls=[]):
    original = getattr(owner, name)
    def call(*args, **kwargs):
        calls.append(name)
        if len(calls) == limit:
            os.kill(os.getpid(), 9)
        return original(*args, **kwargs)
    setattr(owner, name, call)

owner = utils if sys.argv[2] == "_upgrade_db" else SqlAlchemyStore
killing(owner, sys.argv[2], int(sys.argv[3]))
track.sync(Study(Path(sys.argv[1])))
"""


def test_killed_in_the_schema_and_in_a_run_it_ends_exact(recorded: Make, empty_database: Path) -> None:
    study = recorded(4, 1)
    for name, limit in (("_upgrade_db", 1), ("update_run_info", 3)):
        command = [sys.executable, "-c", KILLED, str(study.root), name, str(limit)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with contextlib.closing(sqlite3.connect(study.root / "mlflow.db")) as database:
        assert database.execute("select count(*) from runs where status = 'RUNNING'").fetchone() == (1,)
    track.sync(study)
    assert not list(study.root.glob(".mlflow.*/")), "what the kill left behind is cleared"
    killed = content(study)
    for place in study.root.glob("mlflow.db*"):
        place.unlink()
    clean = Study(study.root.rename(study.root.with_name("clean")))
    shutil.copy(empty_database, clean.root / "mlflow.db")
    track.sync(clean)
    assert killed == content(clean)


def test_two_at_once_write_each_run_once(study: Study) -> None:
    """Both are told the truth: one waits for the other, then finds nothing to do."""
    done, errors = [], []

    def run() -> None:
        try:
            done.append(track.sync(study))
        except OrchError as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(summary.added for summary in done) == [0, 3]
    assert len(runs_of(study)) == 3


def test_another_sync_that_does_not_end_is_named(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track, "LOCK_SECONDS", 0.1)
    with (
        filelock.FileLock(study.root / ".mlflow.lock"),
        pytest.raises(OrchError, match="another `orch sync`"),
    ):
        track.sync(study)


def test_a_locked_database_is_named(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track, "LOCK_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(study.root / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OrchError, match="locked") as caught:
            track.sync(study)
    assert "close it" in caught.value.hint


def test_a_schema_of_another_version_has_its_remedy(study: Study) -> None:
    with contextlib.closing(sqlite3.connect(study.root / "mlflow.db")) as database:
        database.execute("update alembic_version set version_num = '451aebb31d03'")  # of MLflow 1.0
        database.commit()
    with pytest.raises(OrchError, match="451aebb31d03") as caught:
        track.sync(study)
    assert "delete mlflow.db" in caught.value.hint


def test_a_file_that_is_no_database_has_its_remedy(study: Study) -> None:
    for place in study.root.glob("mlflow.db*"):
        place.unlink()
    (study.root / "mlflow.db").write_text("hello " * 1000)
    with pytest.raises(OrchError, match="not a database") as caught:
        track.sync(study)
    assert "delete mlflow.db" in caught.value.hint


def test_a_record_that_cannot_be_read_is_named_and_the_others_are_written(
    study: Study, write: SimpleNamespace
) -> None:
    bad = study.cell_folder(write.a_cell(0).id) / "record.json"
    bad.write_text(bad.read_text()[:50])
    summary = track.sync(study)
    assert summary.added == 2
    assert len(summary.unreadable) == 1
    assert write.a_cell(0).id in summary.unreadable[0]
    assert write.a_cell(0).id in str(summary)


def test_the_schema_is_made_whole_with_wal_and_leaves_no_litter(
    recorded: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    study = recorded(1)
    track.sync(study)
    assert list(work.iterdir()) == []
    assert not [path for path in study.root.iterdir() if path.name.startswith(".mlflow.") and path.is_dir()]
    with contextlib.closing(sqlite3.connect(study.root / "mlflow.db")) as database:
        assert database.execute("pragma journal_mode").fetchone() == ("wal",)
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)


def test_a_network_disk_is_recognised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert track.network_filesystem(tmp_path) is None
    mounts = (
        f"/dev/sda1 / ext4 rw 0 0\nserver:/home {tmp_path} nfs4 rw 0 0\n/dev/sdb {tmp_path}/fast xfs rw 0 0\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_kwargs: mounts)
    assert track.network_filesystem(tmp_path / "study" / "mlflow.db") == "nfs4"
    assert track.network_filesystem(tmp_path / "fast" / "study") is None
    assert track.network_filesystem(Path("/usr")) is None


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
    thin = list(mirror.thin(sorted(steps), limit))
    assert len(thin) == min(limit, len(steps))
    assert thin == sorted(set(thin) & steps)
    assert not steps or (thin[0], thin[-1]) == (min(steps), max(steps))


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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real tracking server with its own database and artifact store."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "-w",
        "1",
    ]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | quiet, start_new_session=True, cwd=folder
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()
                break
            time.sleep(0.2)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_a_tracking_server_gets_the_same_runs_once(
    server: str, recorded: Make, write: SimpleNamespace
) -> None:
    study = recorded(2, 1)
    assert track.sync(study, server).added == 3
    assert track.sync(study, server).unchanged == 3
    assert not (study.root / "mlflow.db").exists()
    runs = runs_of(study, server)
    assert Counter(run.info.status for run in runs.values()) == {"FINISHED": 2, "FAILED": 1}
    cell = write.a_cell(1)
    run = runs[cell.id]
    assert run.data.metrics["auc/tissue"] == 0.76
    local = client(server).download_artifacts(run.info.run_id, "record.json", str(study.root))
    assert Path(local).read_bytes() == (study.cell_folder(cell.id) / "record.json").read_bytes()
    assert track.read_points(server, "demo").height == 8


def test_a_server_that_does_not_answer_is_named_at_once(study: Study) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(OrchError, match="no MLflow server answers") as caught:
        track.sync(study, uri)
    assert uri in caught.value.message
    assert "without --tracking-uri" in caught.value.hint


@pytest.mark.parametrize("uri", ["./mlruns", "ftp://host/x", "sqlite:////proc/none/mlflow.db"])
def test_a_uri_that_cannot_work_is_named(study: Study, uri: str) -> None:
    with pytest.raises(OrchError) as caught:
        track.sync(study, uri)
    assert caught.value.hint


def test_a_study_of_nothing_makes_an_empty_experiment(tmp_path: Path, empty_database: Path) -> None:
    study = create_study(tmp_path / "study", "demo")
    shutil.copy(empty_database, study.root / "mlflow.db")
    assert track.sync(study).added == 0
    assert runs_of(study) == {}
