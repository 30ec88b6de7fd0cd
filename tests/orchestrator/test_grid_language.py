"""What the grid language means: published studies written in it, isoFLOP blocks, families, mixes, overrides, classes."""

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from language_grid import BASE, frame_of, problem_of

from orch_core.cost import price
from orch_core.errors import GridError
from orch_core.grid.cells import enumerate_cells
from orch_core.grid.check import read_grid
from orch_core.grid.columns import cell_of
from orch_core.grid.expression import AXES
from orch_core.grid.language import Grid
from orch_core.study.draft import draft

GRIDS = Path(__file__).parent.parent / "data" / "grids"
REFERENCE = Path(__file__).parent.parent.parent / "experiments" / "biovfm-21m.yaml"

# published studies


def test_the_vit_family_has_its_published_sizes_and_flops():
    frame = enumerate_cells(read_grid(GRIDS / "vit-family.yaml"))
    mae = frame.filter(pl.col("algorithm") == "mae").unique("model", maintain_order=True)
    # arXiv:2010.11929, table 1 (B, L, H in millions); sizes without a head at 224 px, patch 16
    published = {"B": 86e6, "L": 307e6, "H": 632e6}
    real = dict(mae.select("model", "params_encoder").iter_rows())
    assert all(real[name] == pytest.approx(count, rel=0.02) for name, count in published.items())
    # torch's FlopCounterMode on built models: forward of the encoder, and MAE's training step of one image with the
    # official decoder of 512 x 8, both in GFLOP (measured for Ti, S, B, L)
    forward = dict(mae.select("model", "flops_forward").iter_rows())
    step = dict(mae.select("model", "flops_train_image").iter_rows())
    for name, whole, trained in (
        ("Ti", 2.507, 34.25),
        ("S", 9.197, 39.26),
        ("B", 35.126, 58.82),
        ("L", 123.107, 124.67),
    ):
        assert forward[name] / 1e9 == pytest.approx(whole, rel=1e-3)
        assert step[name] / 1e9 == pytest.approx(trained, rel=0.02)
    assert mae.height * 4 * 2 == frame.height


def test_chinchillas_isoflop_set_spends_its_budgets():
    checked = read_grid(GRIDS / "chinchilla-isoflop.yaml")
    frame = enumerate_cells(checked)
    mae = frame.filter(pl.col("algorithm") == "mae")
    budgets = checked.grid.isoflop[0].budgets
    nearest = pl.Series(
        [min(budgets, key=lambda budget: abs(budget / spent - 1)) for spent in mae["flops_train"]]
    )
    assert ((mae["flops_train"] / nearest - 1).abs() < 0.005).all()  # whole batches of at least 100 steps
    assert set(nearest) == set(budgets)
    assert (mae["images"] == mae["samples_seen"]).all()  # one epoch: the data size is solved for too
    assert mae.group_by(nearest).len()["len"].max() == 8
    assert frame.filter(pl.col("algorithm") == "random").height == 8  # controls have no budget: once per size
    # along a budget a larger model sees fewer samples, as samples = C / FLOPs per image
    one = mae.filter(nearest == 1e20).sort("params_encoder")
    assert one["samples_seen"].is_sorted(descending=True)


def test_the_reference_study_is_planned_at_its_true_scale():
    checked = read_grid(REFERENCE)
    frame = enumerate_cells(checked)
    assert sum(facts.pretraining for facts in checked.sources.values()) == 21_472_715
    everything = frame.filter((pl.col("mix") == "all") & (pl.col("images") == 21_472_715))
    assert set(everything["model"]) == {"ViT-Ti", "ViT-S", "ViT-B", "ViT-L"}
    # biodata.md: encoder parameters of the study's ViTs, 5.49, 21.59, 85.65, 303.10 M without position embeddings
    sizes = (
        frame.filter(pl.col("algorithm") == "mae").unique("model").sort("params_encoder")["params_encoder"]
    )
    assert (sizes / 1e6).to_list() == pytest.approx([5.49, 21.59, 85.65, 303.10], rel=1e-3)
    assert len(checked.grid.probes.tasks) == 12
    assert sum(sum(facts.counts.values()) for facts in checked.tasks.values()) > 700_000


# isoFLOP blocks

