"""The launched code, frozen: one zip of the packages' sources that workers import.

Python imports from a zip on its path, so a snapshot is one file, independent of later changes to the working
tree. Its name is its content's hash: equal code is stored once, and damaged or changed code is refused. A
launch always runs the code of the orch that launches.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from pathlib import Path

from orch_core.errors import OrchError
from orch_core.files import publish_once
from orch_core.study.folder import Study

FROZEN = ("orch", "orch_core")  # a worker does not import the analysis


def freeze(study: Study) -> Path:
    """Store the sources of this process's packages in the study; returns the zip, for PYTHONPATH."""
    return store(study.code)


def store(folder: Path) -> Path:
    """Store the sources of this process's packages in a folder; returns the zip."""
    data = _zip(sources())
    folder.mkdir(exist_ok=True)
    path = folder / f"{_digest(data)}.zip"
    if not publish_once(path, data):
        check(path)
    return path


def check(snapshot: Path) -> None:
    """Raise OrchError if a snapshot's content does not have the hash in its name."""
    if _digest(snapshot.read_bytes()) != snapshot.stem:
        message = f"{snapshot} was damaged or changed: it is not the code that was launched"
        raise OrchError(message, hint="delete it and run `orch launch` again, which writes a new one")


def check_running(snapshot: Path) -> None:
    """Raise OrchError unless this process runs an intact snapshot: Python ignores a damaged zip."""
    check(snapshot)
    running = Path(__file__).parents[2]
    if running.name != snapshot.name:
        message = f"this worker runs the code in {running}, not the code that was launched, {snapshot.name}"
        raise OrchError(message, hint="run `orch launch` again from a Python with orch installed once")


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def sources() -> dict[str, bytes]:
    """Every source file that a worker may import, by its path in the zip."""
    found = {}
    for package in FROZEN:
        spec = importlib.util.find_spec(package)
        roots = spec.submodule_search_locations if spec else None
        for root in map(Path, roots or ()):
            for path in sorted(root.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    found[f"{package}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    return found


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(files.items()):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(info, data, compress_type=zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
