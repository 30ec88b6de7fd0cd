"""The parts of a scaling-law study: grids, cells, recipes, records, and their cost.

`read_grid` checks a grid file, `enumerate_cells` lists its cells as a table, `open_study` opens a study.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orch_core.cell import Cell as Cell
    from orch_core.cell import Probe as Probe
    from orch_core.errors import GridError as GridError
    from orch_core.errors import OrchError as OrchError
    from orch_core.grid.cells import enumerate_cells as enumerate_cells
    from orch_core.grid.check import CheckedGrid as CheckedGrid
    from orch_core.grid.check import read_grid as read_grid
    from orch_core.grid.language import Grid as Grid
    from orch_core.study.folder import Study as Study
    from orch_core.study.folder import open_study as open_study
    from orch_core.study.record import Reason as Reason
    from orch_core.study.record import Record as Record
else:
    from orch_core.lazy import public

    __all__, __getattr__, __dir__ = public(
        __name__,
        {
            "orch_core.cell": "Cell Probe",
            "orch_core.errors": "GridError OrchError",
            "orch_core.grid.cells": "enumerate_cells",
            "orch_core.grid.check": "CheckedGrid read_grid",
            "orch_core.grid.language": "Grid",
            "orch_core.study.folder": "Study open_study",
            "orch_core.study.record": "Reason Record",
        },
    )
