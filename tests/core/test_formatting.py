"""Numbers as people read them."""

from __future__ import annotations

import pytest

from orch_core.formatting import count, duration, interval, listed, percent, power, quantity


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (950, "950"),
        (1600, "1.6k"),
        (49152, "49k"),
        (786432, "786k"),
        (5.49e6, "5.5M"),
        (303.1e6, "303M"),
        (21472715, "21M"),
        (1e9, "1G"),
        (3e12, "3·10¹²"),
        (1e13, "10¹³"),
    ],
)
def test_counts_as_people_write_them(value, text):
    assert count(value) == text


def test_powers_have_real_superscripts():
    assert [power(1e9), power(2.5e12), power(1e-3)] == ["10⁹", "2.5·10¹²", "10⁻³"]


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0.004, "14 s"), (0.5, "30.0 min"), (3.21, "3.2 h"), (99.94, "99.9 h"), (1234.5, "1,234 h")],
)
def test_durations_take_the_unit_that_fits(hours, text):
    assert duration(hours) == text


def test_quantities_have_three_figures_and_a_prefix():
    assert [quantity(18.94e12, "FLOP"), quantity(131e6), quantity(12), quantity(3e25)] == [
        "18.9 TFLOP",
        "131 M",
        "12",
        "3e+25",
    ]


def test_shares_intervals_and_lists():
    assert [percent(0.95), percent(0.999)] == ["95%", "99.9%"]
    assert interval(-0.12, -0.2, 0.1, 2, signed=True) == "−0.12 [−0.20, +0.10]"
    assert interval(0.5, None, None) == "0.500"
    assert [listed(["a"]), listed(["a", "b", "c"]), listed([])] == ["a", "a, b and c", ""]
