"""Expressions over the axes mean what Python says they mean, and nothing else is let through."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orch_core.errors import OrchError
from orch_core.grid.expression import ExpressionError, axes_of, evaluate, is_expression

atoms = st.sampled_from(
    [
        "images > 3",
        "images <= 5",
        "1 < images < 6",
        'mix == "ct"',
        'mix != "us"',
        "seed in [0, 2]",
        'mix not in ("us", "mr")',
        "images + seed * 2 >= 7",
        "images / 2 == seed",
        "-seed < 0",
    ]
)
texts = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds("not ({})".format, inner),
        st.builds("({}) and ({})".format, inner, inner),
        st.builds("({}) or ({})".format, inner, inner),
    ),
    max_leaves=6,
)


@given(texts, st.integers(0, 8), st.integers(0, 3), st.sampled_from(["ct", "us", "mr"]))
def test_values_equal_pythons_own(text: str, images: int, seed: int, mix: str):
    axes = {"images": images, "seed": seed, "mix": mix}
    expected = eval(text, {}, dict(axes))
    assert evaluate(text, axes, is_in=lambda value, items: value in items) == expected
    frame = pl.DataFrame({name: [value] for name, value in axes.items()})
    columns = {name: pl.col(name) for name in axes}
    assert (
        frame.select(evaluate(text, columns, is_in=lambda value, items: value.is_in(items))).item()
        == expected
    )


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "images.real", "[x for x in images]", "images ** 99", "lambda: 1", "images if seed else mix", "f'{mix}'",
     "images is None", "(images := 3)", "images[0]", "print(images)", "", "images >", "None", "images @ seed"],
)  # fmt: skip
def test_code_is_refused(text: str):
    with pytest.raises(OrchError):
        axes_of(text)


@pytest.mark.parametrize(
    ("text", "part", "says"),
    [('images == "all"', '"all"', "must be a number"), ("seed == 1 and model < 3", "model <", "must be a number"), ("-mix == 1", "mix", "a text"),
     ("not 1", "1", "must be a comparison"), ("seed", "seed", "must be a comparison"), ("model in [3]", "3", "must be a text"),
     ("seed + mix == 1", "mix", "must be a number"), ("seed == 1 and model", "model", "must be a comparison"),
     ('algorithm == "mae@1"', '"mae@1"', "recipe == 'mae@1'"), ('recipe in ["mae"]', '"mae"', "only a recipe has a version"),
     ("not " * 400 + "seed == 1", "", "nested too deeply")],
)  # fmt: skip
def test_what_no_cell_can_answer_is_refused_at_its_place(text: str, part: str, says: str):
    with pytest.raises(ExpressionError, match=says) as caught:
        axes_of(text)
    assert caught.value.offset == text.index(part)


def test_a_division_by_zero_is_a_mistake_of_the_expression():
    with pytest.raises(ExpressionError, match="divides by zero"):
        evaluate("1 / 0 > images", {"images": 3}, is_in=lambda value, items: value in items)


def test_unknown_axes_are_named_with_the_nearest():
    with pytest.raises(OrchError, match="did you mean 'samples_seen'"):
        axes_of("sample_seen > 3")


def test_the_axes_used_are_found():
    assert axes_of('mix == "ct" and (images > 3 or not seed in [1])') == {"mix", "images", "seed"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("images > 3 and mod == 'a'", "mod"),
        ("  parms > 1", "parms"),
        ("images > 3 or (seed == 1 and __import__('os'))", "__import__"),
        ("mix == 'ä' and moodel == 'b'", "moodel"),
        ("images ** 2 > 4", "images ** 2"),
        ("images > 3 and", None),
    ],
)
def test_a_mistake_knows_where_in_the_expression_it_is(text: str, part: str | None):
    with pytest.raises(ExpressionError) as caught:
        axes_of(text)
    expected = text.index(part) if part else len(text)
    assert caught.value.offset == expected


def test_a_chain_of_thousands_is_one_expression_and_its_mistake_has_a_place():
    text = " or ".join(f"seed == {i} and images > {i}" for i in range(5000))
    frame = pl.DataFrame({"seed": [0, 4999, 5000], "images": [1, 4999, 9000]})
    assert frame.select(
        evaluate(text, {name: pl.col(name) for name in frame.columns}, is_in=is_in)
    ).to_series().to_list() == [True, False, False]
    with pytest.raises(ExpressionError, match="must be a number") as caught:
        axes_of(f"{text} or seed == 'a'")
    assert caught.value.offset == len(text) + len(" or seed == ")


def is_in(value: pl.Expr, items: list) -> pl.Expr:
    return value.is_in(items)


@pytest.mark.parametrize("text", ["seed > 1e999", "seed > 1e308 * 10", "seed == 1e999 - 1e999"])
def test_numbers_that_are_not_finite_are_refused(text: str):
    with pytest.raises(ExpressionError, match="beyond the largest number"):
        evaluate(text, {"seed": 1}, is_in=lambda value, items: value in items)


def test_what_is_not_a_number_compares_with_nothing():
    frame = pl.DataFrame({"images": [0, 10], "samples_seen": [0, 100]})
    columns = {name: pl.col(name) for name in frame.columns}
    for text, expected in [("samples_seen / images > 5", True), ("samples_seen / images <= 5", False)]:
        assert frame.select(evaluate(text, columns, is_in=is_in)).to_series().to_list() == [None, expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mae-w64-all-2000-s0", False), ("f90c4a12", False), ("computed tomography", False), ("a in b c", False), ("seed", False),
        ("mae@1 all", False), ("mix == 'ct'", True), ("seed in [0, 1]", True), ("not seed == 1", True), ("seed < 3 or seed > 5", True),
    ],
)  # fmt: skip
def test_a_name_is_distinguished_from_an_expression_by_parsing(text: str, expected: bool):
    assert is_expression(text) == expected
