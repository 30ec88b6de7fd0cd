"""Resumable state on disk: written completely or not at all. The last two are kept; a damaged one is ignored.

A state is a folder named after its step. Every process writes its part of the tensors there with
torch.distributed.checkpoint, so no process needs the others' tensors, and any number of processes can read
them. A manifest contains everything that is not a tensor, and the blake2b-128 of every part.

A checkpoint may be part of a study from somebody else. PyTorch keeps its index as a pickle, which can call
any function: only the types that an index consists of are read, and tensors with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from orch_core.errors import OrchError
from orch_core.files import write_atomic
from orch_core.learn import distributed

DIGEST = 16
KEPT = 2
MANIFEST = "manifest"
"""A line with the digest of the rest, which is JSON."""
INDEX = ".metadata"
CHECKPOINT = "torch.distributed.checkpoint"
ALLOWED = {
    f"{CHECKPOINT}.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    f"{CHECKPOINT}.filesystem": {"_StorageInfo"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},  # from the name of a layout, such as torch.strided
    "pathlib": {"PosixPath"},
}


def training_state(module: nn.Module, optimiser: torch.optim.AdamW) -> dict[str, Tensor]:
    """Parameters, buffers, and AdamW's counts and moments, not copied, and sharded if the module is.

    Moments that AdamW has not created yet are created as zeros, as AdamW does.
    """
    tensors: dict[str, Tensor] = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(parameters):
        if not optimiser.state[parameter]:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            count = torch.zeros((), dtype=torch.float32, device=parameter.device)
            optimiser.state[parameter] = {"step": count, **moments}
        for name, tensor in optimiser.state[parameter].items():
            tensors[f"optimiser.{index}.{name}"] = tensor
    return tensors


def save_checkpoint(
    folder: Path,
    tensors: dict[str, Tensor],
    facts: dict[str, Any],
    *,
    keep: int | None = KEPT,
    scratch: Path | None = None,
) -> Path:
    """Write a state, then remove all but the last `keep` (None: remove none). All processes call it.

    facts:   what is not a tensor, as JSON, from rank 0; among them `cell` and `step`, the steps taken
    scratch: folder where the parts are collected, used by this run only (default: `folder`)

    A state of that step that exists already is kept. Raises OSError in all processes if one cannot write its
    part.
    """
    path, first = folder / f"{facts['step']:012d}", distributed.rank() == 0
    if distributed.from_first(path.exists()):
        return path
    # a new name each time: other nodes may have cached an earlier folder of the same name
    hidden = (scratch or folder) / f".{path.name}.{distributed.from_first(uuid.uuid4().hex)}"
    try:
        with _plain_errors():
            save(tensors, storage_writer=FileSystemWriter(hidden), no_dist=distributed.world() == 1)
        parts = distributed.from_all(_digests(hidden, f"__{distributed.rank()}_*"))
        if first:
            _write_manifest(hidden, facts, [*parts, _digests(hidden, INDEX)])
            _publish(hidden, path)
    finally:
        if first:
            shutil.rmtree(hidden, ignore_errors=True)
    for old in _states(folder)[keep:] if keep and first else ():
        shutil.rmtree(folder / old, ignore_errors=True)
    return path


def load_checkpoint(
    folder: Path, cell: str, tensors: dict[str, Tensor], *, last: int | None = None
) -> dict[str, Any] | None:
    """Fill `tensors` from the cell's newest intact state after at most `last` steps. All processes call it.

    Returns its facts, or None if there is no state. Each process checks some of the parts; a state is skipped
    if any process finds damage. Files of a killed save are removed here and not at the next save, because a
    process that should have ended may still save. Raises OrchError if the state belongs to another cell, or
    if its tensors have other names or shapes.
    """
    if distributed.rank() == 0:
        for rubbish in folder.glob(".*"):
            shutil.rmtree(rubbish, ignore_errors=True)
    for name in distributed.from_first(_states(folder)):
        if last is not None and int(name) > last:
            continue
        path = folder / name
        manifest = _read_manifest(path)
        (damaged,) = distributed.agreed(manifest is None or not _is_intact(path, manifest["parts"]))
        if manifest is None or damaged:
            if distributed.rank() == 0:
                _set_aside(path)
            continue
        facts: dict[str, Any] = manifest["facts"]
        if facts["cell"] != cell:
            message = f"{path} is a checkpoint of cell {facts['cell']}, not of {cell}"
            raise OrchError(message, hint=f"move {folder} away; the cell then starts from step 0")
        _fill(path, tensors)
        return facts
    return None


def _fill(path: Path, tensors: dict[str, Tensor]) -> None:
    reader = CheckpointReader(path)
    entries = reader.read_metadata().state_dict_metadata.items()
    saved = {(name, entry.size) for name, entry in entries if isinstance(entry, TensorStorageMetadata)}
    other = saved ^ {(name, tensor.shape) for name, tensor in tensors.items()}
    if other:
        message = f"{path} was written by another version of the code: {min(other)[0]} differs"
        raise OrchError(message, hint=f"move {path.parent} away; the cell then starts from step 0")
    with _plain_errors():
        load(tensors, storage_reader=reader, no_dist=distributed.world() == 1)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the first process's original error, such as a full disk; hide the warning about one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        try:
            yield
        except CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from None


def _states(folder: Path) -> list[str]:
    """Names of the states, newest first."""
    return sorted((path.name for path in folder.glob("[0-9]*") if path.name.isdigit()), reverse=True)


def _publish(hidden: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        hidden.rename(path)
    except OSError:
        if not path.exists():  # another run of the trunk has published the same state meanwhile
            raise


def _set_aside(path: Path) -> None:
    shutil.rmtree(path.with_suffix(".damaged"), ignore_errors=True)
    with suppress(FileNotFoundError):  # another run of the trunk has set it aside
        path.rename(path.with_suffix(".damaged"))


def _digests(folder: Path, pattern: str) -> dict[str, str]:
    return {path.name: _digest(path) for path in folder.glob(pattern)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST)).hexdigest()


def _is_intact(folder: Path, parts: dict[str, str]) -> bool:
    """Whether this process's share of the parts has the recorded digests."""
    mine = list(parts.items())[distributed.rank() :: distributed.world()]
    try:
        return all(_digest(folder / name) == digest for name, digest in mine)
    except FileNotFoundError:
        return False


