"""The user's settings in one folder for all studies: `cluster.yaml`, and the calibrations of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from orch_core.errors import GridError
from orch_core.grid.resources import Cluster
from orch_core.yaml import load_yaml


def folder() -> Path:
    """The folder of settings: `$ORCH_HOME`, or `orch` under the user's configuration folder."""
    home = os.environ.get("ORCH_HOME")
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) if home else Path(base) / "orch"


def user_cluster() -> Cluster:
    """The section of the user's file, empty without a file; raises GridError with each mistake's place.

    It applies if the grid sets nothing; the command line takes precedence over both. Size classes belong
    to grids.
    """
    path = folder() / "cluster.yaml"
    if not path.exists():
        return Cluster()
    document = load_yaml(path)
    if isinstance(document.data, dict) and "classes" in document.data:
        message = "size classes belong to a grid: this file has only settings that all of them share"
        raise GridError((document.problem(("classes",), message, at_key=True),))
    try:
        return Cluster.model_validate(document.data)
    except ValidationError as error:
        problems = (document.problem(one["loc"], one["msg"], at_key=True) for one in error.errors())
        raise GridError(tuple(problems)) from error
