"""The command line as a user meets it: a whole study, tables of points, mistakes, and the form of every command."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from orch.cli import main
from orch_core.cell import cell_from_json
from orch_core.learn.probes.subject import Subject

ROOT = Path(__file__).parents[2]
EPOCH = ROOT / "tests" / "data" / "laws" / "epoch_chinchilla_svg_extracted_data.csv"

GRID = """\
study: tiny
sources:
  ct: {path: ct.npz, modality: ct}
mixes:
  all: [ct]
axes:
  model: [{name: a, width: 32, depth: 1}, {name: b, width: 64, depth: 1}, {name: c, width: 96, depth: 1}]
  algorithm: [mae@1, random@1, pixels@1]
  images: [16, 32]
  mix: all
  resolution: 14
  patch: 7
  samples_seen: 64
training:
  batch: 16
probes:
  tasks: [ct]
"""


def orch(*words: object, folder: Path, timeout: float = 300) -> subprocess.CompletedProcess:
    """A process of its own, as a shell starts it."""
    command = [sys.executable, "-m", "orch", *map(str, words)]
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def document(*words: object, folder: Path) -> dict:
    done = orch(*words, "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema_version"] == 1
    return found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that differ in brightness, in an npz that orch has never seen."""
    folder = tmp_path_factory.mktemp("cli")
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 48), ("val", 24), ("test", 40)):
        labels = np.arange(count, dtype=np.uint8).reshape(-1, 1) % 2
        bright = 90 + 60 * labels[:, :, None, None].reshape(-1, 1, 1)
        arrays[f"{split}_images"] = np.clip(generator.normal(bright, 40, (count, 14, 14)), 0, 255).astype(
            np.uint8
        )
        arrays[f"{split}_labels"] = labels
    np.savez(folder / "ct.npz", **arrays)
    (folder / "grid.yaml").write_text(GRID)
    return folder


@pytest.fixture(scope="module")
def study(images: Path) -> Path:
    """The study, planned, and launched in the process."""
    assert orch("plan", "grid.yaml", folder=images).returncode == 0
    done = orch("launch", "--cluster", "debug", folder=images)
    assert done.returncode == 0, done.stderr
    return images


def test_a_whole_study_without_naming_it_again(study: Path):
    state = document("status", folder=study)
    assert state["total"]["done"] == 3 * 2 + 3 + 1
    assert state["total"]["probes_done"] == 10
    made = document("fit-laws", folder=study)
    page = Path(made["report"]).read_text()
    assert "Does scaling pay?" in page
    assert not re.search(r'(src|href)="https?://', page)
    laws = json.loads(Path(made["laws"]).read_text())
    assert laws["schema_version"] == 2
    assert {"law", "group", "estimates", "intervals", "n", "outcome"} <= laws["fits"][0].keys()


def test_a_second_launch_finds_nothing_to_do(study: Path):
    records = {path: path.read_bytes() for path in study.glob("studies/tiny/cells/**/record.json")}
    assert len(records) == 30  # of the cells, their probes and their attempts
    assert document("launch", "--cluster", "debug", folder=study)["remaining"] == 0
    assert {path: path.read_bytes() for path in study.glob("studies/tiny/cells/**/record.json")} == records
    assert document("plan", "grid.yaml", folder=study)["states"] == {"new": 0, "partial": 0, "done": 10}


def test_the_mirror_has_a_run_for_every_cell(study: Path):
    summary = document("sync", folder=study)
    assert summary["unreadable"] == 0 or summary["unreadable"] == []
    assert summary["added"] + summary["updated"] + summary["unchanged"] >= 10


def test_why_and_logs_know_a_cell_by_its_name(study: Path):
    why = document("why", "mae-a-all-16-s0", folder=study)
    assert why["status"] == "done"
    assert why["values"]["samples_seen"] == 64
    assert why["probes"]["ct"]["n_test"] == 40
    wrong = orch("why", "mae-a-al-16-s0", folder=study)
    assert wrong.returncode == 2
    assert "did you mean 'mae-a-all-16-s0'" in wrong.stderr
    assert orch("logs", "mae-a-all-16-s0", folder=study).returncode == 0


