"""Nested subsets: a smaller data size lies in every larger one, source by source."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orch_core.images import hash_order, image_keys
from orch_core.subset import apportion

weights = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=2), st.floats(0.01, 1e6), min_size=1, max_size=6
)


@given(weights, st.integers(1, 5000))
def test_shares_sum_to_the_total_and_grow_with_it(shares, total):
    smaller, larger = apportion(total, shares), apportion(total + 1, shares)
    assert sum(smaller.values()) == total
    assert all(larger[name] >= smaller[name] for name in shares)


@given(weights, st.integers(1, 5000))
def test_shares_equal_websters_method_by_its_definition(shares, total):
    # Balinski & Young 1982: give seat after seat to the highest weight / (2 s + 1)
    seats = Counter(dict.fromkeys(shares, 0))
    names = list(shares)
    for _ in range(min(total, 300)):
        seats[max(names, key=lambda name: (shares[name] / (2 * seats[name] + 1), -names.index(name)))] += 1
    got = apportion(min(total, 300), shares)
    quotients = {name: shares[name] / (2 * seats[name] + 1) for name in names}
    ties = len({round(value, 12) for value in quotients.values()}) < len(names)
    assert ties or got == dict(seats)


@given(st.integers(2, 60), st.integers(0, 5), st.randoms())
def test_hash_order_does_not_depend_on_the_order_of_the_file(count, seed, random):
    images = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2, 1)
    order = list(range(count))
    random.shuffle(order)
    straight = [image_keys(images)[index] for index in hash_order(image_keys(images), seed)]
    mixed = images[order]
    assert [image_keys(mixed)[index] for index in hash_order(image_keys(mixed), seed)] == straight


def test_another_seed_gives_another_order():
    keys = [bytes([index]) * 16 for index in range(50)]
    assert list(hash_order(keys, 0)) != list(hash_order(keys, 1))
    assert sorted(hash_order(keys, 0)) == list(range(50))


@pytest.mark.parametrize("total", [21_472_715, 214_727])
def test_twenty_one_million_images_are_shared_at_once(total):
    shares = {f"source{index}": 10.0 ** (index % 7) for index in range(61)}
    assert sum(apportion(total, shares).values()) == total
