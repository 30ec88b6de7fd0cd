"""Files that are written completely or not at all: a reader never sees a part, even if the writer dies."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from polars import DataFrame

UMASK = os.umask(0)  # a study is shared by a group, so its files get the permissions of the user's umask
os.umask(UMASK)
FULL = 1 << 20  # free bytes below which a failed write is explained by a full disk


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


def write_parquet(
    frame: DataFrame,
    path: Path,
    *,
    compression: Literal["lz4", "zstd"] = "zstd",
    metadata: dict[str, str] | None = None,
) -> None:
    """Write a Parquet file so that a reader never sees a part; raises OSError, also where polars does not."""
    from polars.exceptions import PolarsError

    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        frame.write_parquet(partial, compression=compression, statistics=False, metadata=metadata)
        os.replace(partial, path)
    except PolarsError as error:  # what the system said is lost in some of its messages
        full = shutil.disk_usage(path.parent).free < FULL
        words = os.strerror(errno.ENOSPC) if full else str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, words, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


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
def published_folder(folder: Path, entries: frozenset[str], last: str) -> Iterator[Path]:
    """A new folder to write into, which replaces `folder` after the block; on an error `folder` stays.

    entries: names that the folder may contain; last: the file without which a reader ignores the others

    The two folders are exchanged at once. If somebody keeps other files in `folder`, or it is the working
    directory, the entries are moved one by one: `last` is removed before them, and moved after them.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    written = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    written.mkdir()
    try:
        yield written
        if not folder.exists():
            written.rename(folder)
        elif not _is_replaceable(folder, entries) or not _exchange(written, folder):
            _move_entries(written, folder, entries, last)
    finally:
        shutil.rmtree(written, ignore_errors=True)


def _is_replaceable(folder: Path, entries: frozenset[str]) -> bool:
    """Whether a folder contains only these entries, and is not a link or where this process works."""
    here, place = Path.cwd(), folder.resolve()
    inside = here == place or place in here.parents
    return not inside and not folder.is_symlink() and {path.name for path in folder.iterdir()} <= entries


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders at once; False if the file system cannot (renameat2 of Linux, not on NFS)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _move_entries(written: Path, folder: Path, entries: frozenset[str], last: str) -> None:
    (folder / last).unlink(missing_ok=True)
    for name in sorted(entries, key=lambda name: name == last):
        old, new = folder / name, written / name
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
        if new.exists():
            new.rename(old)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Acquire the lock of `path`, waiting for it if necessary, and release it after the block."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