def _write_manifest(folder: Path, facts: dict[str, Any], parts: list[dict[str, str]]) -> None:
    document = {"facts": facts, "parts": {name: digest for some in parts for name, digest in some.items()}}
    payload = json.dumps(document).encode()
    digest = hashlib.blake2b(payload, digest_size=DIGEST).hexdigest().encode()
    write_atomic(folder / MANIFEST, digest + b"\n" + payload)


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, or None if it is missing or damaged."""
    try:
        digest, _, payload = (folder / MANIFEST).read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if hashlib.blake2b(payload, digest_size=DIGEST).hexdigest().encode() != digest:
        return None
    document: dict[str, Any] = json.loads(payload)
    return document


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    from safetensors.torch import save

    write_atomic(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


class CheckpointReader(FileSystemReader):
    """PyTorch's reader of a checkpoint's folder, for an index that nobody vouches for."""

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        """The index; raises OrchError if it contains anything but an index of files in the same folder."""
        path = Path(self.path) / INDEX
        try:
            with path.open("rb") as file:
                metadata: Metadata = _IndexUnpickler(file).load()
            names = [info.relative_path for info in metadata.storage_data.values()]
        except (
            pickle.UnpicklingError,
            EOFError,
            ValueError,
            TypeError,
            AttributeError,
            LookupError,
        ) as error:
            raise _refused(path, str(error)) from error
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise _refused(path, f"it refers to the file {outside[0]!r}")
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


class _IndexUnpickler(pickle.Unpickler):
    """An unpickler that knows only the types of an index."""

    def find_class(self, module: str, name: str) -> Any:
        """The type of that name; raises UnpicklingError for all others."""
        allowed = name in ALLOWED.get(module, ())
        if not allowed and not (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            message = f"it contains {module}.{name}"
            raise pickle.UnpicklingError(message)
        return super().find_class(module, name)


def _refused(path: Path, why: str) -> OrchError:
    message = f"{path} is not the index of a checkpoint: {why}"
    return OrchError(message, hint=f"move {path.parents[1]} away; the cell then starts from step 0")
