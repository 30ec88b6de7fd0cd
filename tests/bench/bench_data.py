"""What 21 million images cost before a pixel is decoded, and how fast packs are read. CPU seconds of one core.

usage: python tests/bench/bench_data.py [ROWS]

  order     index of ROWS (default 21,472,715: BioVFM-21M's) in a fresh process: group and image keys hashed, splits,
            leaks, nested stratified order, manifests of 0.1, 1, 10 and 100%; CPU and wall seconds, peak memory
  reads     random reads of stored images of 18 kB before decode, one core, checked and unchecked
  decode    the same with decode, for raw uint8 and JPEG of 224 pixels
  resume    the first batch of a run at step 1 against one at step 1,000,000
  packing   a folder of JPEG files into packs, one core, against decoding those files alone
  npz       a cell's images from npz, each array read once, against reading it whenever it is needed
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from orch_core.images import npz as images_module
from orch_core.packs.arrange import (
    arrange,
    joined,
    joint_fingerprint,
    modality,
    own_order,
    pack_bounds,
    ranks_at,
    subsets,
)
from orch_core.packs.decode import decode
from orch_core.packs.gather import SCHEMA, Settings, Spec
from orch_core.packs.layout import ALL
from orch_core.packs.pack import PackOptions, pack
from orch_core.packs.read import open_packs, read_images, read_stored, select
from orch_core.packs.write import PACK_BYTES

ROWS = 21_472_715
LARGE = (5_274_618, 4_240_609, 3_769_486, 2_453_909, 1_424_290, 1_078_477, 643_526, 401_059, 392_559, 377_110)
"""The ten largest of BioVFM's 61 sources; the other 51 share the rest evenly."""
MODALITIES = ("ct", "mr", "x-ray", "us", "fundus", "dermoscopy", "endoscopy", "microscopy", "octa", "nm")
SLICES = 60
"""Images of a group, on average, in a source of volumes: two sources in three."""