def test_two_cells_are_compared_on_the_test_images_of_their_probes(study: Path):
    found = document("compare", "random-a-s0", "mae-a-all-16-s0", folder=study)
    assert [(row["task"], row["protocol"], row["found"]["metric"]) for row in found["rows"]] == [
        ("ct", "linear@1", "auc"),
        ("ct", "linear@1", "accuracy"),
    ]
    auc, accuracy = (row["found"] for row in found["rows"])
    before, after = (
        document("why", cell, folder=study)["probes"]["ct"] for cell in ("random-a-s0", "mae-a-all-16-s0")
    )
    assert auc["first"] == pytest.approx(before["auc"], abs=2e-3)  # float16
    assert auc["second"] == pytest.approx(after["auc"], abs=2e-3)
    assert accuracy["difference"] == pytest.approx(after["accuracy"] - before["accuracy"], abs=1e-12)
    assert auc["lo"] <= auc["difference"] <= auc["hi"]
    assert "McNemar" in orch("compare", "random-a-s0", "mae-a-all-16-s0", folder=study).stdout
    wrong = orch("compare", "random-a-s0", "mae-a-all-16-s0", "--metric", "acu", folder=study)
    assert wrong.returncode == 2
    assert "balanced_accuracy" in wrong.stderr


USE = """
import sys, numpy, timm, torch
assert not any(name.startswith("orch") for name in sys.modules)
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
data = timm.data.resolve_model_data_config(model)
images = torch.from_numpy(numpy.load("ct.npz")["test_images"][:8])[:, None].expand(-1, data["input_size"][0], -1, -1)
mean, std = (torch.tensor(data[name])[:, None, None] for name in ("mean", "std"))
with torch.inference_mode():
    tokens = model.forward_features((images / 255 - mean) / std)
numpy.save(sys.argv[2], torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1).numpy())
"""


