"""A corpus of wrong grids: each mistake is reported at the line and column where it was made."""

from pathlib import Path

import numpy as np
import pytest

from orch_core.errors import GridError
from orch_core.grid.check import read_grid

GOOD = """\
study: small
sources:
  ct: {path: ct.npz, modality: ct}
  us: {path: us.npz, modality: ultrasound}
mixes:
  all: [ct, us]
  only: {ct: 1.5}
axes:
  model: [ViT-Ti, {name: tiny, width: 64, depth: 2}]
  algorithm: [mae@1, random@1]
  images: [4, 50%, all]
  mix: all
  seed: [0, 1]
  resolution: 32
  patch: 8
  samples_seen: 64
training:
  batch: 16
overrides:
  mae@1: {mask_ratio: 0.6}
exclude:
  - mix == "only" and images < 4
probes:
  tasks: [ct, us]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("ct", "us"):
        arrays = {}
        for split in ("train", "val", "test"):
            arrays[f"{split}_images"] = generator.integers(0, 256, (8, 6, 6), dtype=np.uint8)
            arrays[f"{split}_labels"] = np.arange(8, dtype=np.uint8).reshape(-1, 1) % 2
        np.savez(tmp_path / f"{name}.npz", **arrays)
    (tmp_path / "notes.npz").write_text("not a zip file")
    np.savez(tmp_path / "keys.npz", images=np.zeros((2, 2)))
    data = (tmp_path / "ct.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    arrays = dict(np.load(tmp_path / "ct.npz"))
    np.savez(tmp_path / "float.npz", **arrays | {"train_images": np.zeros((8, 6, 6))})
    np.savez(
        tmp_path / "empty.npz",
        **arrays | {"val_images": np.zeros((0, 6, 6), np.uint8), "val_labels": np.zeros((0, 1), int)},
    )
    return tmp_path


# (what to replace, by what, line, column or None, words that the message must hold)
WRONG = [
    ("study: small", "study: [1]", 1, 8, "study"),
    ("study: small", "study: 'a b'", 1, 8, "pattern"),
    ("training:", "trainng:", 17, 1, "did you mean 'training'?"),
    (
        "{path: us.npz, modality: ultrasound}",
        "{path: us.npz, modalty: ultrasound}",
        4,
        22,
        "did you mean 'modality'?",
    ),
    ("ct.npz", "missing.npz", 3, 14, "does not exist"),
    ("ct.npz", "notes.npz", 3, 14, "not a readable npz"),
    ("ct.npz", "cut.npz", 3, 14, "truncated"),
    ("ct.npz", "keys.npz", 3, 14, "no array `train_images`"),
    ("ct.npz", "float.npz", 3, 14, "uint8"),
    ("ct.npz", "empty.npz", 3, 14, "val split is empty"),
    ("all: [ct, us]", "all: [ct, usx]", 6, None, "did you mean 'us'?"),
    ("only: {ct: 1.5}", "only: {ct: -1}", 7, 14, "greater than 0"),
    ("ViT-Ti", "ViT-Tii", 9, 11, "did you mean 'ViT-Ti'?"),
    ("ViT-Ti", "vit_smal_patch16_224", 9, 11, "vit_small_patch16_224"),
    ("width: 64", "width: '64'", 9, 39, "integer"),
    ("width: 64", "width: 64, heads: 3", 9, None, "3 heads do not divide the width 64"),
    ("depth: 2", "depth: 2, params: 5e6", 9, None, "more than 2% off"),
    ("mae@1, random@1", "mea@1, random@1", 10, 15, "did you mean 'mae@1'?"),
    ("50%, all", "50%, every", 11, 20, "number of images"),
    ("50%, all", "0, all", 11, 15, "must be positive"),
    ("mix: all", "mix: al", 12, 8, "did you mean 'all'?"),
    ("seed: [0, 1]", "seed: [0, 1.5]", 13, 13, "integer"),
    ("patch: 8", "patch: 7", 14, 15, "does not divide"),
    ("samples_seen: 64", "samples_seen: -64", 16, 17, "greater than 0"),
    ("samples_seen: 64", "samples_seen: 64\n  epochs: 3", 17, 3, "training length once"),
    ("  batch: 16", "  batch: many", 18, 10, "integer"),
    ("  batch: 16", "  precision: fp32", 17, 1, "`batch` is missing"),
    ("all: [ct, us]", "both: [ct, us]", 12, 8, "unknown mix 'all'"),
    ("mask_ratio: 0.6", "mask_ration: 0.6", 20, 11, "mask_ratio"),
    ("images < 4", "imges < 4", 22, 23, "did you mean 'images'?"),
    ("images < 4", "__import__('os').system('x')", 22, 23, "not allowed"),
    ("tasks: [ct, us]", "tasks: [ct, lung]", 24, 15, "unknown task 'lung'"),
    ("batch: 16", "batch: 16\n  batch: 32", 19, 3, "first given in line 18"),
]


@pytest.mark.parametrize(("old", "new", "line", "column", "words"), WRONG, ids=[row[1][:30] for row in WRONG])
def test_each_mistake_is_reported_at_its_place(
    folder: Path, old: str, new: str, line: int, column: int | None, words: str
):
    assert GOOD.count(old) >= 1
    path = folder / "grid.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(GridError) as caught:
        read_grid(path)
    problems = caught.value.problems
    found = [problem for problem in problems if words in problem.message]
    assert found, [str(problem) for problem in problems]
    assert found[0].line == line, str(found[0])
    assert column is None or found[0].column == column, str(found[0])
    assert found[0].text == path.read_text().splitlines()[line - 1]
    assert len(problems) == 1, [str(problem) for problem in problems]


def test_every_mistake_at_once_in_the_order_of_lines(folder: Path):
    text = (
        GOOD.replace("mae@1, random", "mea@1, random")
        .replace("batch: 16", "batch: 0")
        .replace("[ct, us]\n", "[ct, x]\n")
    )
    (folder / "grid.yaml").write_text(text)
    with pytest.raises(GridError) as caught:
        read_grid(folder / "grid.yaml")
    assert [problem.line for problem in caught.value.problems] == [6, 10, 18, 24]


def test_a_good_grid_passes(folder: Path):
    (folder / "grid.yaml").write_text(GOOD)
    checked = read_grid(folder / "grid.yaml")
    assert checked.grid.study == "small"
    assert checked.sources["ct"].counts == {"train": 8, "val": 8, "test": 8}


def test_the_default_mix_has_all_sources_and_the_default_tasks_are_those_with_labels(folder: Path):
    rest = GOOD.replace("mixes:\n  all: [ct, us]\n  only: {ct: 1.5}\n", "").replace("  mix: all\n", "")
    rest = rest[: rest.index("exclude:")].replace("us: {path: us.npz", "us: {images: 9, path: absent.npz")
    (folder / "grid.yaml").write_text(rest)
    checked = read_grid(folder / "grid.yaml")
    assert checked.grid.mixes == {"all": {"ct": None, "us": None}}
    assert checked.grid.axes.mix == ["all"]
    assert checked.probed == ("ct",)


def test_a_mix_is_asked_for_where_none_is_of_all(folder: Path):
    (folder / "grid.yaml").write_text(GOOD.replace("all: [ct", "both: [ct").replace("  mix: all\n", ""))
    with pytest.raises(GridError, match="`mix` is missing"):
        read_grid(folder / "grid.yaml")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_a_grid_that_is_not_a_mapping_is_refused(tmp_path: Path, text: str):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(GridError, match="mapping"):
        read_grid(tmp_path / "grid.yaml")
