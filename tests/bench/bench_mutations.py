"""Plants one bug at a time in a copy of orch_core and counts how many the conformance tests catch.

usage: python tests/bench/bench_mutations.py [FIRST LAST]

Each mutant is a fork of one process that has imported torch and timm but nothing of ours; it runs test_objectives,
test_invariants and test_augment against the copy, and stops at the first failure.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import timm.models.vision_transformer  # noqa: F401
import torch

ROOT = Path(__file__).parents[2]
TESTS = [str(ROOT / "tests" / "core" / f"test_{name}.py") for name in ("objectives", "invariants", "augment")]
MAE, MOCO = "learn/objectives/mae.py", "learn/objectives/moco_v3.py"
DINO, JEPA, SIM = "learn/objectives/dinov2.py", "learn/objectives/i_jepa.py", "learn/objectives/simmim.py"
ENC, AUG, RND = "learn/encoders.py", "learn/augment.py", "learn/randomness.py"
SCHED, MASKS, SUP = "learn/schedule.py", "learn/masks.py", "learn/objectives/supervised.py"

MUTANTS = [
    (MAE, "target = pick(patches, masked)", "target = pick(patches, masked.flip(1))"),
    (MAE, "order[:, :keep], order[:, keep:]", "order[:, keep:], order[:, :keep]"),
    (MAE, "patches.var(-1, keepdim=True)", "patches.var(-1, keepdim=True, unbiased=False)"),
    (MAE, "+ 1e-6).sqrt()", "+ 1e-2).sqrt()"),
    (MAE, "(patches - mean) /", "patches /"),
    (MAE, ".square().mean()", ".abs().mean()"),
    (MAE, "pick(grid[:, 1:], masked)", "pick(grid[:, 1:], masked.flip(1))"),
    (MAE, "pick(grid[:, 1:], seen)", "pick(grid[:, :-1], seen)"),
    (MAE, "self.norm(self.blocks(torch.cat([visible, hidden], 1)))", "self.blocks(torch.cat([visible, hidden], 1))"),
    (MAE, "eps=1e-6)", "eps=1e-5)"),
    (MAE, "encode(self.encoder, patches, seen)", "encode(self.encoder, patches)"),
    (MAE, "if self.norm_pixels:", "if not self.norm_pixels:"),
    ("recipes/mae.py", "patches * (1 - mask_ratio)", "patches * mask_ratio"),
    (ENC, "permute(0, 2, 4, 1, 3, 5)", "permute(0, 2, 4, 3, 5, 1)"),
    (ENC, "permute(0, 2, 4, 1, 3, 5)", "permute(0, 4, 2, 1, 3, 5)"),
    (ENC, "10000 ** (", "1000 ** ("),
    (ENC, "[phase.sin(), phase.cos()]", "[phase.cos(), phase.sin()]"),
    (ENC, "torch.zeros(1, width, dtype=torch.float64), grid", "torch.ones(1, width, dtype=torch.float64), grid"),
    (ENC, "(class_token + position[:, :1])", "class_token"),
    (ENC, "encoder.norm(tokens)", "tokens"),
    (ENC, 'mode="bicubic"', 'mode="bilinear"'),
    (ENC, "patches, grid = pick(patches, seen), pick(grid, seen)", "patches, grid = pick(patches, seen), grid[:, : seen.shape[1]]"),
    (MOCO, "contrast(queries[0], keys[1]", "contrast(queries[0], keys[0]"),
    (MOCO, "* (2 * temperature)", "* temperature"),
    (MOCO, "keys.T / temperature", "keys.T * temperature"),
    (MOCO, "self.teacher_projector(encode(self.teacher_encoder, view)", "self.projector(encode(self.teacher_encoder, view)"),
    (MOCO, "encode(self.teacher_encoder, view)", "encode(self.encoder, view)"),
    (MOCO, "sharding.local([*student]), 1 - momentum)", "sharding.local([*student]), momentum)"),
    (MOCO, "functional.normalize(queries, dim=1)", "queries"),
    (MOCO, "BatchNorm(b, affine=False)", "BatchNorm(b)"),
    (MOCO, "nn.ReLU(inplace=True)", "nn.GELU()"),
    (MOCO, "self.predictor(self.projector(encode(self.encoder, view)[:, 0]))", "self.projector(encode(self.encoder, view)[:, 0])"),
    (MOCO, "before_step=before_step", "after_step=before_step"),
    (DINO, "if s != t", "if s % 2 != t"),
    (DINO, "if s != t", ""),
    (DINO, "(whole - self.class_centre)", "(whole + self.class_centre)"),
    (DINO, "(parts - self.patch_centre)", "(parts - self.class_centre)"),
    (DINO, "self.patch_centre) / self.temperature", "self.patch_centre) * self.temperature"),
    (DINO, "/ student_temperature", "* student_temperature"),
    (DINO, "functional.normalize(self.prototypes, dim=1)", "self.prototypes"),
    (DINO, "* weight).sum() / len(crops)", ").sum() / len(crops)"),
    (DINO, "* weight).sum() / len(crops)", "* weight).sum()"),
    (DINO, "for part in classes.chunk(GLOBALS)", "for part in classes.chunk(1)"),
    (DINO, "mine + shift, -1)", "mine + shift, 1)"),
    (DINO, "replaced=masked, token=self.mask_token", "replaced=~masked, token=self.mask_token"),
    (DINO, "1 - float(self.constants[\"centre_momentum\"])", "float(self.constants[\"centre_momentum\"])"),
    (DINO, "tokens = encode(self.teacher_encoder, patchify(crops, self.patch))", "tokens = encode(self.encoder, patchify(crops, self.patch))"),
    (DINO, "depth + 1 - layer)", "layer)"),
    (DINO, "        module.move_centres()\n", ""),
    (DINO, "cosine(progress.late, float(constants[\"momentum\"]), 1.0)", "float(constants[\"momentum\"])"),
    (JEPA, "encode(self.teacher_encoder, patches)[:, 1:]", "encode(self.teacher_encoder, patches)[:, :-1]"),
    (JEPA, "whole = functional.layer_norm(whole, whole.shape[-1:])", "whole = whole * 1.0"),
    (JEPA, "smooth_l1_loss", "mse_loss"),
    (JEPA, "encode(self.encoder, patches, seen)[:, 1:], seen", "encode(self.encoder, patches)[:, 1 : 1 + seen.shape[1]], seen"),
    (JEPA, "sharding.local([*student]), 1 - momentum)", "sharding.local([*student]), momentum)"),
    (MASKS, "np.put_along_axis(key, chosen", "np.put_along_axis(key, 0 * chosen"),
    (MASKS, "(counts - flat.sum(1))[:, None]", "counts[:, None]"),
    (SIM, "torch.zeros(patches.shape[:2]", "torch.ones(patches.shape[:2]"),
    (SIM, ".abs().mean()", ".square().mean()"),
    (SIM, "[:, 1:]\n", "[:, :-1]\n"),
    (SUP, "[:, 1:].mean(1)", "[:, 0]"),
    (SCHED, "1 - math.sqrt(self._fallen(step))", "1 - self._fallen(step)"),
    (SCHED, "self._fallen(step) if self.constants[\"cooldown\"] else whole", "whole"),
    (ENC, " / (1 - self.rate)", ""),
    (ENC, "uniform >= self.rate", "uniform < self.rate"),
    (ENC, "2 * index : 2 * index + 2", "index : index + 2"),
    (SCHED, "parameter.ndim > 1", "parameter.ndim > 0"),
    (SCHED, "peak * (step + 1) / self.warm", "peak"),
    (SCHED, "if group[\"decays\"] else 0.0", "if not group[\"decays\"] else 0.0"),
    (AUG, "< 0.5)[:, ::-1]", "< 0.5)"),
    (AUG, "*= batch.orientation_free", "*= 1"),
    (AUG, "np.sqrt(area / ratio)), np.minimum(1, np.sqrt(area * ratio))", "area / ratio), np.minimum(1, area * ratio)"),
    (AUG, "(steps + 0.5) * scale", "steps * scale"),
    (AUG, "(1 - 2 * solar)", "(2 * solar - 1)"),
    (AUG, ".where(lines == inside, 0)", ""),
    (AUG, "4 * view.blur[1]", "1 * view.blur[1]"),
    (AUG, "images.clamp_(max=1)", "images"),
    (AUG, "[columns, *blur]", "[*blur, columns]"),
    (RND, "counter=[0, 0, 0, counter]", "counter=[counter, 0, 0, 0]"),
    (RND, "{seed}|{epoch}|{r}", "{seed}|{r}"),
    (RND, "left ^ (_mix(right + key) & low)", "left & (_mix(right + key) & low)"),
]  # fmt: skip


def caught(file: str, old: str, new: str, copy: Path) -> bool:
    """Whether the tests fail on a copy with `old` replaced by `new`."""
    target = copy / "orch_core" / file
    source = (ROOT / "core" / "orch_core" / file).read_text()
    if old not in source:
        message = f"{file} no longer holds {old!r}: mend the mutant"
        raise SystemExit(message)
    target.write_text(source.replace(old, new, 1))
    child = os.fork()
    if not child:
        sys.path.insert(0, str(copy))
        sys.dont_write_bytecode = True
        with (
            Path(os.devnull).open("w") as silent,
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
        ):
            code = pytest.main([*TESTS, "-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT)])
        os._exit(min(int(code), 100))
    status = os.waitpid(child, 0)[1]
    target.write_text(source)
    return status != 0


def main() -> None:
    chosen = slice(*[int(text) for text in sys.argv[1:3]]) if len(sys.argv) > 2 else slice(None)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copytree(
            ROOT / "core" / "orch_core", copy / "orch_core", ignore=shutil.ignore_patterns("__pycache__")
        )
        print(
            f"unmutated: {'fails' if caught(*MUTANTS[0][:2], MUTANTS[0][1], copy) else 'passes'}", flush=True
        )
        results = []
        for index, (file, old, new) in list(enumerate(MUTANTS))[chosen]:
            results.append(caught(file, old, new, copy))
            print(
                f"{index:3} {'caught ' if results[-1] else 'MISSED '} {file}: {old!r} -> {new!r}", flush=True
            )
    print(f"{sum(results)} of {len(results)} caught ({sum(results) / len(results):.0%})")


if __name__ == "__main__":
    main()