def test_an_exported_encoder_gives_timm_alone_the_features_that_were_probed(study: Path):
    made = document("export", "mae-a-all-16-s0", "exported", folder=study)
    assert set(made["files"]) == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    command = [sys.executable, "-c", USE, "exported", "features.npy"]
    done = subprocess.run(command, cwd=study, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = study / "studies" / "tiny" / "cells" / made["cell"]
    cell = cell_from_json(json.loads((folder / "cell.json").read_text()))
    subject = Subject(cell, folder)
    expected = subject.encoded(subject.encoder, np.load(study / "ct.npz")["test_images"][:8, :, :, None])
    np.testing.assert_allclose(np.load(study / "features.npy"), expected, atol=1e-6 * np.abs(expected).max())
    card = (study / "exported" / "README.md").read_text()
    auc = document("why", "mae-a-all-16-s0", folder=study)["probes"]["ct"]["auc"]
    assert f"| ct | linear@1 | {auc:.4f} [" in card
    assert "| ct | ct | 16 |" in card
    again = orch("export", "mae-a-all-16-s0", "exported", folder=study)
    assert (again.returncode, "not an empty folder" in again.stderr) == (2, True)
    pixels = orch("export", "pixels-s0", "other", folder=study)
    assert (pixels.returncode, "no encoder" in pixels.stderr) == (2, True)


def test_a_protocol_that_is_added_runs_the_new_probes_alone(study: Path, tmp_path: Path):
    shutil.copytree(study, tmp_path / "copy")
    folder = tmp_path / "copy"
    before = {path: path.read_bytes() for path in folder.glob("studies/tiny/cells/**/record.json")}
    (folder / "grid.yaml").write_text(GRID + "  protocol: [linear@1, fewshot@1]\n")
    plan = document("plan", "grid.yaml", folder=folder)
    assert (plan["states"], plan["probes_left"]) == ({"new": 0, "partial": 10, "done": 0}, 10)
    assert orch("launch", "--cluster", "debug", folder=folder).returncode == 0
    after = {path: path.read_bytes() for path in folder.glob("studies/tiny/cells/**/record.json")}
    assert before.items() <= after.items()
    new = [path for path in after.keys() - before.keys() if path.parent.parent.name == "probes"]
    assert len(new) == 10


def test_cancelling_by_an_expression_names_those_cells(study: Path):
    assert document("cancel", "--cells", "model == 'a' and algorithm == 'mae'", folder=study)["cells"] == 2
    assert orch("cancel", "--cells", "model == 'z'", folder=study).returncode == 2
    wide = orch("cancel", "--cells", "width > 1e9", folder=study)  # controls on pixels have none
    assert wide.returncode == 2
    assert "no cell of the plan matches" in wide.stderr
    assert "no cell of tiny has failed" in orch("retry", folder=study).stderr


def test_a_law_of_the_studys_runs(study: Path):
    made = document(
        "fit-laws", "--law", "power", "--map", "params=params_encoder", "value=heldout_loss", folder=study
    )
    assert {tuple(fit["group"].values()) for fit in made["fits"]} >= {("mae", "all")}


def test_a_frontier_that_cannot_be_estimated_is_explained_and_exits_with_3(study: Path):
    done = orch("frontier", "--json", folder=study)
    assert done.returncode == 3
    (group,) = json.loads(done.stdout)["groups"]
    assert all(one["message"] for one in group["frontiers"])


def test_the_published_slopes_without_a_flag(tmp_path: Path):
    # BioVFM-21M, analyze_results.ipynb: the 24 slopes that its figures print, to four decimals
    published = ROOT / "tests" / "data" / "laws" / "biovfm_slopes.csv"
    names = {"BioVFM-D": "dinov2", "BioVFM-M": "mae"}
    with published.open() as file:
        expected = {
            (row["dataset"].removesuffix("mnist"), names[row["algorithm"]]): float(row["slope_published"])
            for row in csv.DictReader(file)
        }
    made = document("fit-laws", ROOT / "experiments" / "published" / "biovfm.csv", folder=tmp_path)
    slopes = {
        (fit["group"]["task"], fit["group"]["algorithm"]): fit["estimates"]["slope"] for fit in made["fits"]
    }
    assert slopes.keys() == expected.keys()
    assert max(abs(slopes[key] - expected[key]) for key in expected) < 5.1e-5  # the fourth decimal's rounding


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Epoch's 240 of 245 Chinchilla points (Besiroglu et al. 2024): N, D = C / 6N, the five highest losses left out."""
    folder = tmp_path_factory.mktemp("points")
    with EPOCH.open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: -float(row["loss"]))[5:]
    with (folder / "points.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["dataset", "N", "D", "loss"])
        for row in rows:
            n, c = float(row["Model Size"]), float(row["Training FLOP"])
            writer.writerow(["chinchilla", n, c / (6 * n), row["loss"]])
    return folder


def test_chinchilla_from_the_command_line_then_predicted(points: Path):
    words = ("--law", "chinchilla", "--map", "params=N", "samples=D", "value=loss", "--group-by", "dataset")
    more = ("--huber-delta", "1e-3", "--bootstrap", "50", "--out", "laws")
    made = document("fit-laws", "points.csv", *words, *more, folder=points)
    (fit,) = json.loads((points / "laws" / "laws.json").read_text())["fits"]
    assert fit["objective"] <= 0.0010182740179  # the reference optimum
    assert fit["estimates"]["alpha"] == pytest.approx(0.3473105, abs=1e-4)
    assert fit["estimates"]["beta"] == pytest.approx(0.36717243, abs=1e-4)
    assert made["fits"][0]["n"] == 240
    (told,) = document("predict", "laws", "--params", "7e10", "--samples", "1.4e12", folder=points)[
        "predictions"
    ]
    truth = 1.81721810 + 477.825868 / 7e10**0.3473105 + 2143.41736 / 1.4e12**0.36717243
    assert told["value"] == pytest.approx(truth, rel=1e-5)
    # The residuals have a curvature that the law has not: beyond the points its band is withheld, within them given.
    assert (told["lo"], told["hi"]) == (None, None)
    assert "misfit" in told["note"]
    (inside,) = document("predict", "laws", "--params", "1e9", "--samples", "2e10", folder=points)[
        "predictions"
    ]
    assert inside["lo"] < inside["value"] < inside["hi"]


def test_the_parametric_frontier_of_chinchilla(points: Path):
    (group,) = document(
        "frontier", "points.csv", "--map", "params=N", "samples=D", "--flops", "1e21", folder=points
    )["groups"]
    law = next(one for one in group["frontiers"] if one["approach"] == "parametric")
    assert law["a"] == pytest.approx(0.513, abs=0.01)  # Besiroglu et al. 2024: beta / (alpha + beta)
    params, samples = law["optimum"]["params"][0], law["optimum"]["samples"][0]
    assert 6 * params * samples == pytest.approx(1e21, rel=0.01)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fit-laws", "none.csv"), "no such file"),
        (("fit-laws", "points.csv", "--law", "chincilla"), "did you mean 'chinchilla'"),
        (("fit-laws", "points.csv", "--map", "params=M", "value=loss"), "no column 'M'"),
        (("fit-laws", "points.csv", "--map", "params"), "NAME=VALUE"),
        (("predict", ".", "--params", "1e9"), "laws.json"),
        (("plan", "none.yaml"), "does not exist"),
        (("status", "none"), "is not a study"),
        (("launch",), "no study was planned in this directory"),
        (("launch", "--partition", "gpu"), "option of Slurm"),
        (("lunch",), "No such command"),
        (("plan",), "Missing argument"),
    ],
)
def test_mistakes_exit_with_2_and_a_remedy_and_no_traceback(points: Path, words: tuple[str, ...], said: str):
    done = orch(*words, folder=points)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_too_few_points_are_no_law(tmp_path: Path):
    (tmp_path / "few.csv").write_text("params,loss\n1,2\n2,3,4\n3,nan\n")
    done = orch("fit-laws", "few.csv", "--json", folder=tmp_path)
    assert done.returncode == 3
    (fit,) = json.loads(done.stdout)["fits"]
    assert not fit["estimates"]
    assert fit["message"]


