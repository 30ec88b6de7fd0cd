"""Resumable state on disk: written whole or not at all, the last two kept, a damaged one passed over.

A state is a folder, named after its step. Every process writes its part of the tensors there (torch.distributed.checkpoint),
so that none holds those of the others, and any number of processes can read them. A manifest holds what is not a tensor and
the blake2b-128 of every part.
"""

from __future__ import annotations

import hashlib
import json
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
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from orch_core.errors import OrchError
from orch_core.files import write_atomic
from orch_core.learn import distributed

DIGEST = 16
KEPT = 2
MANIFEST = "manifest"
"""One line with the digest of the rest, which is JSON."""


def training_state(module: nn.Module, optimiser: torch.optim.AdamW) -> dict[str, Tensor]:
    """Parameters, buffers, and counts and moments of parameters: not copies, divided where the module is.

    Moments that AdamW has not made yet are made as it makes them: zero.
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
    """Write a state, then remove all but the last `keep` (None: none). All processes call it.

    facts:   what is not a tensor, as JSON knows it, of rank 0; `cell` is whose state it is, `step` how many were taken
    scratch: where parts come together, this run's alone (`folder`)

    A state of that step that is there already stays. Raises OSError in all processes where one cannot write its part.
    """
    path, first = folder / f"{facts['step']:012d}", distributed.rank() == 0
    if distributed.from_first(path.exists()):
        return path
    # a new name each time: other nodes may remember what an old one meant
    hidden = (scratch or folder) / f".{path.name}.{distributed.from_first(uuid.uuid4().hex)}"
    try:
        with _plain_errors():
            save(tensors, storage_writer=FileSystemWriter(hidden), no_dist=distributed.world() == 1)
        parts = distributed.from_all(_digests(hidden, f"__{distributed.rank()}_*"))
        if first:
            _write_manifest(hidden, facts, [*parts, _digests(hidden, ".metadata")])
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
    """Fill `tensors` from the newest intact state of the cell after at most `last` steps. All processes call it.

    Returns its facts, or None where there is none. Each process checks a share of the parts, and all pass over what one finds
    damaged. What a killed save left is removed: here, not at the next save, for a process that should be dead may save once
    more. Raises OrchError where the state is another's, or of tensors of other names or shapes.
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
    reader = FileSystemReader(path)
    entries = reader.read_metadata().state_dict_metadata.items()
    saved = {(name, entry.size) for name, entry in entries if isinstance(entry, TensorStorageMetadata)}
    other = saved ^ {(name, tensor.shape) for name, tensor in tensors.items()}
    if other:
        message = f"{path} is of another version of the code: it does not hold the same {min(other)[0]}"
        raise OrchError(message, hint=f"move {path.parent} away; the cell then starts from step 0")
    with _plain_errors():
        load(tensors, storage_reader=reader, no_dist=distributed.world() == 1)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """The first process's error as it was, such as a full disk's; no warning that a process is alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        try:
            yield
        except CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from None


def _states(folder: Path) -> list[str]:
    """Names of the states, the newest first."""
    return sorted((path.name for path in folder.glob("[0-9]*") if path.name.isdigit()), reverse=True)


def _publish(hidden: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        hidden.rename(path)
    except OSError:
        if not path.exists():  # another run has left the same state of a trunk meanwhile
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
    """Whether the own share of the parts is as it was written."""
    own = list(parts.items())[distributed.rank() :: distributed.world()]
    try:
        return all(_digest(folder / name) == digest for name, digest in own)
    except FileNotFoundError:
        return False


def _write_manifest(folder: Path, facts: dict[str, Any], parts: list[dict[str, str]]) -> None:
    document = {"facts": facts, "parts": {name: digest for some in parts for name, digest in some.items()}}
    payload = json.dumps(document).encode()
    digest = hashlib.blake2b(payload, digest_size=DIGEST).hexdigest().encode()
    write_atomic(folder / MANIFEST, digest + b"\n" + payload)


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, or None where it is missing or damaged."""
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
