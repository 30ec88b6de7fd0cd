"""`orch suggest`: from a study and a target to a grid of the cells to run next."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from orch.planning.advise import advise, render, write_grid
from orch.planning.command import read_target
from orch.studies import find_study


def suggest_for(
    study: Path | None, target: str, budget: float, out: Path, *, algorithm: str | None, mix: str | None
) -> tuple[dict[str, Any], str]:
    """Suggest, write the grid to `out`, and say so as a document and as text."""
    opened = find_study(study)
    advice = advise(opened, read_target(target), budget, recipe=algorithm, mix=mix)
    write_grid(opened, advice, out)
    document = {"study": opened.name, "grid": str(out), "advice": [asdict(one) for one in advice]}
    return document, render(advice, out, opened)
