"""Suggestions on a study whose law is known: within budget, new cells only, narrowing the target, a grid that plans."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orch.planning.planner import make_plan
from orch.planning.suggest import SEEDS, SuggestOptions, advise, suggest, write_grid
from orch.studies import find_study
from orch_analysis.design import expected as design
from orch_analysis.design import next_cells
from orch_analysis.laws import LAWS
from orch_core.errors import OrchError
from orch_core.grid.columns import cell_of
from orch_core.study.draft import draft
from orch_core.study.folder import Study
from orch_core.study.plan import Plan, read_plan
from orch_core.study.record import Record
from orch_core.study.stored import publish

GRID = """\
study: next
sources:
  ct: {path: ct.npz, modality: ct, images: 40000000}
tasks:
  task: {path: task.npz, kind: multi-class, classes: 4, train: 100, val: 10, test: 50}
mixes:
  all: [ct]
axes:
  model: [{family: f, width: [64, 128, 256, 512], depth: [6]}]
  algorithm: [mae@1, random@1]
  images: {log_space: [10000, 10000000, 5]}
  mix: all
  resolution: 224
  patch: 16
  epochs: 2
training:
  batch: 256
  precision: bf16
probes:
  tasks: [task]
cluster: {device: H100}
"""
LAW = LAWS["chinchilla"]
TRUE = {"E": 0.5, "A": 40.0, "B": 30.0, "alpha": 0.33, "beta": 0.4}
TARGET = {"params": 1e8, "samples": 1e8}


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, Study]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(GRID)
    return make_plan(tmp_path / "grid.yaml")


def answer(study: Study, frame: pl.DataFrame, *, noise: float = 0.003, axis: str = "images") -> None:
    """Publish records of cells as the hidden law gives them."""
    generator = np.random.default_rng(5)
    for row in frame.filter(pl.col("images") > 0).iter_rows(named=True):
        cell = cell_of(row)
        x = {"params": np.array([row["params_encoder"]]), "samples": np.array([float(row[axis])])}
        loss = float(LAW.value(x, TRUE)[0] * np.exp(noise * generator.standard_normal()))
        values = {
            "heldout_loss": loss,
            **{k: row[k] for k in ("params_encoder", "samples_seen", "flops_train")},
        }
        study.cell_folder(cell.id).mkdir(exist_ok=True)
        record = Record(
            cell=cell.id, name=cell.name, status="done", values=values, provenance={"config": cell.to_json()}
        )
        publish(study.cell_folder(cell.id), record)


def test_without_a_fit_it_walks_the_cheap_edges(planned):
    _plan, study = planned
    (advice,) = advise(study, SuggestOptions(target=TARGET, budget=100.0))
    assert advice.before is None
    sizes = {pick.model for pick in advice.picks if pick.images == 10000}
    data = {pick.images for pick in advice.picks if pick.model == "f-w64-d6"}
    assert sizes == {"f-w64-d6", "f-w128-d6", "f-w256-d6", "f-w512-d6"}
    assert len(data) == 5
    hours = [pick.hours for pick in advice.picks]
    assert hours == sorted(hours)
    poor = advise(study, SuggestOptions(target=TARGET, budget=sum(hours[:3]) * 1.0001))[0]
    assert [pick.model for pick in poor.picks] == [pick.model for pick in advice.picks[:3]]
    with pytest.raises(OrchError, match="buy no cell"):
        advise(study, SuggestOptions(target=TARGET, budget=1e-9))


def test_with_a_fit_it_narrows_the_target_within_the_budget(planned):
    plan, study = planned
    frame = plan.frame.filter(pl.col("images") > 0)
    cheap = frame.filter((pl.col("images") == 10000) | (pl.col("model") == "f-w64-d6"))
    answer(study, cheap)
    budget = 0.3 * frame["hours_mid"].sum()
    (advice,) = advise(study, SuggestOptions(target=TARGET, budget=budget))
    assert sum(pick.hours for pick in advice.picks) <= budget
    assert advice.after is not None
    assert advice.before is not None
    assert advice.after < 0.5 * advice.before
    assert "the pilot's fit to 8 cells" in advice.assumed
    done = set(cheap.select("model", "images", "seed").rows())
    picked = {(pick.model, pick.images, seed) for pick in advice.picks for seed in pick.seeds}
    assert not picked & done
    for model, images in {(model, images) for model, images, _ in picked | done}:
        assert sum((m, i) == (model, images) for m, i, _ in picked | done) <= SEEDS
    assert any(pick.check for pick in advice.picks)
    for pick in advice.picks:
        assert pick.expected is not None
        assert pick.expected[1] < pick.expected[0] < pick.expected[2]


def test_running_what_it_suggests_narrows_as_much_as_it_said(planned):
    plan, study = planned
    frame = plan.frame.filter(pl.col("images") > 0)
    answer(study, frame.filter((pl.col("images") == 10000) | (pl.col("model") == "f-w64-d6")))
    first = advise(study, SuggestOptions(target=TARGET, budget=0.3 * frame["hours_mid"].sum()))
    write_grid(study, first, Path("next.yaml"))
    following, _, _ = draft(Path("next.yaml"), study.root)
    answer(study, following.frame)
    (again,) = advise(study, SuggestOptions(target=TARGET, budget=0.3 * frame["hours_mid"].sum()))
    # the fit has moved with the new cells, and so have exponents and noise: the promise holds within a factor of 2.5
    assert again.before is not None
    assert first[0].after is not None
    assert first[0].after / 2.5 < again.before < 2.5 * first[0].after


def test_the_grid_it_writes_plans_its_cells_and_those_that_are_trained_into_the_same_study(
    planned, tmp_path: Path
):
    plan, study = planned
    trained = plan.frame.filter((pl.col("images") == 10000) | (pl.col("model") == "f-w64-d6"))
    answer(study, trained)
    for cell in trained.filter(pl.col("images") == 0)["id"]:
        study.cell_folder(cell).mkdir()
        publish(study.cell_folder(cell), Record(cell=cell, name="control", status="done"))
    (tmp_path / "sub").mkdir()
    options = SuggestOptions(target={"params": 1e8, "samples": 1e8}, budget=5.0, mix="all")
    made_grid = suggest(find_study(None), Path("sub/next.yaml"), options)
    document, text = json.loads(json.dumps(made_grid.to_json())), made_grid.text
    made, _, checked = draft(Path("sub/next.yaml"), study.root)
    picks = document["advice"][0]["picks"]
    expected = {(p["model"], p["images"], seed) for p in picks for seed in p["seeds"]}
    assert expected
    assert set(made.frame.select("model", "images", "seed").rows()) == expected | set(
        trained.select("model", "images", "seed").rows()
    )
    assert set(trained["id"]) <= set(made.frame["id"])
    assert checked.file("ct") == tmp_path / "ct.npz"
    # a cell of the old plan that is suggested keeps its id
    old = dict(zip(plan.frame.select("model", "images", "seed").rows(), plan.frame["id"], strict=True))
    new = dict(zip(made.frame.select("model", "images", "seed").rows(), made.frame["id"], strict=True))
    assert all(new[key] == old[key] for key in new.keys() & old.keys())
    assert new.keys() & old.keys()
    assert "next: orch plan sub/next.yaml --study" in text
    assert read_plan(study).hash == plan.hash  # nothing is planned until asked


def test_unknown_recipes_are_named_with_what_there_is(planned):
    _, study = planned
    with pytest.raises(OrchError, match="no cell of moco-v3@1") as caught:
        advise(study, SuggestOptions(target=TARGET, budget=1.0, algorithm="moco-v3@1"))
    assert "mae@1 all" in str(caught.value.hint)


@given(st.integers(0, 1000), st.floats(0.01, 1.0), st.floats(0, 0.5))
def test_a_choice_never_passes_its_budget_and_its_variances_are_those_of_the_design(
    seed: int, share: float, check: float
):
    generator = np.random.default_rng(seed)
    grid = {
        "params": np.repeat(np.geomspace(1e6, 1e8, 4), 4),
        "samples": np.tile(np.geomspace(1e4, 1e6, 4), 4),
    }
    assumed_law = design.AssumedLaw(law=LAW, params=TRUE, noise=0.01, source="test")
    prices = generator.uniform(0.5, 2, 16)
    repeats = generator.integers(0, 3, 16)
    done = {name: values[:7] for name, values in grid.items()}
    choice = next_cells.choose(
        assumed_law, done, grid, prices, TARGET, budget=share * prices.sum(), repeats=repeats, check=check
    )
    assert prices[list(choice.chosen)].sum() <= share * prices.sum() + 1e-9
    assert (np.bincount(choice.chosen, minlength=16) <= repeats).all()
    assert all(b <= a for a, b in zip((choice.before, *choice.variances), choice.variances, strict=False))
    aim = design.jacobian(assumed_law, {name: np.array([value]) for name, value in TARGET.items()})[0]
    x = {name: np.append(values[:7], values[list(choice.chosen)]) for name, values in grid.items()}
    rows = design.jacobian(assumed_law, x) / assumed_law.noise
    exact = aim @ np.linalg.inv(rows.T @ rows + 1e-6 * np.eye(5)) @ aim
    assert (choice.variances or (choice.before,))[-1] == pytest.approx(exact, rel=1e-4)


def test_the_first_choice_is_the_best_of_all_by_exhaustion():
    grid = {
        "params": np.repeat(np.geomspace(1e6, 1e8, 5), 5),
        "samples": np.tile(np.geomspace(1e4, 1e6, 5), 5),
    }
    assumed_law = design.AssumedLaw(law=LAW, params=TRUE, noise=0.01, source="test")
    prices = grid["params"] * grid["samples"]
    choice = next_cells.choose(assumed_law, grid, grid, prices, TARGET, budget=prices.max())
    gains = []
    for index in range(25):
        more = {name: np.append(values, values[index]) for name, values in grid.items()}
        told = [design.expected(assumed_law, x, target=TARGET) for x in (grid, more)]
        t = [design.student(0.95, n) for n in (20, 21)]
        sds = [np.log(one.prediction.hi / one.prediction.value) / q for one, q in zip(told, t, strict=True)]
        gains.append((sds[0] ** 2 - sds[1] ** 2) / prices[index])
    assert choice.chosen[0] == int(np.argmax(gains))


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0.1, 9), st.floats(0.1, 9), st.integers(0, 2)),
        min_size=6,
        max_size=12,
    ),
    st.floats(1, 80),
)
def test_what_is_chosen_pays_the_longest_trunk_of_each_run_once(candidates, budget):
    group, trunk, rest, runs = (np.array(column) for column in zip(*candidates, strict=True))
    generator = np.random.default_rng(len(candidates))
    x = {
        "params": 10 ** generator.uniform(6, 8, group.size),
        "samples": 10 ** generator.uniform(4, 7, group.size),
    }
    assumed_law = design.AssumedLaw(law=LAW, params=TRUE, noise=0.01, source="")
    trunks = next_cells.Trunks(group=group, price=trunk, runs=runs)
    choice = next_cells.choose(
        assumed_law, x, x, trunk + rest, TARGET, budget=budget, repeats=SEEDS - runs, check=0.2, trunks=trunks
    )  # fmt: skip
    assert sum(choice.paid) <= budget * (1 + 1e-9)
    longest, before = {}, {}
    for index, done in enumerate(runs):
        for run in range(done):
            at = group[index], run
            longest[at] = before[at] = max(longest.get(at, 0.0), trunk[index])
    taken = runs.copy()
    for index in choice.chosen:
        at = group[index], taken[index]
        longest[at], taken[index] = max(longest.get(at, 0.0), trunk[index]), taken[index] + 1
    closed = (
        sum(length - before.get(at, 0.0) for at, length in longest.items()) + rest[list(choice.chosen)].sum()
    )
    assert sum(choice.paid) == pytest.approx(closed)


def test_lengths_of_one_run_are_the_data_of_the_law_and_share_their_trunk(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = {
        "images: {log_space: [10000, 10000000, 5]}": "images: 1000000",
        "epochs: 2": "samples_seen: {log_space: [1000000, 100000000, 5]}",
        "batch: 256": "batch: 256\n  cooldown: 0.2\n  warmup_samples: 64000",
    }
    text = GRID
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "grid.yaml").write_text(text)
    plan, study = make_plan(tmp_path / "grid.yaml")
    frame = plan.frame.filter(pl.col("images") > 0)
    lengths, models = frame["samples_seen"].unique().sort(), frame["model"].unique(maintain_order=True)
    answer(
        study,
        frame.filter((pl.col("samples_seen") == lengths[0]) | (pl.col("model") == models[0])),
        axis="samples_seen",
    )
    (advice,) = advise(study, SuggestOptions(target=TARGET, budget=0.5 * frame["hours_mid"].sum()))
    assert advice.before is not None
    assert len({(pick.model, pick.samples_seen) for pick in advice.picks}) > 4
    for pick in advice.picks:
        here = frame.filter(
            (pl.col("model") == pick.model) & (pl.col("samples_seen") == pick.samples_seen)
        ).row(0, named=True)
        alone = (
            here["hours_probes"]
            + (here["hours_mid"] - here["hours_probes"]) * pick.samples_seen / here["samples_paid"]
        )
        # the first seed's trunk has begun with the shortest run; nobody pays more than a run of his own
        assert pick.hours < len(pick.seeds) * alone * (1 + 1e-9)
