"""The linear probe of the reference study (Liu et al. 2025, arXiv 2505.09329), with its constants.

It differs from JiarunLiu/BioVFM (evaluation/main.py, MyLitModel.py) in that the features are computed once:
the random rotation and crop of its training images are left out. A task with fewer training images than a
batch is one batch.
"""

from __future__ import annotations

from orch_core.protocols.protocol import ProbeCost, Protocol, TaskSize
from orch_core.recipes.base import Constant

SOURCE = "JiarunLiu/BioVFM, evaluation/MyLitModel.py"


def cost(size: TaskSize) -> ProbeCost:
    """A linear layer, by epoch: forward (2 FLOPs per weight) on train and val, backward (4) on train."""
    images = int(PROTOCOL.value("epochs")) * (3 * size.train + size.val)
    return ProbeCost(solver_flops=2 * size.classes * images)


PROTOCOL = Protocol(
    name="biovfm-linear",
    version=1,
    summary="linear layer on the mean patch token by AdamW, as the BioVFM study trains it",
    display="BioVFM's linear probe",
    cost=cost,
    constants={
        "rate": Constant(value=1e-2, source=f"{SOURCE}: lr"),
        "decay": Constant(value=0.0, source=f"{SOURCE}: weight_decay"),
        "batch": Constant(value=128, source=f"{SOURCE}: global_batch_size"),
        "epochs": Constant(value=100, source=f"{SOURCE}: num_epochs, with a cosine by epochs to 0"),
        "init": Constant(
            value=0.01,
            source="standard deviation of the weights: MAE's main_linprobe.py, which BioVFM follows",
        ),
    },
)
