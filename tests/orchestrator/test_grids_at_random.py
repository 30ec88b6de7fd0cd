"""Random grids, right and wrong: whatever a person writes ends as a plan or as mistakes with their places, never as a crash."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orch_core.errors import GridError, OrchError
from orch_core.grid.cells import enumerate_cells
from orch_core.grid.check import read_grid
from orch_core.grid.columns import cell_of
from orch_core.study.draft import draft
from orch_core.yaml import load_yaml

GOOD: dict[str, Any] = {
    "study": "random",
    "sources": {
        "ct": {"path": "ct.npz", "modality": "ct", "images": 40000},
        "us": {"path": "us.npz", "modality": "us", "images": 9000},
    },
    "tasks": {
        "t": {"path": "t.npz", "kind": "multi-class", "classes": 4, "train": 100, "val": 10, "test": 50},
    },
    "mixes": {"all": ["ct", "us"], "two": {"ct": 1, "us": 2.5}},
    "axes": {
        "model": ["ViT-Ti", {"name": "a", "width": 64, "depth": 2}, {"family": "f", "width": [64, 96], "depth": 3}],
        "algorithm": ["mae@1", "random@1", "pixels@1"],
        "images": [1000, "10%", "all"],
        "mix": ["all", "leave_one_out(all)"],
        "seed": [0, 1],
        "resolution": 32,
        "patch": [8, 16],
        "epochs": 2,
    },
    "training": {"batch": 64, "precision": "bf16", "beyond_data": "refuse"},
    "overrides": {"mae@1": {"mask_ratio": [0.5, 0.75]}},
    "exclude": ["model == 'a' and images < 2000", "params > 1e9"],
    "include": [{"model": "a", "images": 500, "seed": 7, "samples_seen": 6400}],
    "isoflop": [{"budgets": {"log_space": [1e13, 1e14, 3]}, "model": "a", "algorithm": "mae@1", "images": 1000, "mix": "all"}],
    "probes": {"tasks": ["t"], "train_limit": 50},
    "cluster": {"device": "A100", "classes": [{"name": "big", "when": "width > 64", "gpus_per_node": 2}]},
    "budget": {"gpu_hours": 3.5},
}  # fmt: skip

junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.sampled_from([0, 1, -1, 0.5, 1e308, float("inf"), float("nan"), "", "all", "0%", "200%", "mae@2", "images > ", "ct"]),
    st.text(max_size=8),
    st.lists(st.integers(-2, 70000), max_size=3),
    st.just({}),
    st.dictionaries(st.sampled_from(["log_space", "name", "width", "depth", "family", "x"]), st.integers(-1, 99), max_size=3),
    st.just({"log_space": [1, 100, 3]}),
)  # fmt: skip


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return found + [place for key, value in items for place in places(value, (*path, key))]


PLACES = places(GOOD)


def changed(place: tuple[Any, ...], how: str, value: Any) -> dict[str, Any]:
    """The good grid with the value at a place replaced, dropped, or its key misspelt."""
    tree = copy.deepcopy(GOOD)
    parent = tree
    for key in place[:-1]:
        parent = parent[key]
    last = place[-1]
    if how == "replace":
        parent[last] = value
    elif how == "drop":
        parent.pop(last)
    elif isinstance(parent, dict):
        parent[f"{last}x"] = parent.pop(last)
    return tree


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(PLACES), st.sampled_from(["replace", "replace", "replace", "drop", "misspell"]), junk)
def test_whatever_is_written_ends_as_a_plan_or_as_mistakes_with_their_places(
    tmp_path: Path, monkeypatch, place: tuple[Any, ...], how: str, value: Any
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(changed(place, how, value), sort_keys=False, allow_unicode=True))
    try:
        plan, _, _ = draft(path, tmp_path / "study")
    except GridError as error:
        lines = path.read_text().splitlines()
        for problem in error.problems:
            assert problem.message
            assert 1 <= problem.line <= len(lines)
            assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
            assert problem.text == lines[problem.line - 1]
        return
    except OrchError as error:
        assert error.hint  # noqa: PT017 - either outcome is right, but a mistake must say what to do
        return
    assert plan.frame["id"].n_unique() == plan.frame.height > 0


def test_the_good_grid_is_good(tmp_path: Path):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(GOOD, sort_keys=False))
    frame = enumerate_cells(read_grid(path))
    assert all(cell_of(row).id == row["id"] for row in frame.iter_rows(named=True))
    assert {"mae@1", "random@1", "pixels@1"} == set(frame["recipe"])


@pytest.mark.parametrize(
    "place", [place for place in PLACES if isinstance(place[-1], str) and len(place) <= 2]
)
def test_a_misspelt_key_is_reported_on_its_line_with_the_right_spelling(
    tmp_path: Path, place: tuple[str, ...]
):
    if place[0] in {"sources", "tasks", "mixes", "overrides"} and len(place) > 1:
        return  # names of one's own
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(changed(place, "misspell", None), sort_keys=False))
    line = load_yaml(path).keys[(*place[:-1], f"{place[-1]}x")][0]
    with pytest.raises(GridError) as caught:
        read_grid(path)
    words = f"unknown key '{place[-1]}x' - did you mean '{place[-1]}'?"
    assert any(problem.line == line and words in problem.message for problem in caught.value.problems)
