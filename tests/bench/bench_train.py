"""Ratios of training and probing, each measured in one run on one thread, in CPU seconds.

usage: python tests/bench/bench_train.py

  augmentation   batched views against the same crop and flip by torchvision per image, 64 pixels
  measurement    share of one step that FlopCounterMode's single pass takes of a 160-step cell
  drawing        share of a step that augmentation and masks take
  bf16           step under autocast against fp32
  reference      MAE's gradient step against the usual formulation: shuffle by argsort, mask tokens appended, all tokens decoded
  probe          the whole path of strengths against scikit-learn's lbfgs, one strength after the other
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from timm.models.vision_transformer import Block, VisionTransformer
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from learn_cells import TRAINED, make_cell, write_images

from orch_core.learn import Economies, pretraining
from orch_core.learn.augment import View, draw_view
from orch_core.learn.data import Batch
from orch_core.learn.ledger import measured_flops
from orch_core.learn.logistic import STRENGTHS, fit_path, problem
from orch_core.learn.randomness import generator
from orch_core.recipe import constants


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median CPU seconds of a call."""
    work()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return float(np.median(times))


def augmentation() -> None:
    images = torch.randint(0, 256, (256, 3, 64, 64), dtype=torch.uint8)
    batch = Batch(images=images, free=torch.zeros(256, dtype=torch.bool), labels=torch.zeros(256))
    view = View(side=64, crop_min=0.2, crop_max=1.0)
    single = v2.Compose([v2.RandomResizedCrop(64, (0.2, 1.0), antialias=True), v2.RandomHorizontalFlip()])
    ours = seconds(lambda: draw_view(batch, view, generator(0, "bench")))
    theirs = seconds(lambda: [single(image).float() / 255 for image in images])
    print(
        f"augmentation    64 px, crop and flip: {theirs / ours:.1f}x torchvision's per image ({256 / ours:,.0f} images/s)"
    )
    busy = View(
        side=64, crop_min=0.08, crop_max=1.0, brightness=0.4, contrast=0.4, jitter_share=0.8, blur_share=1.0
    )
    chain = v2.Compose(
        [
            v2.ToPILImage(),
            v2.RandomResizedCrop(64, (0.08, 1.0)),
            v2.ColorJitter(0.4, 0.4),
            v2.GaussianBlur(9, (0.1, 2.0)),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
        ]
    )
    ours = seconds(lambda: draw_view(batch, busy, generator(0, "bench")))
    theirs = seconds(lambda: [chain(image).float() / 255 for image in images])
    print(
        f"augmentation    64 px, with jitter and blur: {theirs / ours:.1f}x the PIL chain ({256 / ours:,.0f} images/s)"
    )


def training(folder: Path) -> None:
    path = write_images(folder / "bars.npz", train=512)
    for recipe in TRAINED:
        cell = make_cell(path, recipe, width=64, depth=4, heads=1, channels=3, batch=64, samples=64 * 160)
        run = pretraining._start(cell, folder / recipe, None, Economies())
        step = seconds(lambda run=run: pretraining._one_step(run))
        draw = seconds(lambda run=run: pretraining._first_inputs(run))
        count = seconds(lambda run=run: measured_flops(run.take, pretraining._first_inputs(run)), 2)
        half = pretraining._start(
            replace(cell, precision="bf16"), folder / f"{recipe}-half", None, Economies()
        )
        low = seconds(lambda half=half: pretraining._one_step(half))
        print(
            f"{recipe:<15} {64 / step:7,.0f} images/s; drawing {draw / step:.0%} of a step; "
            f"counting FLOPs {count / (160 * step):.1%} of 160 steps; bf16 {step / low:.2f}x"
        )


