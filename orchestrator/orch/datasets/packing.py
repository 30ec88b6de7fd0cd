"""`orch data pack`: one packer at a time, progress on stderr, a summary at the end."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from orch.console import is_terminal, say
from orch.datasets.given import given_sources
from orch_core.errors import OrchError
from orch_core.formatting import quantity
from orch_core.packs.layout import LEFT_OUT, Manifest
from orch_core.packs.pack import PackOptions, Tell, pack

EVERY = 5.0
"""Seconds between lines of progress where stderr is not a terminal."""


def pack_sources(out: Path, words: Sequence[str], options: PackOptions) -> Manifest:
    """Pack what the words name into `out`; raises OrchError for what the user can mend, a full disk too."""
    specs = given_sources(words)
    try:
        with _alone(out), _progress() as tell:
            return pack(out, specs, options, tell)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR}:
            raise
        message = f"cannot write the packs into {out}: {error.strerror}"
        hint = "packing needs about twice the size of the packs while it runs; the same command then goes on"
        raise OrchError(message, hint=hint) from error


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout as error:
        message = f"another `orch data pack` is writing to {out}"
        raise OrchError(
            message, hint="wait for it, or stop it: this command then goes on where it stopped"
        ) from error


@contextmanager
def _progress() -> Iterator[Tell]:
    """A function that shows progress: bars on a terminal, a line every few seconds elsewhere."""
    if not is_terminal(sys.stderr):
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield show


def _lines() -> Tell:
    last = 0.0

    def show(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last > EVERY:
            last = now
            say(f"{what}: {done:,} of {total:,}")

    return show


def summary(out: Path, manifest: Manifest) -> str:
    """What was packed, for people."""
    size = quantity(sum(pack.bytes for pack in manifest.packs), "B")
    packs = f"{manifest.rows:,} images in {len(manifest.packs)} packs, {size}"
    lines = [f"{out}: {packs}; {manifest.pretraining:,} for pretraining"]
    for one in manifest.modalities:
        counts = ", ".join(f"{count:,} {split}" for split, count in one.counts.items() if count)
        lines.append(f"  {one.name}: {counts}")
    left_out = sum(source.left_out for source in manifest.sources)
    if left_out:
        lines.append(f"  {left_out:,} images or files left out, each with its reason in {out / LEFT_OUT}")
    lines += [f"  note: {note}" for note in manifest.notes]
    lines.append(f"fingerprint {manifest.fingerprint}")
    return "\n".join(lines)