def synthetic(rows: int) -> list[pl.DataFrame]:
    """A frame a source with what `gather` leaves: hashes, groups of slices, shapes, labels, sizes; ranks left out."""
    sizes = [*LARGE, *[(ROWS - sum(LARGE)) // 51] * 51]
    sizes[-1] += ROWS - sum(sizes)
    rng = np.random.default_rng(0)
    frames = []
    for place, size in enumerate(size * rows // ROWS for size in sizes):
        volumes = rng.integers(0, max(1, size // SLICES), size)
        groups = pl.Series(volumes).cast(pl.String) if place % 3 else pl.Series([""]).new_from_index(0, size)
        many = place in {0, 2}  # sources of several modalities
        codes = volumes % 5 if many else np.full(size, place % len(MODALITIES))
        numbers = {"hash_high": 2**63, "hash_low": 2**63, "look": 2**63, "bytes": 36_000, "crc": 2**32}
        frame = pl.DataFrame({name: rng.integers(1, high, size) for name, high in numbers.items()})
        same = {"height": 224, "width": 224, "channels": 1, "format": 1, "split": "", "rank": 0}
        frame = frame.with_columns(
            group=groups,
            modality=pl.Series(codes).replace_strict(range(len(MODALITIES)), MODALITIES),
            offset=np.arange(size) * 18_000,
            labels=pl.lit(pl.Series([[]], dtype=SCHEMA["labels"])).first(),
            **{name: pl.lit(value) for name, value in same.items()},
        )
        kinds = {name: kind for name, kind in SCHEMA.items() if name in frame.columns}
        frames.append(frame.select(pl.col(name).cast(kind) for name, kind in kinds.items()))
    return frames


def order(rows: int) -> None:
    """Measured in this process: run it in a fresh one."""
    frames = synthetic(rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wall, cpu = time.perf_counter(), time.process_time()
    rows_of_all = [joined(frames, range(len(frames)))]
    del frames
    names = [f"source{place}" for place in range(61)]
    ranks = pl.Series(ranks_at(rows_of_all[0], names, 0))
    rows_of_all = [rows_of_all.pop().with_columns(rank=ranks)]
    hashed = time.process_time() - cpu
    arranged = arrange(rows_of_all.pop(), 0.01)
    index = arranged.index
    ordered = time.process_time() - cpu
    classes = [0] * 61
    facts = [
        modality(index, name, own_order(index, code), classes)
        for code, name in enumerate(arranged.modalities)
    ]
    bounds = pack_bounds(index["bytes"].to_numpy(), sum(one.pretraining for one in facts), PACK_BYTES)
    made = subsets(index, sum(one.pretraining for one in facts), bounds)
    seconds = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "keys": hashed,
        "ordered": ordered,
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    check(index, made[1].images)
    print(
        json.dumps(
            {
                "images": len(index),
                "pretraining": made[-1].images,
                "packs": len(bounds) - 1,
                "before": before,
                "peak": peak,
                "fingerprint": joint_fingerprint(facts),
                **seconds,
            }
        )
    )


def check(index: pl.DataFrame, images: int) -> None:
    """The 1% is proportional within one image a stratum, and no group is on both sides of a split."""
    kept = index.filter("pretraining")
    strata = (
        kept.group_by("source", "code")
        .agg(pl.len())
        .join(
            kept.head(images).group_by("source", "code").agg(first=pl.len()),
            on=["source", "code"],
            how="left",
        )
    )
    off = (strata["first"].fill_null(0) - strata["len"] * (images / len(kept))).abs().max()
    torn = index.filter(pl.col("group") != "").group_by("source", "group").agg(pl.col("split").n_unique())
    assert off <= 1, off
    assert int(torn["split"].max()) == 1


def rate(work: Callable[[], int], seconds: float = 3.0) -> float:
    """Images for each CPU second."""
    work()
    began, done = time.process_time(), 0
    while time.process_time() - began < seconds:
        done += work()
    return done / (time.process_time() - began)


def npz_of(path: Path, *, count: int, side: int) -> Path:
    """Images of the size that a JPEG of 224 pixels has (smooth, with noise)."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 120, side)[:, None] + np.linspace(0, 60, side)
    arrays = {}
    for split, n in (("train", count), ("val", 8)):
        images = ramp + rng.normal(0, 14, (n, side, side)) + rng.integers(0, 60, (n, 1, 1))
        arrays |= {
            f"{split}_images": images.clip(0, 255).astype(np.uint8),
            f"{split}_labels": np.zeros((n, 1), int),
        }
    np.savez(path, **arrays)
    return path


def reading(folder: Path) -> None:
    """Random reads, with and without decode."""
    source = npz_of(folder / "scans.npz", count=4000, side=224)
    for store in ("jpeg", "raw"):
        out = folder / store
        spec = Spec(name="scans", path=source, modality="ct")
        pack(out, [spec], PackOptions(settings=Settings(store=store), pack_bytes=2**25), lambda *_: None)
        packs = open_packs(out)
        count, rng = select(packs, ALL, "train").count, np.random.default_rng(0)
        size = packs.table["bytes"].mean() / 1000

        def some(read: Callable[..., object], packs=packs, count=count, rng=rng) -> int:
            read(packs, rng.integers(0, count, 256))
            return 256

        stored, decoded = rate(lambda: some(read_stored)), rate(lambda: some(read_images))
        print(
            f"{store:5} {size:5.1f} kB: {stored:9,.0f} random reads/s/core before decode, {decoded:8,.0f} images/s/core with it"
        )


def resuming(folder: Path) -> None:
    """First batch at step 1 and at step 1,000,000, of 4,000 images and a batch of 256."""
    from orch_core.cell import Cell, Model, SourceSubset
    from orch_core.learn.data import batches, pretraining_set

    packs = open_packs(folder / "jpeg")
    portion = SourceSubset(
        source="scans",
        modality="ct",
        images=packs.manifest.pretraining,
        fingerprint=packs.manifest.fingerprint,
        path=str(folder / "jpeg"),
    )
    cell = Cell(
        model=Model(name="w32", width=32, depth=1, heads=1),
        recipe="mae@1",
        data=(portion,),
        resolution=224,
        patch=16,
        channels=1,
        samples_seen=256 * 2_000_000,
        batch=256,
    )
    images, times = pretraining_set(cell), {}
    for step in (1, 1_000_000, 1, 1_000_000):
        began = time.process_time()
        next(batches(images, cell, step))
        times[step] = time.process_time() - began
    print(
        f"resume     step 1,000,000 in {times[1_000_000]:.3f} s, step 1 in {times[1]:.3f} s, first batch of 256 included"
    )


def packing(folder: Path) -> None:
    """Two thousand JPEG files of 224 pixels."""
    packs, files = open_packs(folder / "jpeg"), folder / "files"
    files.mkdir()
    for row, blob in enumerate(read_stored(packs, np.arange(2000))):
        (files / f"{row}.jpg").write_bytes(blob)
    began = time.process_time()
    for path in files.iterdir():
        decode(path.read_bytes())
    alone = time.process_time() - began
    began = time.process_time()
    pack(
        folder / "packed",
        [Spec(name="x", path=files, modality="ct")],
        PackOptions(settings=Settings()),
        lambda *_: None,
    )
    whole = time.process_time() - began
    print(f"packing    {2000 / whole:,.0f} images/s/core, {whole / alone:.2f}x the time of decoding alone")


def reading_npz() -> None:
    """A cell on the four shipped sources."""
    from orch_core.cell import Cell, Model, SourceSubset
    from orch_core.learn.data import held_out_set, pretraining_set

    root = Path(__file__).parents[2] / "experiments" / "images"
    names = ("blood", "breast", "pneumonia", "tissue")
    data = tuple(
        SourceSubset(source=name, modality="x", images=500, fingerprint="", path=str(root / f"{name}.npz"))
        for name in names
    )
    cell = Cell(
        model=Model(name="w32", width=32, depth=1, heads=1), recipe="mae@1", data=data, resolution=28, patch=7,
        channels=3, samples_seen=64, batch=64,
    )  # fmt: skip
    times, kept = {}, images_module.KEPT_BYTES
    for limit in (0, kept, 0, kept):
        images_module.KEPT_BYTES = limit
        images_module._kept.clear()
        began = time.process_time()
        pretraining_set(cell)
        held_out_set(cell)
        times[limit] = time.process_time() - began
    print(
        f"npz        {times[0]:.2f} CPU s where arrays are read again, {times[kept]:.2f} s where they are kept"
    )


def main() -> None:
    """Print a line a measurement."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if sys.argv[1:2] == ["--order"]:
        order(int(sys.argv[2]))
        return
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    made = subprocess.run(
        [sys.executable, __file__, "--order", str(rows)], check=True, capture_output=True, text=True
    )
    found = json.loads(made.stdout)
    print(
        f"order      {found['images']:,} rows, {found['pretraining']:,} for pretraining, {found['packs']} packs: "
        f"{found['cpu']:.0f} CPU s ({found['keys']:.0f} for keys, "
        f"{found['ordered'] - found['keys']:.0f} for splits and order, the rest for modalities and manifests), {found['wall']:.0f} s of wall time, peak "
        f"{found['peak']:.2f} GiB ({found['before']:.2f} before)"
    )
    with tempfile.TemporaryDirectory() as folder:
        reading(Path(folder))
        resuming(Path(folder))
        packing(Path(folder))
    reading_npz()


if __name__ == "__main__":
    main()
