"""Planning speed: a million cells (ten with --ten), a diff of a million, against one-cell-at-a-time Python.

The ratio is to `Cell.id` and `price` per cell in plain Python, extrapolated from 2,000 cells in the same run.
Run: python tests/bench/bench_plan.py [--ten]
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GRID = """\
study: bench
sources:
  a: {path: a.npz, modality: ct, images: 20000000}
  b: {path: b.npz, modality: mr, images: 30000000}
  c: {path: c.npz, modality: us, images: 10000000}
tasks:
  t: {path: t.npz, kind: multi-class, classes: 4, train: 1000, val: 100, test: 100}
mixes:
  all: [a, b, c]
  ab: [a, b]
  ac: [a, c]
  bc: [b, c]
  a: [a]
axes:
  model: [{family: f, width: [64, 128, 192, 256, 384, 512, 768, 1024], depth: [4, 6, 8, 12, 24]}]
  algorithm: [mae@1, moco-v3@1]
  images: {log_space: [1000, 10000000, 25]}
  mix: [all, ab, ac, bc, a]
  seed: SEEDS
  resolution: [224]
  patch: [16, 32]
  samples_seen: {log_space: [1e6, 1e9, 5]}
training: {batch: 1024, precision: bf16}
probes: {tasks: [t]}
cluster: {device: H100}
"""


def measured(seeds: int) -> dict[str, float]:
    """Seconds of each stage in this process, for 100,000 cells a seed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "grid.yaml").write_text(GRID.replace("SEEDS", str(list(range(seeds)))))
        began, cpu = time.perf_counter(), time.process_time()
        from orch_core.study.draft import draft, save

        imported = time.perf_counter()
        plan, study, checked = draft(folder / "grid.yaml", folder / "study")
        drafted = time.perf_counter()
        save(plan, study, checked)
        ended = time.perf_counter()
        found = {
            "cells": plan.frame.height,
            "import_s": imported - began,
            "enumerate_price_identify_check_s": drafted - imported,
            "parquet_s": ended - drafted,
            "total_s": ended - began,
            "cpu_s": time.process_time() - cpu,
            "plan_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
            "bytes_a_cell": (study.root / "plan.parquet").stat().st_size / plan.frame.height,
        }
        if seeds <= 10:
            found |= against_itself(plan.frame, folder, seeds) | one_at_a_time(plan.frame)
    return found | {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def against_itself(frame, folder: Path, seeds: int) -> dict[str, float]:
    from orch.planning.diff import diff
    from orch_core.grid.cells import enumerate_cells
    from orch_core.grid.check import read_grid

    found = {}
    shifted = GRID.replace("SEEDS", str(list(range(1, seeds + 1))))
    for name, text in (
        ("diff_shifted_s", shifted),
        (
            "diff_all_changed_s",
            GRID.replace("SEEDS", str(list(range(seeds)))).replace("batch: 1024", "batch: 512"),
        ),
    ):
        (folder / "other.yaml").write_text(text)
        other = enumerate_cells(read_grid(folder / "other.yaml"))
        began = time.perf_counter()
        diff(frame, other)
        found[name] = time.perf_counter() - began
    return found


def one_at_a_time(frame) -> dict[str, float]:
    from orch_core.cost import price
    from orch_core.grid.columns import cell_of

    rows = frame.sample(2000, seed=0).to_dicts()
    began = time.perf_counter()
    for row in rows:
        cell = cell_of(row)
        assert cell.id == row["id"]
        price(cell)
    return {"python_s": (time.perf_counter() - began) / len(rows) * frame.height}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(measured(int(sys.argv[2]))))
        return
    for seeds in (10, 100) if "--ten" in sys.argv else (10,):
        command = [sys.executable, __file__, "--child", str(seeds)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for name, value in found.items():
            print(f"{name:36} {value:>14,.3f}")
        if "python_s" in found:
            print(
                f"{'one cell at a time / this':36} {found['python_s'] / found['enumerate_price_identify_check_s']:>14,.0f}x"
            )


if __name__ == "__main__":
    main()
