"""What a user's cluster asks of every launch: `cluster.yaml` in the folder of settings, the keys of a grid's `cluster:`."""

from __future__ import annotations

from pydantic import ValidationError

from orch.planning.calibration import folder
from orch_core.errors import GridError
from orch_core.grid.resources import Cluster
from orch_core.yaml import load_yaml


def of_user() -> Cluster:
    """What the user's file asks for, nothing where there is none; raises GridError with each mistake's place.

    It holds where the grid is silent; the command line wins over both. Size classes belong to grids.
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
