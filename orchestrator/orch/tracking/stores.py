"""Where a mirror is: MLflow's database in the study, or another store; errors and their remedies."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import filelock

from orch_core.errors import OrchError
from orch_core.formatting import without_credentials
from orch_core.study.folder import Study

LOCK_SECONDS = 10.0
NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "fuse.",
    "9p",
    "afs",
    "panfs",
    "orangefs",
)
UNSAFE = (
    "%?"  # MLflow decodes the first in a path of a database, and takes what follows the second for options
)


def local_uri(study: Study) -> str:
    """The tracking URI of the MLflow database in the study."""
    return f"sqlite:///{study.database.resolve()}"


@contextlib.contextmanager
def readable_by_mlflow(study: Study) -> Iterator[str]:
    """The tracking URI of the study's database, through a link if MLflow cannot read the path itself."""
    path = study.database.resolve()
    if not any(character in str(path) for character in UNSAFE):
        yield local_uri(study)
        return
    with tempfile.TemporaryDirectory(prefix="orch-mlflow-") as folder:
        link = Path(folder) / "study"
        link.symlink_to(path.parent)
        yield f"sqlite:///{link / path.name}"


def sqlite_path(uri: str) -> Path | None:
    """The file of a `sqlite:///` URI, else None."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri.startswith("sqlite:///") else None


@contextlib.contextmanager
def single_writer(study: Study) -> Iterator[None]:
    """Let one sync at a time write; raises OrchError if another takes too long, or for a read-only study."""
    lock = filelock.FileLock(study.root / ".mlflow.lock", timeout=LOCK_SECONDS)
    try:
        with lock:
            yield
    except filelock.Timeout as error:
        message = f"another `orch sync` is writing the mirror of {study.root}"
        raise OrchError(message, hint="wait for it to end, then run `orch sync` again") from error
    except OSError as error:
        message = f"cannot write the mirror of {study.root}: {error.strerror or error}"
        hint = "make the study writable or free some disk, then run `orch sync` again; no record was touched"
        raise OrchError(message, hint=hint) from error


def check_reachable(uri: str) -> None:
    """Fail within seconds, not after MLflow's retries, if no server answers."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        parts = urlsplit(uri)
        host = parts.netloc.rpartition("@")[2]  # urllib takes a user's name for a part of the host's
        address = f"{parts.scheme}://{host}{parts.path.rstrip('/')}/health"
        urllib.request.urlopen(address, timeout=10).close()  # noqa: S310 - the user's URI
    except urllib.error.HTTPError:
        return  # the server answers; the status of /health does not matter
    except (OSError, ValueError) as error:
        message = f"no MLflow server answers at {without_credentials(uri)}: {getattr(error, 'reason', error)}"
        raise OrchError(message, hint=remedy(uri, "")) from error


def check_writable(path: Path) -> None:
    """Raises OrchError if another program has locked a SQLite file, or it is read-only or no database."""
    with contextlib.closing(sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
        except sqlite3.Error as error:
            message = f"cannot write {path}: {error}"
            raise OrchError(message, hint=remedy(f"sqlite:///{path}", str(error))) from error


def publish_database(unfinished: Path, path: Path) -> None:
    """Give a database that nobody has open its name, unless another sync was first: then that one stays."""
    with contextlib.closing(sqlite3.connect(unfinished)) as database:
        if not network_filesystem(path.parent):
            database.execute("PRAGMA journal_mode=WAL")  # 2-3 times the speed; not for NFS
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with contextlib.suppress(FileExistsError):
        os.link(unfinished, path)


def remedy(uri: str, text: str) -> str:
    """What to do about an error of a store, by its text."""
    if any(word in text for word in ("schema", "locate revision", "no such column", "not a database")):
        rebuilt = "delete mlflow.db and run `orch sync`, which rebuilds it from the study"
        upgrade = f"`mlflow db upgrade {without_credentials(uri)}` on a copy"
        return f"it is damaged or of another MLflow version: {rebuilt}; or run {upgrade}"
    if "locked" in text or "busy" in text:
        return "another program is writing there: close it and run `orch sync` again"
    if "disk" in text or "full" in text:
        return "free some disk and run `orch sync` again; no record was touched"
    if uri.startswith("http"):
        return "check the address and the server; `orch sync` without --tracking-uri writes into the study"
    return "check the URI; `orch sync` without --tracking-uri writes into the study"


def network_filesystem(path: Path) -> str | None:
    """The type of the network file system of `path`; None on a local disk, or if /proc does not show it."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    mounts = {fields[1]: fields[2] for fields in (line.split() for line in lines) if len(fields) > 2}
    place = path.resolve()
    kind = next((mounts[str(parent)] for parent in (place, *place.parents) if str(parent) in mounts), "")
    return kind if kind.startswith(NETWORK) else None
