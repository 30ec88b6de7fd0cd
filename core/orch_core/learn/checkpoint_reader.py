"""Reading a checkpoint without executing anything in it: it may be part of a study from somebody else.

PyTorch keeps the index of a checkpoint, `.metadata`, as a pickle, and a pickle can call any function. This reader allows
only the types that an index consists of. The tensors are read by PyTorch with `weights_only=True`.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from orch_core.errors import OrchError

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
