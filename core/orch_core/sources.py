"""A source of a grid: an npz in MedMNIST's format, or a pack folder; the same facts of either."""

from __future__ import annotations

from pathlib import Path

from orch_core.images import NpzFacts, inspect_npz
from orch_core.packs.facts import pack_facts
from orch_core.packs.layout import is_pack_folder


def inspect_source(path: Path, modality: str) -> NpzFacts:
    """Facts of a source; of a pack folder those of its images of that modality (`all` for every one).

    Raises OrchError naming what is wrong with the files.
    """
    return pack_facts(path, modality) if is_pack_folder(path) else inspect_npz(path)
