"""Why an attempt failed, as one word to group by, and how to recognise the same error elsewhere."""

from __future__ import annotations

import errno
import hashlib
import shutil
import traceback
from pathlib import Path

from orch_core.errors import OrchError
from orch_core.study.attempts import End

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
    """The end of an attempt that an error ended."""
    return End(
        how="failed", cause=cause_of(error, root), message=message_of(error), signature=signature_of(error)
    )


def cause_of(error: BaseException, root: Path) -> str:
    """`bad_data`, `out_of_memory`, `disk_full`, `network` (between the processes of one cell) or `code_error`.

    Libraries wrap system errors in their own classes and words; if nothing else is known, the disk itself is checked.
    """
    text = str(error).lower()
    if isinstance(error, OrchError):
        return "bad_data"
    if (isinstance(error, OSError) and error.errno in FULL) or any(word in text for word in DISK_WORDS):
        return "disk_full"
    named = type(error).__name__ == "OutOfMemoryError"
    if isinstance(error, MemoryError) or named or any(word in text for word in MEMORY_WORDS):
        return "out_of_memory"
    if isinstance(error, OSError | RuntimeError) and is_full(root):
        return "disk_full"
    if type(error).__name__.startswith("Dist") or any(word in text for word in NETWORK_WORDS):
        return "network"
    return "code_error"


def is_disk_error(error: OSError, root: Path) -> bool:
    """Whether the study's disk is full, or it may not be written any more."""
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
    """16 hexadecimal digits over the error's type and the functions and lines it came through, not its words."""
    frames = traceback.extract_tb(error.__traceback__)
    places = "|".join(f"{Path(frame.filename).name}:{frame.lineno}:{frame.name}" for frame in frames)
    return hashlib.blake2b(f"{type(error).__name__}|{places}".encode(), digest_size=8).hexdigest()
