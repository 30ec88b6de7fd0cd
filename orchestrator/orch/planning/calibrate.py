"""`orch calibrate`: from a grid, or none, to a calibration and what it says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from orch.console import say
from orch.planning.speed import measure, spread
from orch_core.cell import Cell
from orch_core.formatting import quantity
from orch_core.grid.cells import cell_of, enumerate_cells
from orch_core.grid.check import read_grid


def calibrate_for(grid: Path | None) -> tuple[dict[str, Any], str]:
    """Measure the shapes of a grid, or a small ladder; the calibration as a document and as text."""
    cells, precision = _cells(grid) if grid else ([], "fp32")
    found, path = measure(cells, precision=precision, say=say)
    lines = [f"measured on {found.machine} ({found.device}, {found.precision}), kept in {path}"]
    for recipe, rate in found.training.items():
        speed = f"{quantity(1 / rate.flop, 'FLOP/s')}" if rate.flop else "unlimited"
        moved = f"{quantity(1 / rate.byte, 'B/s')}" if rate.byte else "unlimited"
        lines.append(
            f"{recipe}: {speed} and {moved} of activations, {1e3 * rate.step:.2f} ms a step, {rate.fixed:.2f} s a run"
        )
    lines.append(f"these rates reproduce the runs they come from within {100 * found.error:.0f}% (median)")
    return {**asdict(found), "path": str(path)}, "\n".join(lines)


def _cells(grid: Path) -> tuple[list[Cell], str]:
    checked = read_grid(grid)
    frame = enumerate_cells(checked).unique(["recipe", "flops_train_image"], maintain_order=True)
    return spread(cell_of(row) for row in frame.iter_rows(named=True)), checked.grid.training.precision
