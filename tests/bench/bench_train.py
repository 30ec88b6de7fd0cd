"""Ratios of training and probing, each measured in one run on one thread, in CPU seconds.

usage: python tests/bench/bench_train.py

  augmentation   batched views against the same crop and flip by torchvision per image, 64 pixels
  measurement    share of one step that FlopCounterMode's single pass takes of a 160-step cell
  drawing        share of a step that augmentation and masks take
  bf16           step under autocast against fp32
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
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from learn_cells import TRAINED, make_cell, write_images

from orch_core.learn import Economies, pretraining
from orch_core.learn.augment import View, draw_view
from orch_core.learn.data import Batch
from orch_core.learn.ledger import measured_flops
from orch_core.learn.logistic import STRENGTHS, fit_path, problem
from orch_core.learn.randomness import generator


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
        training(Path(folder))
