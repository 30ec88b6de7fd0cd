"""Multi-query cross-attention on the patch tokens of a frozen encoder (arXiv 2506.10178, ICLR 2026).

Each of several learned queries attends to the tokens themselves (without a projection of keys), and pools one
share of the values' dimensions; the shares together are normalised and classified by a linear layer.
"""

from __future__ import annotations

from orch_core.protocols.protocol import ProbeCost, Protocol, TaskSize
from orch_core.recipes.base import Constant


def cost(size: TaskSize) -> ProbeCost:
    """All epochs, as if it never stopped early, and a pass of the encoder whose patch tokens are kept.

    A query costs 2 FLOPs per token and unit of width for its score and 2 for its pool; the backward pass
    costs twice the forward pass. The values' projection, on pooled tokens, is left out: 2 per width squared
    of an image.
    """
    images = int(PROTOCOL.value("epochs")) * (3 * size.train + size.val)
    return ProbeCost(
        token_flops=4 * int(PROTOCOL.value("queries")) * images,
        solver_flops=2 * size.classes * images,
        encoder_images=size.images,
    )


PROTOCOL = Protocol(
    name="attentive",
    version=1,
    summary="multi-query cross-attention on patch tokens, stopped early by the loss on validation",
    display="attentive probe",
    cost=cost,
    constants={
        "queries": Constant(
            value=32,
            source="billpsomas/efficient-probing, poolings/ep.py; for other widths the common divisor",
        ),
        "query_init": Constant(value=0.02, source="standard deviation of the queries: poolings/ep.py"),
        "init": Constant(
            value=0.01,
            source="standard deviation of the linear layer: MAE's main_linprobe.py, which it follows",
        ),
        "rate": Constant(value=1e-3, source="ours: AdamW in place of LARS, whose batches are 4,096 images"),
        "decay": Constant(value=0.01, source="ours: AdamW's default in PyTorch"),
        "batch": Constant(value=128, source="ours: as `biovfm-linear@1`"),
        "epochs": Constant(value=60, source="ours: at most; the paper's are 90 on ImageNet"),
        "warmup": Constant(value=5, source="epochs: MAE's linear probe has 10 of 90"),
        "patience": Constant(
            value=10, source="ours: epochs without a smaller loss on validation, after which it stops"
        ),
    },
)
