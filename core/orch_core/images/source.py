"""A source of a grid: an npz in MedMNIST's format, or a pack folder; the same facts of either."""

from __future__ import annotations

from pathlib import Path

from orch_core.errors import OrchError
from orch_core.images.npz import NpzFacts, inspect_npz
from orch_core.packs.facts import TASK_HINT, pack_facts, task_problem
from orch_core.packs.layout import is_pack_folder
from orch_core.packs.read import ALL

__all__ = ["ALL", "check_task", "inspect_source"]


def inspect_source(path: Path, modality: str) -> NpzFacts:
    """Facts of a source; of a pack folder those of its images of that modality (`all` for every one).

    Raises OrchError naming what is wrong with the files.
    """
    if is_pack_folder(path):
        return pack_facts(path, modality)
    if path.is_dir():
        message = f"{path} is a folder without packs"
        raise OrchError(message, hint=f"pack its images first: `orch data pack {path}-packs {path}`")
    return inspect_npz(path)


def check_task(path: Path) -> None:
    """Raise OrchError where a pack folder cannot serve as a downstream task; an npz that was inspected can."""
    problem = task_problem(path) if is_pack_folder(path) else ""
    if problem:
        message = f"{path} cannot be a task: {problem}"
        raise OrchError(message, hint=TASK_HINT)
