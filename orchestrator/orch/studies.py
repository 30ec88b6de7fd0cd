"""Which study a command means: apart from the planner, so that `orch fit-laws` loads none of it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from orch_core.errors import OrchError
from orch_core.files import write_atomic
from orch_core.study.folder import Study, open_study

POINTER = ".orch"  # in the working directory: the path of the study that was planned there last


def find_study(argument: Path | None) -> Study:
    """The study in a folder, that of a grid file that was planned, or (None) the one planned last here.

    Raises OrchError if there is no such study.
    """
    if argument is None:
        pointer = Path(POINTER)
        if not pointer.is_file():
            message = "no study was planned in this directory"
            raise OrchError(message, hint="run `orch plan GRID` here, or name the study's folder")
        return open_study(Path(pointer.read_text(encoding="utf-8").strip()))
    if argument.is_file():
        from orch_core.grid.check import read_grid

        return open_study(Path("studies").resolve() / read_grid(argument).grid.study)
    return open_study(argument.resolve())


def remember_study(study: Study) -> None:
    """Make a study the default of this directory; a read-only directory does not remember it."""
    with contextlib.suppress(OSError):
        write_atomic(Path(POINTER), f"{study.root}\n")
