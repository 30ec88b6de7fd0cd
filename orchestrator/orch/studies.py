"""The study that a command means; separate from the planner, so that `orch fit-laws` does not load it."""

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
        return open_study(_pointed_at(pointer))
    if argument.is_file():
        found = study_of_grid(argument)
        if found is None:
            message = f"{argument} was not planned here or beside the grid"
            raise OrchError(message, hint=f"run `orch plan {argument}`, or name the study's folder")
        return found
    return open_study(argument.resolve())


def study_of_grid(grid: Path) -> Study | None:
    """The study of a grid: in `studies` here or beside the grid, or the one planned last here.

    Raises GridError for a wrong grid, OrchError if there is more than one.
    """
    from orch_core.grid.check import read_grid

    name = read_grid(grid).grid.study
    places = [Path("studies") / name, grid.parent / "studies" / name]
    if Path(POINTER).is_file():
        places.append(_pointed_at(Path(POINTER)))
    studies = {place.resolve(): open_study(place.resolve()) for place in places if _is_study(place)}
    found = [study for study in studies.values() if study.name == name]
    if len(found) > 1:
        message = f"{grid} was planned in {' and in '.join(str(study.root) for study in found)}"
        raise OrchError(message, hint="name the study's folder instead of the grid")
    return found[0] if found else None


def _pointed_at(pointer: Path) -> Path:
    """The study planned last in this directory; raises OrchError if the file does not name a folder."""
    place = pointer.read_bytes().decode(errors="replace").strip()
    if not place or "\0" in place or not Path(place).is_dir():
        message = f"{pointer} names no study, but {place[:60]!r}"
        raise OrchError(message, hint=f"name the study's folder, or plan again: that writes {pointer} again")
    return Path(place)


def _is_study(folder: Path) -> bool:
    return (folder / "study.json").is_file()


def remember_study(study: Study) -> None:
    """Make a study the default of this directory; a read-only directory does not remember it."""
    with contextlib.suppress(OSError):
        write_atomic(Path(POINTER), f"{study.root}\n")
