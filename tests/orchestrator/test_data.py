"""`orch data`: what the command says and leaves; and a study on packs from plan to record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

from orch.cli import main
from orch.datasets.given import given_sources
from orch_core.errors import GridError, OrchError
from orch_core.packs.layout import read_manifest

IMAGES = Path(__file__).parents[2] / "experiments" / "images"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["data", *map(str, words)], catch_exceptions=False)


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    done = run(
        "pack", tmp_path / "packs", f"x-ray={IMAGES / 'pneumonia.npz'}", f"microscopy={IMAGES / 'blood.npz'}"
    )
    assert done.exit_code == 0, done.output
    return tmp_path / "packs"


def test_packing_prints_what_was_packed(tmp_path: Path, packs: Path) -> None:
    again = run("pack", packs, f"x-ray={IMAGES / 'pneumonia.npz'}", f"microscopy={IMAGES / 'blood.npz'}")
    assert again.exit_code == 0
    assert "4,374 images in" in again.stdout
    assert "x-ray: 1,700 train, 200 val, 624 test" in again.stdout
    told = run(
        "pack", packs, f"x-ray={IMAGES / 'pneumonia.npz'}", f"microscopy={IMAGES / 'blood.npz'}", "--json"
    )
    document = json.loads(told.stdout)
    assert document["fingerprint"] == read_manifest(packs).fingerprint
    assert [subset["images"] for subset in document["subsets"]] == [3, 27, 270, 2700]
    progress = run("pack", tmp_path / "new", f"ultrasound={IMAGES / 'breast.npz'}", "--workers", 2)
    assert "parts read: 3 of 3" in progress.stderr
    assert "packs written" in progress.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "does not exist"),
        (["{tmp}/text.txt"], "is no source of images"),
        (["{tmp}/empty"], "has no images"),
        (["={images}/blood.npz"], "names no modality"),
        (["all={images}/blood.npz"], "names no modality"),
        (["ct={images}/blood.npz", "mr={images}/../images/blood.npz"], "two sources are called 'blood'"),
        (["{images}/blood.npz", "--max-bad", "200%"], "'200%' is not a fraction"),
        (["{images}/blood.npz", "--val", "some"], "'some' is not a fraction"),
        ([], "Missing argument"),
    ],
)
def test_a_mistake_is_named_and_ends_with_2(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    done = run("pack", tmp_path / "out", *(word.format(tmp=tmp_path, images=IMAGES) for word in words))
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_sources_in_a_file_have_groups_and_windows_and_mistakes_have_places(tmp_path: Path) -> None:
    good = tmp_path / "sources.yaml"
    good.write_text(
        "chest: {path: cxr, modality: x-ray, group: '(p[0-9]+)/'}\nlung: {path: ct, modality: ct, window: [-600, 1500]}\n"
    )
    chest, lung = given_sources([str(good)])
    assert (chest.name, chest.path, chest.modality, chest.group) == (
        "chest",
        tmp_path / "cxr",
        "x-ray",
        "(p[0-9]+)/",
    )
    assert lung.window == (-600.0, 1500.0)
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        "a: {path: x, modalty: ct}\nb: [1]\nc: {path: x, window: [1, 0]}\nd: {path: x, group: '('}\n"
        "e: {path: x, modality: all}\n"
    )
    with pytest.raises(GridError) as caught:
        given_sources([str(bad)])
    said = [(problem.line, problem.message) for problem in caught.value.problems]
    assert [line for line, _ in said] == [1, 2, 3, 4, 5]
    assert "did you mean 'modality'?" in said[0][1]
    assert "window" in said[2][1]
    assert "regular expression" in said[3][1]
    with pytest.raises(OrchError, match="sources"):
        given_sources([str(tmp_path / "absent.yaml")])


def test_one_packer_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        done = run("pack", tmp_path / "out", f"us={IMAGES / 'breast.npz'}")
    assert done.exit_code == 2
    assert "another `orch data pack` is writing" in done.stderr


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("pack", tmp_path / "file" / "out", f"us={IMAGES / 'breast.npz'}")
    assert done.exit_code == 2
    assert "cannot write" in done.stderr


def test_stats_of_packs_and_of_an_npz(tmp_path: Path, packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("stats", packs, "--json", "--verify")
    document = json.loads(done.stdout)
    counts = {(one["source"], one["split"]): one["images"] for one in document["counts"]}
    assert counts[("pneumonia", "test")] == 624
    assert document["pretraining"] == 2700
    page = (tmp_path / "packs-stats.html").read_text()
    assert page.count("<img") == 16
    assert "http" not in page
    assert len(page) < 60_000
    shown = run("stats", IMAGES / "breast.npz", "--page", tmp_path / "b.html")
    assert "546" in shown.stdout
    assert (tmp_path / "b.html").read_text().count("<img") == 8
    wrong = run("stats", tmp_path)
    assert wrong.exit_code == 2


def test_verify_names_every_pack_that_is_not_what_it_was(packs: Path) -> None:
    wrong = sorted((packs / "packs").iterdir())[1:3]
    for path in wrong:
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(bytes(data))
    done = run("stats", packs, "--verify")
    assert done.exit_code == 2
    for path in wrong:
        assert f"{path} is not the pack" in done.stderr
    assert "hint: copy these again" in done.stderr


GRID = """study: packs
sources:
{sources}
tasks:
  lumps: {{path: {task}}}
