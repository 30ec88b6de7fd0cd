"""YAML 1.2: what the core schema says a scalar is, and the place of every value."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orch_core.errors import GridError, OrchError
from orch_core.yaml import did_you_mean, load_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # YAML 1.2.2, section 10.3.2 (core schema): the six traps of YAML 1.1
        ("x: 1e-4", 1e-4),
        ("x: 5.5e6", 5.5e6),
        ("x: no", "no"),
        ("x: 012", 12),
        ("x: 1:30", "1:30"),
        ("x: true", True),
        ("x: 0o14", 12),
        ("x: ~", None),
        ("x: on", "on"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object):
    read = parse_yaml(text, "grid.yaml").data["x"]
    assert read == value
    assert type(read) is type(value)


def test_duplicate_keys_are_reported_with_both_lines():
    document = parse_yaml("a: 1\nb:\n  c: 1\n  c: 2\n", "grid.yaml")
    (problem,) = document.duplicates
    assert (problem.line, problem.column) == (4, 3)
    assert "first given in line 3" in problem.message


def test_a_syntax_error_has_its_place():
    with pytest.raises(GridError) as caught:
        parse_yaml("a: 1\nb: [1, 2\nc: 3\n", "grid.yaml")
    assert caught.value.problems[0].line == 3


@pytest.mark.parametrize(
    ("text", "says", "line"),
    [
        ("x: " + "[" * 3000 + "]" * 3000, "nested too deeply", 1),
        ("x: &a [*a]", "an anchor contains itself", 1),
        ("study: t\nx: a\x07b", r"'\\x07' is not allowed here", 2),
        ("a0: &a0 [x, y]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 20)), "more than 2,000", 1),
    ],
)  # fmt: skip
def test_what_is_no_grid_for_any_memory_is_refused(text: str, says: str, line: int, monkeypatch):
    monkeypatch.setattr("orch_core.yaml.MOST_VALUES", 2000)
    with pytest.raises(GridError, match=says) as caught:
        parse_yaml(text, "grid.yaml")
    assert caught.value.problems[0].line == line


def test_a_missing_file_names_the_grids_beside_it(tmp_path):
    (tmp_path / "demo.yaml").write_text("study: x")
    with pytest.raises(OrchError) as caught:
        load_yaml(tmp_path / "dmo.yaml")
    assert "demo.yaml" in str(caught.value.hint)


trees = st.recursive(
    st.integers(-5, 5) | st.booleans() | st.text("abc", min_size=1),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("klm", min_size=1), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(trees)
def test_plain_data_comes_back_and_every_value_has_a_place(tree: object):
    text = yaml.safe_dump({"root": tree})
    document = parse_yaml(text, "grid.yaml")
    assert document.data == {"root": tree}
    for line, column in document.values.values():
        assert 1 <= line <= len(document.lines) or not document.lines
        assert column >= 1


def test_did_you_mean_ignores_case_and_lists_all_when_nothing_is_near():
    assert did_you_mean("MAE@1", ["mae@1", "dinov2@1"]) == " - did you mean 'mae@1'?"
    assert did_you_mean("xyz", ["mae@1", "dinov2@1"]) == " - known: mae@1, dinov2@1"