def test_mistakes_in_a_grid_are_data_too(images: Path):
    (images / "wrong.yaml").write_text(GRID.replace("mae@1", "mea@1"))
    done = orch("plan", "wrong.yaml", "--json", folder=images)
    assert done.returncode == 2
    (problem,) = json.loads(done.stdout)["error"]["problems"]
    assert (problem["line"], problem["column"]) == (8, 15)


def test_a_closed_pipe_is_no_error(images: Path):
    command = f"{sys.executable} -m orch plan grid.yaml --study piped | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=images, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def commands(group: click.Group, prefix: str = "") -> list[str]:
    return [
        verb
        for name, command in sorted(group.commands.items())
        for verb in (
            commands(command, f"{name} ") if isinstance(command, click.Group) else [f"{prefix}{name}"]
        )
    ]


@pytest.mark.parametrize("name", commands(main))
def test_every_command_has_help_with_an_example_and_json_if_it_has_a_result(name: str):
    shown = CliRunner().invoke(main, [*name.split(), "--help"])
    assert shown.exit_code == 0
    assert f"orch {name}" in shown.output.replace("\n  ", " ")
    assert "Example: orch" in re.sub(r"\s+", " ", shown.output)
    if name not in {
        "ui",
        "demo",
        "logs",
        "completion",
    }:  # these serve, run the others, and print a file or a script
        assert "--json" in shown.output


@pytest.mark.parametrize("group", [(), ("data",)], ids=" ".join)
def test_every_summary_fits_80_columns(group: tuple[str, ...]):
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(main, [*group, "--help"]).output
    summaries = shown.partition("Commands:")[2].strip().splitlines()
    assert len(summaries) >= 2
    assert [line for line in summaries if "..." in line or not line.endswith(".")] == []


@pytest.mark.parametrize("name", commands(main))
def test_every_option_has_a_sentence_of_help(name: str):
    command: click.Command = main
    for word in name.split():
        assert isinstance(command, click.Group)
        command = command.commands[word]
    options = {one.opts[-1]: one.help or "" for one in command.params if isinstance(one, click.Option)}
    assert {flag: text for flag, text in options.items() if not re.fullmatch(r"[A-Z].* .*\.", text)} == {}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands(shell: str):
    assert "_ORCH_COMPLETE" in CliRunner().invoke(main, ["completion", shell]).output
    words = {"COMP_WORDS": "orch fit", "COMP_CWORD": "1" if shell != "fish" else "fit"}
    done = CliRunner().invoke(main, env={**words, "_ORCH_COMPLETE": f"{shell}_complete"}, prog_name="orch")
    assert "fit-laws" in done.output


def test_nothing_is_coloured_in_a_pipe(images: Path):
    done = orch("plan", "grid.yaml", "--study", "plain", folder=images)
    assert "\x1b" not in done.stdout + done.stderr


def test_results_name_the_command_that_made_them(points: Path):
    words = [
        "fit-laws",
        "points.csv",
        "--map",
        "params=N",
        "value=loss",
        "--bootstrap",
        "0",
        "--out",
        "named",
    ]
    assert orch(*words, folder=points).returncode == 0
    card = json.loads((points / "named" / "cards" / "card-0.json").read_text())
    assert card["command"] == f"orch {' '.join(words)}"
