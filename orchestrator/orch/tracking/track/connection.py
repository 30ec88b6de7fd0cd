"""The connection to a tracking store, and its errors with their remedies."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from orch.tracking import stores
from orch_core.errors import OrchError
from orch_core.formatting import without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE = 1000  # runs asked for at once
SETTINGS = {  # no telemetry, no minutes of retries, no logs of migrations, unless the user has set them
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}


@contextlib.contextmanager
def explained(uri: str, used: str = "") -> Iterator[None]:
    """Turn MLflow's and its database's errors into OrchError with a remedy.

    uri: shown in messages, without credentials; used: what MLflow was given instead of it
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        stores.check_reachable(uri)
        yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, ModuleNotFoundError) as error:
        whole = str(error).replace(used or uri, uri)
        text = whole.splitlines()[0] if whole else type(error).__name__
        message = without_credentials(f"MLflow at {uri}: {text}")
        raise OrchError(message, hint=stores.remedy(uri, whole)) from None  # its text may have credentials


def open_database(uri: str) -> None:
    """Make MLflow's database if the URI names a missing SQLite file, else check that it is writable."""
    path = stores.sqlite_path(uri)
    if path and path.exists():
        stores.check_writable(path)
    elif path:
        build_database(path)


def connect(uri: str) -> MlflowClient:
    """A client of the store; raises OrchError for a SQLite file that is missing."""
    from mlflow import MlflowClient

    path = stores.sqlite_path(uri)
    if path and not path.exists():  # MLflow would make an empty one
        message = f"there is no MLflow database at {path}"
        raise OrchError(message, hint="`orch sync` makes the study's")
    return MlflowClient(tracking_uri=uri)


def build_database(path: Path) -> None:
    """Make the schema in a temporary file and rename it, since a killed migration leaves a broken file."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow.") as folder:
        unfinished = Path(folder) / "mlflow.db"
        client = MlflowClient(tracking_uri=f"sqlite:///{unfinished}")
        client.delete_experiment("0")  # the empty experiment `Default` of MLflow
        stores.publish_database(unfinished, path)


def runs(client: MlflowClient, experiment: str) -> Iterator[Run]:
    """The active runs of an experiment by id, in the order of their start."""
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment], max_results=PAGE, order_by=["start_time ASC"], page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return
