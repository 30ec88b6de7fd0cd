"""Ratios of training and probing, each measured in one run on one thread, in CPU seconds.

usage: python tests/bench/bench_train.py

  augmentation   batched views against torchvision's v2 and PIL chains per image, 64 and 224 pixels
  measurement    share of one step that FlopCounterMode's single pass takes of a 160-step cell
  drawing        share of a step that augmentation and masks take
  bf16           step under autocast against fp32
  reference      MAE's gradient step against the usual formulation: shuffle by argsort, mask tokens appended, all tokens decoded
  probe          the whole path of strengths against scikit-learn's lbfgs, one strength after the other
"""

from __future__ import annotations

import math
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from sklearn.linear_model import LogisticRegression
from timm.models.vision_transformer import Block, VisionTransformer
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from learn_cells import TRAINED, make_cell, write_images

from orch_core.learn import MemoryPlan, pretraining
from orch_core.learn.augment import MEAN, STD, View, draw_view
from orch_core.learn.data import Batch
from orch_core.learn.ledger import measured_flops
from orch_core.learn.logistic import fit_path, problem
from orch_core.learn.randomness import generator
from orch_core.protocols.linear import strengths
from orch_core.recipes import constants


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median CPU seconds of a call."""
    work()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return float(np.median(times))


def chains(side: int) -> dict[str, tuple[View, list]]:
    """What one image at a time goes through elsewhere, and the view that is the same work (MAE's filter is wider)."""
    low, high = 0.1 * side / 224, 2.0 * side / 224
    plain = View(side=side, crop_min=0.2, crop_max=1.0)
    full = View(
        side=side, crop_min=0.08, crop_max=1, brightness=0.4, contrast=0.4, jitter_share=0.8, blur_share=1
    )
    jittered = [
        transforms.RandomResizedCrop(side, (0.08, 1)),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4)], p=0.8),
    ]
    bicubic = transforms.RandomResizedCrop(side, (0.2, 1), interpolation=InterpolationMode.BICUBIC)
    flip, normalise = transforms.RandomHorizontalFlip(), transforms.Normalize([MEAN] * 3, [STD] * 3)
    finish = [flip, transforms.ToTensor(), normalise]

    def pil_blur(image: Image.Image) -> Image.Image:  # as DINO's own code does it
        return image.filter(ImageFilter.GaussianBlur(random.uniform(low, high)))

    blur = transforms.GaussianBlur(2 * math.ceil(4 * high) + 1, (low, high))
    tensors = [v2.RandomResizedCrop(side, (0.2, 1)), flip, v2.ToDtype(torch.float32, scale=True), normalise]
    return {
        "crop and flip, torchvision's v2 on tensors": (plain, tensors),
        "crop and flip, MAE's own chain in PIL, bicubic": (plain, [bicubic, *finish]),
        "with jitter and blur, all in PIL": (full, [*jittered, pil_blur, *finish]),
        "with jitter and blur, PIL and torchvision's blur": (full, [*jittered, blur, *finish]),
    }


def augmentation() -> None:
    for side, count in ((64, 256), (224, 64)):
        images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
        pillow = [transforms.functional.to_pil_image(image) for image in images]
        batch = Batch(
            images=images, orientation_free=torch.zeros(count, dtype=torch.bool), labels=torch.zeros(count)
        )
        for name, (view, chain) in chains(side).items():
            single = transforms.Compose(chain)
            source = images if "tensors" in name else pillow

            def batched(view=view, batch=batch) -> object:
                return draw_view(batch, view, generator(0, "bench"))

            def one_by_one(single=single, source=source) -> object:
                return [single(image) for image in source]

            times = np.array([(seconds(batched, 3), seconds(one_by_one, 1)) for _ in range(7)])
            ours, theirs = np.median(times, axis=0)
            print(
                f"augmentation    {side:3} px, {name}: {np.median(times[:, 1] / times[:, 0]):.1f}x "
                f"({count / ours:,.0f} against {count / theirs:,.0f} images/s)"
            )


def training(folder: Path) -> None:
    path = write_images(folder / "bars.npz", train=512)
    for recipe in TRAINED:
        cell = make_cell(path, recipe, width=64, depth=4, heads=1, channels=3, batch=64, samples=64 * 160)
        run = pretraining._start(cell, folder / recipe, None, MemoryPlan())
        step = seconds(lambda run=run: pretraining._one_step(run))
        draw = seconds(lambda run=run: pretraining._first_inputs(run))
        count = seconds(lambda run=run: measured_flops(run.gradient_step, pretraining._first_inputs(run)), 2)
        half = pretraining._start(
            replace(cell, precision="bf16"), folder / f"{recipe}-half", None, MemoryPlan()
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
        run = pretraining._start(cell, folder / f"mae-{width}", None, MemoryPlan())
        inputs = pretraining._first_inputs(run)
        usual = UsualMae(width, 4, 1, int(values["decoder_width"]), int(values["decoder_depth"]))
        optimiser = torch.optim.AdamW(usual.parameters(), lr=1e-4)

        def step(usual=usual, optimiser=optimiser, images=inputs[0]) -> None:
            usual(images).backward()
            optimiser.step()
            optimiser.zero_grad()

        ours, theirs = (
            seconds(lambda run=run, inputs=inputs: run.gradient_step(3, inputs), 15),
            seconds(step, 15),
        )
        print(
            f"reference       MAE, width {width}, batch 64: {theirs / ours:.2f}x the usual formulation's step"
        )


def probing() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((2000, 128)) @ np.diag(np.geomspace(0.01, 1, 128)) * 5
    labels = (features @ rng.standard_normal((128, 8)) * 0.3 + rng.gumbel(size=(2000, 8))).argmax(1)
    features = (features - features.mean(0)) / features.std(0)
    path = strengths()[:10]
    task = problem(torch.from_numpy(features), torch.from_numpy(np.eye(8)[labels]), softmax=True)
    ours = seconds(lambda: fit_path(task, path), 3)
    theirs = seconds(
        lambda: [
            LogisticRegression(C=1 / (s * 2000), tol=1e-6, max_iter=2000).fit(features, labels) for s in path
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
