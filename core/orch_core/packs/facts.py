"""What a pack folder holds, for the planner, and whether its files are what they were. Decodes no image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from orch_core.errors import OrchError
from orch_core.images.npz import SPLITS, NpzFacts, fingerprint
from orch_core.packs.layout import Manifest, Modality, modality_code, read_manifest

TASK_HINT = (
    "a task has one source, images of one size with a label each, and train, val and test: pack it by itself"
)


def pack_facts(folder: Path, modality: str) -> NpzFacts:
    """Facts of the rows of one modality, or of `all`; raises OrchError where the folder is not whole.

    So it does where there is nothing to train on, or nothing to hold out.

    The table and the index are hashed, packs only measured: `problems` reads those too. height,
    width, channels: 0 where images differ. labels: 0 where they have none, or sources with
    different numbers of them.
    """
    manifest = read_manifest(folder)
    found = next(_wrong_files(folder, manifest), None) or next(_wrong_sizes(folder, manifest), None)
    if found:
        raise OrchError(found, hint="copy the whole folder again, or pack it again")
    code = modality_code(manifest, modality)
    parts = manifest.modalities if code is None else (manifest.modalities[code],)
    shapes = {part.shape for part in parts}
    height, width, channels = (shapes.pop() if len(shapes) == 1 else None) or (0, 0, 0)
    counts = {split: sum(part.counts[split] for part in parts) for split in SPLITS}
    pretraining = sum(part.pretraining for part in parts)
    if not (pretraining and counts["val"]):
        message = (
            f"{folder} has {pretraining} images of {modality} for pretraining and {counts['val']} in val"
        )
        raise OrchError(
            message, hint="both are needed: give more images (or groups), or pack with a larger --val"
        )
    pairs = {pair for part in parts for pair in part.duplicates}
    return NpzFacts(
        fingerprint=manifest.fingerprint if code is None else parts[0].fingerprint,
        counts=counts,
        height=height,
        width=width,
        channels=channels,
        labels=parts[0].labels if len({part.labels for part in parts}) == 1 else 0,
        classes=_classes(manifest, parts),
        duplicates={pair: sum(part.duplicates.get(pair, 0) for part in parts) for pair in sorted(pairs)},
        pretraining=pretraining,
    )


def _classes(manifest: Manifest, parts: tuple[Modality, ...]) -> int:
    return parts[0].classes if len(parts) == 1 else sum(source.classes for source in manifest.sources)


def task_problem(folder: Path) -> str:
    """Why a pack folder cannot serve as a task, or nothing; raises OrchError where it is not whole."""
    manifest = read_manifest(folder)
    parts = manifest.modalities
    empty = [split for split in SPLITS if not sum(part.counts[split] for part in parts)]
    if len(manifest.sources) > 1:
        return f"it has {len(manifest.sources)} sources"
    if len({part.shape for part in parts}) > 1 or not parts[0].shape:
        return "its images differ in size"
    if not all(part.labels for part in parts):
        return "its images have no labels"
    return f"its {empty[0]} split is empty" if empty else ""


def problems(folder: Path, tell: Callable[[int, int], None]) -> Iterator[str]:
    """Read everything and name every file that is not what it was; `tell` gets packs done, of how many."""
    manifest = read_manifest(folder)
    yield from _wrong_files(folder, manifest)
    for number, pack in enumerate(manifest.packs, 1):
        path = folder / pack.file
        if not path.exists():
            yield f"{path} is missing"
        elif fingerprint(path) != pack.hash:
            yield f"{path} is not the pack that the manifest describes: its hash differs"
        tell(number, len(manifest.packs))


def _wrong_files(folder: Path, manifest: Manifest) -> Iterator[str]:
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.exists():
            yield f"{path} is missing"
        elif fingerprint(path) != expected:
            yield f"{path} does not belong to these packs: its hash is not the manifest's"


def _wrong_sizes(folder: Path, manifest: Manifest) -> Iterator[str]:
    for pack in manifest.packs:
        path = folder / pack.file
        size = path.stat().st_size if path.exists() else None
        if size != pack.bytes:
            yield f"{path} is missing" if size is None else f"{path} has {size:,} bytes, not {pack.bytes:,}"