mixes:
  both: [blood, breast]
axes:
  model: {{name: w16, width: 16, depth: 1, heads: 1}}
  algorithm: mae@1
  images: 500
  mix: both
  resolution: 28
  patch: 14
  samples_seen: 512
training: {{batch: 32}}
probes: {{tasks: [lumps]}}
"""


def orch(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "orch", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def record(folder: Path) -> dict[str, float]:
    [path] = folder.glob("studies/packs/cells/*/record.json")
    return json.loads(path.read_text())["values"]


def test_a_study_on_packs_has_the_numbers_of_one_on_npz(tmp_path: Path) -> None:
    run(
        "pack",
        tmp_path / "packs",
        f"microscopy={IMAGES / 'blood.npz'}",
        f"ultrasound={IMAGES / 'breast.npz'}",
        "--store",
        "raw",
    )
    modalities = {"blood": "microscopy", "breast": "ultrasound"}
    found = []
    for kind, path in (("npz", str(IMAGES) + "/{}.npz"), ("packed", str(tmp_path / "packs"))):
        folder = tmp_path / kind
        folder.mkdir()
        entries = [
            f"  {name}: {{path: {path.format(name)}, modality: {m}}}" for name, m in modalities.items()
        ]
        (folder / "grid.yaml").write_text(GRID.format(sources="\n".join(entries), task=IMAGES / "breast.npz"))
        orch(folder, "plan", "grid.yaml")
        orch(folder, "launch", "--cluster", "local")
        found.append(record(folder))
    assert found[0] == found[1]
    assert np.isfinite(found[0]["heldout_loss"])


def test_a_modality_that_the_packs_do_not_have_is_a_mistake_at_its_place(tmp_path: Path, packs: Path) -> None:
    entries = f"  blood: {{path: {packs}, modality: microscopy}}\n  breast: {{path: {packs}, modality: mr}}"
    (tmp_path / "grid.yaml").write_text(GRID.format(sources=entries, task=IMAGES / "breast.npz"))
    done = CliRunner().invoke(main, ["plan", str(tmp_path / "grid.yaml"), "--study", str(tmp_path / "s")])
    assert done.exit_code == 2
    assert "grid.yaml:4:" in done.stderr
    assert "no modality 'mr'; they have microscopy, x-ray" in done.stderr


def test_packs_of_several_sources_are_no_task_and_a_plain_folder_is_no_source(
    tmp_path: Path, packs: Path
) -> None:
    (tmp_path / "plain").mkdir()
    entries = f"  blood: {{path: {packs}, modality: microscopy}}\n  breast: {{path: plain, modality: mr}}"
    (tmp_path / "grid.yaml").write_text(GRID.format(sources=entries, task=packs))
    done = CliRunner().invoke(main, ["plan", str(tmp_path / "grid.yaml"), "--study", str(tmp_path / "s")])
    assert done.exit_code == 2
    assert "cannot be a task: it has 2 sources" in done.stderr
    assert "is a folder without packs" in done.stderr
    assert "orch data pack" in done.stderr
