"""Files that are written completely or not at all: a reader never sees a part, even if the writer dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

UMASK = os.umask(0)  # a study is shared by a group, so its files get the permissions of the user's umask
os.umask(UMASK)


def write_atomic(path: Path, text: str | bytes) -> None:
    """Write `text` so that a reader sees the old file or the new one, never a part (temp, fsync, rename)."""
    temporary = _temporary(path, text)
    try:
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def publish_once(path: Path, text: str | bytes) -> bool:
    """Write `text` to `path` unless the file exists; True if this call wrote it."""
    temporary = _temporary(path, text)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def dumps(document: Mapping[str, Any]) -> str:
    """Indented JSON; refuses NaN and infinity, which are not JSON."""
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _temporary(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o666 & ~UMASK)  # mkstemp's files are private
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Acquire the lock of `path`, waiting for it if necessary, and release it after the block."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
