"""A real MLflow tracking server gets the same runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from mirrored import client, runs_of

from orch.cli import main
from orch.tracking import track
from orch_core.errors import OrchError
from orch_core.study.folder import Study

Make = Callable[..., Study]


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


def test_credentials_are_sent_to_the_server_and_shown_nowhere(
    server: str, recorded: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = recorded(3, 0)
    uri = server.replace("http://", "http://ann:s3cret@")
    summary = track.sync(study, uri)
    assert summary.unchanged + summary.added + summary.updated == 3
    assert summary.uri == server.replace("http://", "http://***@")
    words = ["fit-laws", "--tracking-uri", uri, "--experiment", "demo", "--law", "power"]
    words += ["--map", "value=heldout_loss", "--map", "params=params_encoder", "--out", "laws"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code in {0, 3}, done.output
    written = [path for path in (*tmp_path.rglob("laws/**/*"), *study.root.rglob("*")) if path.is_file()]
    assert (tmp_path / "laws" / "laws.json") in written
    assert not [path for path in written if b"s3cret" in path.read_bytes()]


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
