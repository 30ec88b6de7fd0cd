"""A study of a corpus whose scaling exponent is known: does the whole path find it?

usage: python tests/bench/bench_planted.py [FOLDER]      about 11 CPU minutes

Every image shows one of 4,000 random patterns, pattern k with probability proportional to k^-(1 + A). An autoencoder learns the
patterns that its D pretraining images show and can say nothing of the others, so that its held-out loss is in proportion to
the probability of a pattern that is not among them,

    sum over k of p_k (1 - p_k)^D  ~  D^(-A / (1 + A))

(Good 1953 for the sum; Hutter 2021, arXiv 2102.04074, for the exponent; Michaud et al. 2023, arXiv 2303.13506, for networks.)
With A = 1 the planted exponent is -1/2. Four corpora are drawn apart, pretraining and held-out images alike; orch plans,
trains and fits as for any study, and the interval, clustered by corpus, must hold -1/2. Last run: -0.501 [-0.584, -0.423].
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from orch_analysis.tables.study_tables import read_results
from orch_core.study.folder import Study

A, PATTERNS, SIDE = 1.0, 4000, 16
SIZES, CORPORA = (16, 64, 256), "abcd"
GRID = """\
study: planted
sources: {{ {sources} }}
mixes: {{ {mixes} }}
axes:
  model: {{name: w64, width: 64, depth: 3, heads: 2}}
  algorithm: mae@1
  images: {sizes}
  mix: {names}
  resolution: {side}
  patch: 4
  samples_seen: 192000
training: {{batch: 64}}
overrides:
  mae@1: {{lr: 0.003, mask_ratio: 0.5, norm_pixels: false, crop_min: 1.0, decoder_depth: 1}}
probes: {{tasks: [a]}}
"""


def corpus(path: Path, patterns: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> None:
    """An npz in MedMNIST's format; noise of three grey levels makes every image its own."""
    arrays = {}
    for split, count in (("train", 2 * max(SIZES)), ("val", 512), ("test", 16)):
        shown = rng.choice(PATTERNS, count, p=share)
        noise = rng.integers(-3, 4, (count, SIDE, SIDE))
        arrays[f"{split}_images"] = np.clip(patterns[shown] + noise, 0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = (shown % 2)[:, None].astype(np.uint8)
    np.savez(path, **arrays)


def write_grid(folder: Path) -> tuple[Path, np.ndarray]:
    """The study's grid and corpora, and the patterns' probabilities."""
    rng = np.random.default_rng(0)
    share = np.arange(1, PATTERNS + 1) ** -(1 + A)
    share /= share.sum()
    half = rng.integers(0, 256, (PATTERNS, SIDE, SIDE // 2))  # mirrored, for training flips images
    patterns = np.concatenate([half, half[:, :, ::-1]], axis=2)
    for name in CORPORA:
        corpus(folder / f"{name}.npz", patterns, share, rng)
    grid = folder / "planted.yaml"
    grid.write_text(
        GRID.format(
            sources=", ".join(f"{name}: {{path: {name}.npz, modality: {name}}}" for name in CORPORA),
            mixes=", ".join(f"{name}: [{name}]" for name in CORPORA),
            names=list(CORPORA),
            sizes=list(SIZES),
            side=SIDE,
        )
    )
    return grid, share


def orch(*words: object) -> str:
    run = subprocess.run(["orch", *map(str, words)], check=True, stdout=subprocess.PIPE, text=True)
    return run.stdout


def main(folder: Path) -> None:
    grid, share = write_grid(folder)
    study = folder / "study"
    orch("plan", grid, "--study", study)
    orch("launch", study, "--max-parallel", 1)
    runs = read_results(Study(study)).pretraining
    table = folder / "runs.csv"
    runs.select("images", "heldout_loss", corpus="mix").write_csv(table)
    words = ("--law", "power", "--map", "images=images", "value=heldout_loss", "--cluster", "corpus")
    [fit] = json.loads(orch("fit-laws", table, *words, "--out", folder / "laws", "--json"))["fits"]
    low, high = fit["intervals"]["slope"]
    mass = [float((share * (1 - share) ** size).sum()) for size in SIZES]
    exact = np.polyfit(np.log(SIZES), np.log(mass), 1)[0]
    seconds = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    print(f"planted   {-A / (1 + A):.3f} ({exact:.3f} over these sizes, by the sum)")
    print(
        f"recovered {fit['estimates']['slope']:.3f} [{low:.3f}, {high:.3f}]; {seconds / 60:.1f} CPU minutes"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as place:
            main(Path(place))