ISOFLOP = ("training:", "isoflop:\n  - {budgets: [BUDGETS], model: [a, b], images: 1000}\ntraining:")
NO_PRODUCT = ("  images: [1000, 8000]\n", "")
NO_LENGTH = ("  samples_seen: 64000\n", "")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(budgets=st.lists(st.floats(3e12, 1e16), min_size=1, max_size=4, unique=True), epochs=st.floats(0.5, 8))
def test_every_isoflop_cell_spends_its_budget(tmp_path: Path, budgets: list[float], epochs: float):
    text = (
        ISOFLOP[1]
        .replace("BUDGETS", ", ".join(map(repr, budgets)))
        .replace("images: 1000", f"epochs: {epochs}, min_steps: 20")
    )
    frame = frame_of(tmp_path, (ISOFLOP[0], text + "\n  beyond_data: repeat"), NO_PRODUCT, NO_LENGTH)
    for row in frame.iter_rows(named=True):
        cell = cell_of(row)
        assert cell.id == row["id"]
        assert cell.samples_seen % 64 == 0
        nearest = min(abs(price(cell).flops_train / budget - 1) for budget in budgets)
        assert nearest <= 0.5 / 20 + 1e-9
        assert row["images"] == min(110_000, round(cell.samples_seen / epochs))
    largest = frame.filter(pl.col("model") == "b")["samples_seen"].max() or 0
    assert frame.filter(pl.col("model") == "a")["samples_seen"].max() >= largest


def test_a_size_that_cannot_meet_a_budget_is_skipped(tmp_path: Path):
    free = dict(frame_of(tmp_path).unique("model").select("model", "flops_train_image").iter_rows())
    budget = 150 * 64 * free["a"]  # 150 steps of the small model, fewer than 100 of the large one
    block = ISOFLOP[1].replace("BUDGETS", repr(budget))
    frame = frame_of(tmp_path, (ISOFLOP[0], block), NO_PRODUCT, NO_LENGTH)
    assert frame["model"].to_list() == ["a"]
    assert frame["samples_seen"].to_list() == [150 * 64]


def test_a_budget_that_no_size_can_meet_is_refused_at_its_place(tmp_path: Path):
    block = ISOFLOP[1].replace("BUDGETS", "1e15, 1e6")
    line, column, message = problem_of(tmp_path, (ISOFLOP[0], block), NO_PRODUCT, NO_LENGTH)
    text = (tmp_path / "grid.yaml").read_text().splitlines()[line - 1]
    assert text[column - 1 :].startswith("1e6")
    assert "no size can meet 1e+06 FLOPs" in message
    assert "fewer than min_steps" in message


def test_a_budget_that_asks_for_more_images_than_there_are_is_refused(tmp_path: Path):
    block = ISOFLOP[1].replace("BUDGETS", "1e19").replace("images: 1000", "epochs: 1")
    *_, message = problem_of(tmp_path, (ISOFLOP[0], block), NO_PRODUCT, NO_LENGTH)
    assert "has 110,000 for pretraining" in message


# mixes, families, overrides, rules


def test_leave_one_out_removes_one_modality_at_a_time(tmp_path: Path):
    frame = frame_of(tmp_path, ("mix: all", "mix: [all, leave_one_out(all)]"))
    drawn = {
        row["mix"]: {portion["modality"] for portion in json.loads(row["data"])}
        for row in frame.iter_rows(named=True)
    }
    assert drawn == {
        "all": {"ct", "mr", "us"},
        "all-without-ct": {"mr", "us"},
        "all-without-mr": {"ct", "us"},
        "all-without-us": {"ct", "mr"},
    }


def test_a_mix_is_stratified_by_what_its_sources_have(tmp_path: Path):
    frame = frame_of(tmp_path, ("images: [1000, 8000]", "images: [1100, 11000]"))
    for row in frame.iter_rows(named=True):
        counts = {portion["source"]: portion["images"] for portion in json.loads(row["data"])}
        assert counts == {
            name: row["images"] * share // 11 for name, share in (("ct", 4), ("mr", 6), ("us", 1))
        }


