"""`orch data pack` and `stats`: packs of images and their statistics."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orch.cli.arguments import AS_JSON, FOLDER, WHOLE
from orch.console import Commands, emit, fraction, say

if TYPE_CHECKING:
    from orch_core.packs.gather import Store


@click.group(cls=Commands)
def data() -> None:
    """Pack images for pretraining and inspect image data.

    Example: orch data pack packs ct=scans/ && orch data stats packs
    """


@data.command("pack")
@click.argument("out", type=FOLDER)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--side", type=WHOLE, help="Reduce larger images to this shorter side in pixels.")
@click.option(
    "--store",
    type=click.Choice(["keep", "raw", "jpeg"]),
    default="keep",
    show_default=True,
    help="Keep the files' own encoding, or store raw pixels or JPEG.",
)
@click.option(
    "--val",
    type=fraction,
    default="1%",
    show_default=True,
    help="Hold out this share of a source that brings no validation split.",
)
@click.option(
    "--max-bad",
    type=fraction,
    default="1%",
    show_default=True,
    help="Stop if more than this share of a source is unusable.",
)
@click.option("--workers", type=WHOLE, help="Run this many processes; the default is one per core.")
@AS_JSON
def pack(
    out: Path,
    sources: tuple[str, ...],
    *,
    side: int | None,
    store: Store,
    val: float,
    max_bad: float,
    workers: int | None,
    as_json: bool,
) -> None:
    """Pack images of any kind into a folder for pretraining.

    SOURCE is PATH, MODALITY=PATH or a YAML file; images, DICOM, NIfTI, npz, Parquet and WebDataset shards are
    read. An interrupted pack continues where it stopped when the same command runs again.

    Example: orch data pack packs x-ray=experiments/images/pneumonia.npz
    """
    from orch.datasets.packing import pack_sources, summary
    from orch_core.packs.gather import Settings
    from orch_core.packs.pack import PackOptions

    processes = workers or len(os.sched_getaffinity(0))
    settings = Settings(store=store, side=side or 0)
    options = PackOptions(settings=settings, val=val, max_bad=max_bad, workers=processes)
    manifest = pack_sources(out, sources, options)
    emit(manifest.to_json()) if as_json else click.echo(summary(out, manifest))


@data.command()
@click.argument("path", type=FOLDER)
@click.option(
    "--page", type=FOLDER, help="Write the HTML page into this file instead of NAME-stats.html here."
)
@click.option("--verify", is_flag=True, help="First read every pack and compare it with its hash.")
@AS_JSON
def stats(path: Path, page: Path | None, *, verify: bool, as_json: bool) -> None:
    """Count the images, duplicates and leaks of a pack folder or npz.

    The HTML page also shows sizes, splits and thumbnails.

    Example: orch data stats experiments/images/blood.npz
    """
    from orch.datasets import stats as counting

    if verify:
        counting.verify(path)
    written = page or Path(f"{path.resolve().name}-stats.html")
    found = counting.stats(path, written)
    emit(found.to_json()) if as_json else click.echo(counting.text(found))
    say(f"page: {written}")


COMMANDS = (data,)
