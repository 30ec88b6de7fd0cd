"""Resumable state on disk: written whole or not at all, the last two kept, a damaged one passed over.

A file is the blake2b-128 of its payload, then the payload (torch.save of tensors and numbers).
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from orch_core.errors import OrchError
from orch_core.record import write_atomic

DIGEST = 16
KEPT = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep: int | None = KEPT) -> Path:
    """Write the state after `step` steps, then remove all but the last `keep` (None: none)."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{step:012d}.pt"
    write_atomic(path, hashlib.blake2b(payload, digest_size=DIGEST).digest() + payload)
    for old in _files(folder)[keep:] if keep else ():
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(
    folder: Path, cell: str, device: torch.device, *, last: int | None = None
) -> dict[str, Any] | None:
    """The newest intact state of the cell after at most `last` steps, or None; raises OrchError where it is another's."""
    for path in _files(folder):
        if last is not None and int(path.stem) > last:
            continue
        data = path.read_bytes()
        digest, payload = data[:DIGEST], data[DIGEST:]
        if hashlib.blake2b(payload, digest_size=DIGEST).digest() != digest:
            path.rename(path.with_suffix(".damaged"))
            continue
        state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
        if state["cell"] != cell:
            message = f"{path} is a checkpoint of cell {state['cell']}, not of {cell}"
            raise OrchError(message, hint=f"move {folder} away; the cell then starts from step 0")
        return state
    return None


def _files(folder: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    return sorted(folder.glob("*.pt"), key=lambda path: path.name, reverse=True)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    from safetensors.torch import save

    write_atomic(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
    path.chmod(0o644)