def test_a_family_is_every_width_with_every_depth(tmp_path: Path):
    family = "model: [{family: f, width: {log_space: [64, 256, 3]}, depth: [2, 4], head_width: 32}]"
    frame = frame_of(
        tmp_path, ("model: [{name: a, width: 64, depth: 2}, {name: b, width: 128, depth: 2}]", family)
    )
    shapes = frame.unique("model", maintain_order=True).select("model", "width", "depth", "heads").rows()
    assert shapes == [
        (f"f-w{width}-d{depth}", width, depth, width // 32) for width in (64, 128, 256) for depth in (2, 4)
    ]
    for row in frame.iter_rows(named=True):  # 12 w^2 + 13 w a block, patch embedding, class token, last norm
        width, depth = row["width"], row["depth"]
        exact = depth * (12 * width**2 + 13 * width) + (8 * 8 * 3 + 1) * width + width + 2 * width
        assert row["params_encoder"] == exact


def test_a_list_of_overrides_is_an_axis(tmp_path: Path):
    frame = frame_of(
        tmp_path,
        ("training:", "overrides:\n  mae@1: {mask_ratio: [0.5, 0.75, 0.9], decoder_depth: 2}\ntraining:"),
    )
    assert frame.height == 3 * 4
    seen = {(cell_of(row).overrides, row["flops_train_image"]) for row in frame.iter_rows(named=True)}
    assert {overrides for overrides, _ in seen} == {
        (("decoder_depth", 2), ("mask_ratio", ratio)) for ratio in (0.5, 0.75, 0.9)
    }
    assert frame["id"].n_unique() == frame.height
    assert all(cell_of(row).id == row["id"] for row in frame.iter_rows(named=True))


def test_rules_about_what_a_control_does_not_have_leave_it_alone(tmp_path: Path):
    frame = frame_of(
        tmp_path,
        ("algorithm: mae@1", "algorithm: [mae@1, pixels@1]"),
        ("training:", "exclude: [model == 'b', heads > 2]\ntraining:"),
    )
    assert frame.filter(pl.col("algorithm") == "pixels").height == 1
    assert set(frame.filter(pl.col("algorithm") == "mae")["model"]) == {"a"}


def test_more_data_than_there_is_is_refused_at_its_place_unless_a_rule_drops_it(tmp_path: Path):
    sizes = ("images: [1000, 8000]", "images: [1000, 90000]")
    mix = ("mix: all", "mix: [all, two]")
    line, column, message = problem_of(tmp_path, sizes, mix)
    text = (tmp_path / "grid.yaml").read_text().splitlines()[line - 1]
    assert text[column - 1 :].startswith("90000")
    assert "mix 'two' needs 90,000 images" in message
    rule = ("training:", "exclude:\n  - mix == 'two' and images > 20000\ntraining:")
    assert frame_of(tmp_path, sizes, mix, rule).height == 2 * 3


def test_counts_may_be_written_as_powers_of_ten(tmp_path: Path):
    plain = frame_of(tmp_path)
    powers = frame_of(
        tmp_path,
        ("[1000, 8000]", "[1e3, 8e3]"),
        ("images: 40000", "images: 4e4"),
        ("batch: 64", "batch: 6.4e1"),
    )
    assert powers["id"].to_list() == plain["id"].to_list()


def test_a_budget_below_one_batch_is_refused_at_its_place(tmp_path: Path):
    line, column, message = problem_of(tmp_path, ("samples_seen: 64000", "flops: [1e15, 10]"))
    assert "10 FLOPs cannot pay for a batch of 64" in message
    assert (
        BASE.replace("samples_seen: 64000", "flops: [1e15, 10]").splitlines()[line - 1][column - 1 :] == "10]"
    )


@pytest.mark.parametrize(
    "change",
    [
        ("mix: all", "mix: all\n  seed: {log_space: [1, 1e17, 1000000]}"),
        ("samples_seen: 64000", "samples_seen: {log_space: [1000, 1e12, 1000000]}"),
    ],
)
def test_more_cells_than_fit_memory_are_refused_before_they_are_made(tmp_path: Path, change: tuple[str, str]):
    many = ("[1000, 8000]", "{log_space: [100, 8000, 30]}")
    _, _, message = problem_of(tmp_path, change, many)
    assert "the axes make 60,000,000 cells" in message


def test_leaving_one_out_of_one_is_refused_at_its_place(tmp_path: Path):
    changes = ("two: {ct: 1, us: 1}", "one: [ct]"), ("mix: all", "mix: leave_one_out(one)")
    _, _, message = problem_of(tmp_path, *changes)
    assert "is empty: 'one' has only one modality" in message


def test_an_empty_grid_is_refused_at_the_rules(tmp_path: Path):
    line, _, message = problem_of(tmp_path, ("training:", "exclude:\n  - seed >= 0\ntraining:"))
    assert (tmp_path / "grid.yaml").read_text().splitlines()[line - 1].strip() == "- seed >= 0"
    assert "`exclude` removes every cell (seed >= 0)" in message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  samples_seen: 64000\n", "", "training length once"),
        ("training:", "include:\n  - {patch: 5}\ntraining:", "patch 5 does not divide resolution 32"),
        ("training:", "isoflop:\n  - {budgets: [1e15], resolution: 33}\ntraining:", "does not divide"),
        ("training:", "include:\n  - {epochs: 2, flops: 1e15}\ntraining:", "training length once"),
        ("training:", "isoflop:\n  - {budgets: [0]}\ntraining:", "greater than 0"),
        ("training:", "isoflop:\n  - {budgets: [1e12], images: 10%, epochs: 2}\ntraining:", "remove `epochs`"),
        ("training:", "isoflop:\n  - {budget: [1e15]}\ntraining:", "did you mean 'budgets'?"),
        ("mix: all", "mix: leave_one_out(al)", "did you mean 'leave_one_out(all)'?"),
        ("{name: b, width: 128, depth: 2}", "{family: b, width: 100, depth: [2], head_width: 33}", "do not divide"),
        ("{name: b, width: 128, depth: 2}", "{family: b, widths: 100, depth: [2]}", "did you mean 'width'?"),
        ("training:", "overrides: {mae@1: {mask_ratio: [0.5, 2]}}\ntraining:", "allowed are 0.05 to 0.95"),
        ("training:", "cluster: {classes: [{name: big, when: parms > 1}]}\ntraining:", "did you mean 'params'?"),
        ("images: [1000, 8000]", "images: {log_space: [10, 1000]}", "log_space requires"),
        ("training:", "cluster: {gpus_per_node: 3}\ntraining:", "3 GPUs cannot share a batch of 64"),
        ("training:", "cluster: {classes: [{name: big, when: params > 1, nodes: 5}]}\ntraining:", "5 GPUs cannot share"),
        ("  batch: 64", "  batch: 64\n  cooldown: 1.5", "less than 1"),
        ("  batch: 64", "  batch: 64\n  cooldwn: 0.2", "did you mean 'cooldown'?"),
    ],
)  # fmt: skip
def test_mistakes_of_the_language_are_reported_at_their_line(tmp_path: Path, old: str, new: str, words: str):
    text = BASE.replace(old, new, 1)
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(GridError) as caught:
        read_grid(tmp_path / "grid.yaml")
    found = [problem for problem in caught.value.problems if words in problem.message]
    assert found, [str(problem) for problem in caught.value.problems]
    if new:
        first = next(
            n for n, (a, b) in enumerate(zip(text.splitlines(), BASE.splitlines(), strict=False)) if a != b
        )
        assert first + 1 <= found[0].line <= first + 2


def test_the_schema_for_editors_knows_every_key():
    schema = Grid.model_json_schema()
    assert {"isoflop", "include", "exclude", "overrides", "cluster", "budget"} <= set(schema["properties"])
    assert {"IsoFlop", "Family", "SizeClass"} <= set(schema["$defs"])


def test_the_grid_of_the_docs_plans(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent.parent / "docs" / "grid.md").read_text()
    (tmp_path / "grid.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    plan, _, checked = draft(tmp_path / "grid.yaml", tmp_path / "study")
    assert set(plan.frame["algorithm"]) == {"mae", "moco-v3", "random"}
    assert plan.frame["continues"].drop_nulls().len() > 0
    assert plan.frame.filter(pl.col("devices") == 2).height > 0
    words = page.split("## Expressions")[1].split("axes:")[1].split(".")[0]
    assert tuple(word.strip() for word in words.split(",")) == AXES
    sections = set(Grid.model_fields)
    assert sections == {line.split(":")[0] for line in checked.text.splitlines() if line[:1].isalpha()}
