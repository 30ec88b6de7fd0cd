"""A cell's images: the pretraining set, the held-out set, and batches of them in the order of the seed.

`pretraining_set(cell)` is a `Batch` (everything in memory, where all sources are npz files) or a `Packed` (read and
decoded when asked for, where one is a pack folder). Both have `len` and `rows(indices) -> Batch`; `batches` gives every
step's batch of either, and reads ahead in worker processes for the second.
"""

from orch_core.learn.data.batch import Batch, as_tensor, chunks_of, to_device
from orch_core.learn.data.loader import batches, workers_here
from orch_core.learn.data.packed import Packed
from orch_core.learn.data.sets import ORIENTATION_FREE, held_out_set, pretraining_set

__all__ = [
    "ORIENTATION_FREE",
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
