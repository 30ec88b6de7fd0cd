"""A cell's images: the pretraining set, the held-out set, and batches in the order of the seed.

`pretraining_set(cell)` is a `Batch` in memory if all sources are npz files, and a `Packed`, which reads and
decodes on demand, if one is a pack folder. Both have `len` and `rows(indices) -> Batch`. `batches` yields
every step's batch of either, and reads a `Packed` ahead in worker processes.
"""

from orch_core.learn.data.batch import Batch, as_tensor, chunks_of, to_device
from orch_core.learn.data.loader import batches, workers_here
from orch_core.learn.data.packed import Packed
from orch_core.learn.data.sets import held_out_set, pretraining_set

__all__ = [
    "Batch",
    "Packed",
    "as_tensor",
    "batches",
    "chunks_of",
    "held_out_set",
    "pretraining_set",
    "to_device",
    "workers_here",
]
