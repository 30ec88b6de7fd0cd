"""The cause of a failed attempt, and a signature to recognise the same error in another cell."""

from __future__ import annotations

import errno
import hashlib
import shutil
import traceback
from pathlib import Path

from orch_core.errors import OrchError
from orch_core.study.attempts import End
from orch_core.study.record import Cause

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory")
NETWORK_WORDS = (
    "connection closed by peer",
    "connection reset",
    "address already in use",
    "connection refused",
)
DISK_WORDS = ("no space left", "os error 28", "disk quota exceeded", "read-only file system")


def end_of(error: BaseException, root: Path) -> End:
    """The end of an attempt after an error."""
    return End(
        how="failed", cause=cause_of(error, root), message=message_of(error), signature=signature_of(error)
    )


def cause_of(error: BaseException, root: Path) -> Cause:
    """BAD_DATA, OUT_OF_MEMORY, DISK_FULL, NETWORK (between the processes of one cell) or CODE_ERROR.

    Libraries wrap system errors in their classes and messages; if nothing else is known, the disk is checked.
    """
    text = str(error).lower()
    if isinstance(error, OrchError):
        return Cause.BAD_DATA
    if (isinstance(error, OSError) and error.errno in FULL) or any(word in text for word in DISK_WORDS):
        return Cause.DISK_FULL
    named = type(error).__name__ == "OutOfMemoryError"
    if isinstance(error, MemoryError) or named or any(word in text for word in MEMORY_WORDS):
        return Cause.OUT_OF_MEMORY
    if isinstance(error, OSError | RuntimeError) and is_full(root):
        return Cause.DISK_FULL
    if type(error).__name__.startswith("Dist") or any(word in text for word in NETWORK_WORDS):
        return Cause.NETWORK
    return Cause.CODE_ERROR


def is_disk_error(error: OSError, root: Path) -> bool:
    """Whether the study's disk is full or read-only."""
    inside = error.filename is None or str(error.filename).startswith(str(root))
    return error.errno in FULL or (error.errno in UNWRITABLE and inside)


def is_full(root: Path) -> bool:
    """Whether less than one mebibyte is left on the study's file system."""
    try:
        return shutil.disk_usage(root).free < 1 << 20
    except OSError:
        return False


def message_of(error: BaseException) -> str:
    """The error in one line."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if not isinstance(error, OrchError) else first


def signature_of(error: BaseException) -> str:
    """16 hexadecimal digits of the error's type and the functions and lines of its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    places = "|".join(f"{Path(frame.filename).name}:{frame.lineno}:{frame.name}" for frame in frames)
    return hashlib.blake2b(f"{type(error).__name__}|{places}".encode(), digest_size=8).hexdigest()