class UsualMae(torch.nn.Module):
    """Masked autoencoding as commonly written (He et al. 2022, algorithm in the appendix), on timm's own blocks."""

    def __init__(self, width: int, depth: int, heads: int, decoder: int, decoder_depth: int) -> None:
        super().__init__()
        shape = {"img_size": 28, "patch_size": 7, "in_chans": 3, "num_classes": 0, "class_token": True}
        self.encoder = VisionTransformer(**shape, embed_dim=width, depth=depth, num_heads=heads)
        self.embed = torch.nn.Linear(width, decoder)
        self.token = torch.nn.Parameter(torch.zeros(1, 1, decoder))
        self.places = torch.nn.Parameter(torch.zeros(1, 17, decoder))
        self.blocks = torch.nn.Sequential(
            *[Block(decoder, max(1, decoder // 32), qkv_bias=True) for _ in range(decoder_depth)]
        )
        self.norm, self.predict = torch.nn.LayerNorm(decoder), torch.nn.Linear(decoder, 147)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.encoder.patch_embed(images) + self.encoder.pos_embed[:, 1:]
        n, count, width = tokens.shape
        shuffle = torch.rand(n, count).argsort(1)
        restore, keep = shuffle.argsort(1), count // 4
        seen = tokens.gather(1, shuffle[:, :keep, None].expand(-1, -1, width))
        start = (self.encoder.cls_token + self.encoder.pos_embed[:, :1]).expand(n, -1, -1)
        encoded = self.embed(self.encoder.norm(self.encoder.blocks(torch.cat([start, seen], 1))))
        filled = torch.cat([encoded[:, 1:], self.token.expand(n, count - keep, -1)], 1)
        filled = filled.gather(1, restore[:, :, None].expand(-1, -1, filled.shape[2]))
        decoded = self.predict(self.norm(self.blocks(torch.cat([encoded[:, :1], filled], 1) + self.places)))[
            :, 1:
        ]
        patches = images.reshape(n, 3, 4, 7, 4, 7).permute(0, 2, 4, 3, 5, 1).reshape(n, 16, 147)
        target = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
        masked = torch.ones(n, count).scatter(1, shuffle[:, :keep], 0.0)
        return (((decoded - target) ** 2).mean(-1) * masked).sum() / masked.sum()


def reference(folder: Path) -> None:
    path = write_images(folder / "bars.npz", train=512)
    for width in (64, 128, 192):
        cell = make_cell(path, "mae@1", width=width, depth=4, heads=1, channels=3, batch=64, samples=64 * 160)
        values = constants(cell)
        run = pretraining._start(cell, folder / f"mae-{width}", None, Economies())
        inputs = pretraining._first_inputs(run)
        usual = UsualMae(width, 4, 1, int(values["decoder_width"]), int(values["decoder_depth"]))
        optimiser = torch.optim.AdamW(usual.parameters(), lr=1e-4)

        def step(usual=usual, optimiser=optimiser, images=inputs[0]) -> None:
            usual(images).backward()
            optimiser.step()
            optimiser.zero_grad()

        ours, theirs = seconds(lambda run=run, inputs=inputs: run.take(3, inputs), 15), seconds(step, 15)
        print(
            f"reference       MAE, width {width}, batch 64: {theirs / ours:.2f}x the usual formulation's step"
        )


def probing() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((2000, 128)) @ np.diag(np.geomspace(0.01, 1, 128)) * 5
    labels = (features @ rng.standard_normal((128, 8)) * 0.3 + rng.gumbel(size=(2000, 8))).argmax(1)
    features = (features - features.mean(0)) / features.std(0)
    strengths = STRENGTHS[:10]
    task = problem(torch.from_numpy(features), torch.from_numpy(np.eye(8)[labels]), softmax=True)
    ours = seconds(lambda: fit_path(task, strengths), 3)
    theirs = seconds(
        lambda: [
            LogisticRegression(C=1 / (s * 2000), tol=1e-6, max_iter=2000).fit(features, labels)
            for s in strengths
        ],
        1,
    )
    print(f"probe           10 strengths, 2,000 x 128, 8 classes: {theirs / ours:.1f}x scikit-learn's loop")


if __name__ == "__main__":
    torch.set_num_threads(1)
    augmentation()
    probing()
    with tempfile.TemporaryDirectory() as folder:
        reference(Path(folder))
        training(Path(folder))
