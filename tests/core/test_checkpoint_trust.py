"""A checkpoint from somebody else is read without executing anything in it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from orch_core.errors import OrchError
from orch_core.learn.checkpoint import (
    DIGEST,
    INDEX,
    MANIFEST,
    CheckpointReader,
    load_checkpoint,
    save_checkpoint,
)


class Calls:
    """Pickled, it is a call of a function."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def sealed(state: Path) -> None:
    """Give a state the manifest that its files would have, as somebody who changed them can."""
    _, _, payload = (state / MANIFEST).read_bytes().partition(b"\n")
    document = json.loads(payload)
    document["parts"] = {
        name: hashlib.blake2b((state / name).read_bytes(), digest_size=DIGEST).hexdigest()
        for name in document["parts"]
    }
    payload = json.dumps(document).encode()
    digest = hashlib.blake2b(payload, digest_size=DIGEST).hexdigest().encode()
    (state / MANIFEST).write_bytes(digest + b"\n" + payload)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    return save_checkpoint(folder, {"x": torch.arange(5.0)}, {"cell": "a", "step": 3})


def loaded(state: Path) -> torch.Tensor:
    tensors = {"x": torch.zeros(5)}
    assert load_checkpoint(state.parent, "a", tensors) is not None
    return tensors["x"]


@pytest.mark.parametrize("way", ["os.system", "exec", "torch.load"])
def test_a_pickle_that_calls_a_function_is_refused_and_does_nothing(
    state: Path, tmp_path: Path, way: str
) -> None:
    made = tmp_path / "made"
    calls = {
        "os.system": Calls(os.system, f"touch {made}"),
        "exec": Calls(exec, f"__import__('pathlib').Path({str(made)!r}).touch()"),
        "torch.load": Calls(torch.load, str(made)),
    }
    (state / INDEX).write_bytes(pickle.dumps(calls[way]))
    sealed(state)
    with pytest.raises(OrchError, match="it contains") as caught:
        loaded(state)
    assert "move" in caught.value.hint
    assert not made.exists()
    if way in {"os.system", "exec"}:  # such a pickle is what the test says it is
        pickle.loads((state / INDEX).read_bytes())
        assert made.exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"\x80\x04", os.urandom(200), pickle.dumps([1, 2])])
def test_an_index_that_is_damaged_is_refused(state: Path, content: bytes) -> None:
    (state / INDEX).write_bytes(content)
    sealed(state)
    with pytest.raises(OrchError, match="is not the index of a checkpoint"):
        loaded(state)


def test_an_index_that_refers_to_files_elsewhere_is_refused(state: Path) -> None:
    metadata = CheckpointReader(state).read_metadata()
    next(iter(metadata.storage_data.values())).relative_path = "../../secret"
    (state / INDEX).write_bytes(pickle.dumps(metadata))
    sealed(state)
    with pytest.raises(OrchError, match="secret"):
        loaded(state)


def test_all_kinds_of_tensors_come_back(tmp_path: Path) -> None:
    kinds = (
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.int64,
        torch.uint8,
        torch.bool,
    )
    tensors = {str(kind): torch.ones(3, 2).to(kind) for kind in kinds}
    tensors["strided"] = torch.arange(6.0).reshape(2, 3).T
    save_checkpoint(tmp_path, tensors, {"cell": "a", "step": 1})
    found = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    assert load_checkpoint(tmp_path, "a", found) is not None
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
