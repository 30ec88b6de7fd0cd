"""`orch ui`: MLflow's user interface on the study's mirror, on this machine only."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from orch.tracking.stores import readable_by_mlflow
from orch_core.errors import OrchError
from orch_core.study.folder import Study

HOST = "127.0.0.1"
START_SECONDS = 300.0  # MLflow 3.17 needs 5 s idle and a minute at load 10
STOP_SECONDS = 10.0
VIEW = "orch-scaling"  # of `orch.tracking.pages.views`


def ui(study: Study, port: int = 5000, *, tell: Callable[[str], None] = print) -> None:
    """Serve MLflow's user interface on the study's database until Ctrl-C or SIGTERM, for this machine only.

    tell: called once with the address, when the server answers.
    Raises OrchError if there is no database yet, the port is busy, or the server does not start.
    """
    if not study.database.exists():
        message = f"{study.root} has no mlflow.db"
        raise OrchError(message, hint="`orch sync` makes it")
    _check_port(port)
    log = study.logs / "mlflow-ui.log"
    signal.signal(signal.SIGTERM, _interrupt)
    with readable_by_mlflow(study) as uri:
        server = _start(study, uri, port, log)
        try:
            _wait_until_up(server, port, log)
            tell(_address(study, port))
            if server.wait():
                raise _stopped(server, log)
        except KeyboardInterrupt:
            return
        finally:
            _stop(server)


def _check_port(port: int) -> None:
    if not _is_free(port):
        message = f"port {port} is in use on {HOST}"
        free = next((other for other in range(port + 1, min(port + 50, 65536)) if _is_free(other)), None)
        remedy = f", for one `orch ui --port {free}`" if free else ""
        raise OrchError(message, hint=f"stop what listens there, or choose another port{remedy}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError as error:
            message = f"port {port} is reserved for the system"
            raise OrchError(message, hint="choose a port above 1023 with --port") from error
        except OSError:
            return False
    return True


def _start(study: Study, uri: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    """The server in a new session: only this process receives Ctrl-C, and then stops the group."""
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    command += ["--backend-store-uri", uri, "--workers", "1", "--no-serve-artifacts"]
    command += ["--default-artifact-root", study.artifacts.resolve().as_uri()]
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 8 processes of 255 MB that nothing here uses
    }
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=quiet | os.environ,
            start_new_session=True,
        )


def _wait_until_up(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    patience = time.monotonic() + START_SECONDS
    while time.monotonic() < patience:
        if server.poll() is not None:
            raise _stopped(server, log)
        try:
            urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    message = f"the MLflow server did not answer within {START_SECONDS:.0f} s"
    raise OrchError(message, hint=f"its log: {log}")


def _address(study: Study, port: int) -> str:
    """The runs table of the study in the view that `orch sync` saved; MLflow 3 otherwise opens chat pages."""
    base = f"http://{HOST}:{port}"
    query = urllib.parse.urlencode({"experiment_name": study.name})
    try:
        page = f"{base}/api/2.0/mlflow/experiments/get-by-name?{query}"
        with urllib.request.urlopen(page, timeout=30) as answer:  # noqa: S310 - our own server
            experiment = json.load(answer)["experiment"]["experiment_id"]
    except (OSError, ValueError, KeyError):
        return base
    return f"{base}/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def _stopped(server: subprocess.Popen[bytes], log: Path) -> OrchError:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = f": {lines[-1]}" if lines else ""
    hint = (
        f"its log: {log}; if the database is of another MLflow version, delete mlflow.db and run `orch sync`"
    )
    return OrchError(f"the MLflow server ended with status {server.returncode}{last}", hint=hint)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its workers, by force where asking does not help."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, sent)
            server.wait(STOP_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
