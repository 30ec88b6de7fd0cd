"""A source or task of a grid: this module decides whether it is an npz or a pack folder, and reads it.

Packs are imported by the functions that need them, so that a study of npz files needs no image library.
"""

from __future__ import annotations

from pathlib import Path

from orch_core.errors import OrchError
from orch_core.images import npz
from orch_core.images.npz import Images, Labels, NpzFacts
from orch_core.packs.layout import ALL, is_pack_folder

__all__ = ["ALL", "check_task", "inspect_source", "open_split", "read_split"]


def inspect_source(path: Path, modality: str) -> NpzFacts:
    """Facts of a source; of a pack folder those of its images of that modality (`all` for every one).

    Raises OrchError for a mistake in the files.
    """
    if is_pack_folder(path):
        from orch_core.packs.facts import pack_facts

        return pack_facts(path, modality)
    if path.is_dir():
        message = f"{path} is a folder without packs"
        raise OrchError(message, hint=f"pack its images first: `orch data pack {path}-packs {path}`")
    return npz.inspect_npz(path)


def check_task(path: Path) -> None:
    """Raise OrchError if a pack folder cannot serve as a downstream task; an npz that was inspected can."""
    if is_pack_folder(path):
        from orch_core.packs.facts import TASK_HINT, task_problem

        problem = task_problem(path)
        if problem:
            message = f"{path} cannot be a task: {problem}"
            raise OrchError(message, hint=TASK_HINT)


def read_split(path: Path, split: str, expected: str = "") -> tuple[Images, Labels]:
    """Images [n, h, w, c] and labels [n, k] of one split; raises OrchError naming the fault in the files.

    expected: fingerprint of the source or task when the plan was made; raises OrchError if it has changed.
    """
    if is_pack_folder(path):
        from orch_core.packs.read import read_task

        return read_task(path, split, expected)
    return npz.read_split(path, split, expected)


LARGE = npz.KEPT_BYTES
"""Raw bytes of a split's images above which they are mapped, not read."""


def open_split(path: Path, split: str, expected: str, scratch: Path) -> tuple[Images, Labels]:
    """As `read_split`, with the images of a large npz mapped from a nameless file in the folder `scratch`."""
    if not is_pack_folder(path) and path.exists() and npz.raw_bytes(path, split) > LARGE:
        return npz.map_split(path, split, expected, scratch)
    return read_split(path, split, expected)
