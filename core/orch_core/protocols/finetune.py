"""Fine-tuning of the encoder with a linear layer on its mean patch token (He et al. 2022, MAE, table 9).

It differs from MAE's in that images are not augmented, mixed or relabelled (RandAugment, mixup, cutmix, label
smoothing): their strengths are chosen for photographs. The epoch of the smallest loss on validation is
tested.
"""

from __future__ import annotations

from orch_core.protocols.protocol import ProbeCost, Protocol, TaskSize
from orch_core.recipes.base import Constant

SOURCE = "He et al. 2022 (MAE), table 9"


def cost(size: TaskSize) -> ProbeCost:
    """By epoch, three forward passes' work on train and one on val; at the end val and test."""
    epochs = int(PROTOCOL.value("epochs"))
    return ProbeCost(encoder_images=epochs * (3 * size.train + size.val) + size.val + size.test)


PROTOCOL = Protocol(
    name="finetune",
    version=1,
    summary="the whole encoder trained with layer-wise rates",
    display="fine-tuning",
    cost=cost,
    constants={
        "rate": Constant(value=1e-3, source=f"{SOURCE}: base rate, times batch / 256 (Goyal et al. 2017)"),
        "layer_decay": Constant(value=0.75, source=f"{SOURCE}: layer-wise (Clark et al. 2020; BEiT)"),
        "decay": Constant(value=0.05, source=f"{SOURCE}: of matrices; not of biases, norms and tokens"),
        "drop_path": Constant(value=0.1, source=f"{SOURCE}: for ViT-B and L"),
        "batch": Constant(
            value=128, source="ours: tasks have fewer images than ImageNet, for which it is 1,024"
        ),
        "epochs": Constant(value=50, source=f"{SOURCE}: for ViT-L and H"),
        "warmup": Constant(value=5, source=f"{SOURCE}: epochs"),
        "init": Constant(
            value=2e-5,
            source="standard deviation of the linear layer: facebookresearch/mae, main_finetune.py",
        ),
    },
)
