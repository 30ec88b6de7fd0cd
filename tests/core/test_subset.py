"""Nested subsets: a smaller data size lies in every larger one, source by source."""

from collections import Counter
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orch_core.images.npz import hash_order, image_keys
from orch_core.images.subset import apportion, hash_ranks, held_out_split, is_in, stratified_order
from orch_core.packs.arrange import for_pretraining, pack_bounds

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


@st.composite
def populations(draw):
    """Strata, ranks by group (0 is none: an image by itself), ranks within; 64 groups at most."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 300))
    strata = rng.choice(draw(st.integers(1, 7)), n, p=None)
    within = rng.integers(0, 2**63, n, dtype=np.uint64)
    groups = rng.integers(0, draw(st.integers(1, 64)), n)
    ranks = np.where(groups == 0, within, rng.integers(0, 2**63, 64, dtype=np.uint64)[groups])
    return strata, groups, ranks, within


@given(populations())
def test_every_prefix_is_proportional_within_one_image(population):
    strata, _, ranks, within = population
    order = stratified_order(strata, ranks, within)
    assert sorted(order) == list(range(len(strata)))
    sizes = np.bincount(strata)
    for stratum, size in enumerate(sizes):
        counts = np.cumsum(strata[order] == stratum)
        assert np.abs(counts - np.arange(1, len(order) + 1) * size / len(order)).max() < 1


@given(populations())
def test_inside_a_stratum_images_are_in_rank_order_so_all_groups_but_the_last_are_complete(population):
    strata, _, ranks, within = population
    order = stratified_order(strata, ranks, within)
    for stratum in np.unique(strata):
        rows = order[strata[order] == stratum]
        keys = list(zip(ranks[rows], within[rows], strict=True))
        assert keys == sorted(keys)


@given(populations(), st.randoms())
def test_the_order_is_of_the_images_not_of_the_files(population, random):
    strata, _, ranks, within = population
    mixed = list(range(len(strata)))
    random.shuffle(mixed)
    straight = within[stratified_order(strata, ranks, within)]
    assert np.array_equal(
        within[mixed][stratified_order(strata[mixed], ranks[mixed], within[mixed])], straight
    )


@given(populations(), st.integers(1, 50))
def test_a_source_that_is_added_leaves_the_order_inside_the_others(population, added):
    strata, _, ranks, within = population
    rng = np.random.default_rng(added)
    more = rng.integers(0, 2**63, added, dtype=np.uint64)
    larger = stratified_order(
        np.append(strata, np.full(added, 9)), np.append(ranks, more), np.append(within, more)
    )
    before = stratified_order(strata, ranks, within)
    for stratum in np.unique(strata):
        kept = [row for row in larger if row < len(strata) and strata[row] == stratum]
        assert kept == [row for row in before if strata[row] == stratum]


@given(populations(), st.floats(0, 1))
def test_a_group_is_held_out_whole_whatever_else_there_is(population, share):
    _, _, ranks, _ = population
    chosen = held_out_split(ranks, share)
    assert chosen.any()
    for rank in np.unique(ranks):
        assert len(set(chosen[ranks == rank])) == 1
    half = ranks[: len(ranks) // 2]
    if len(half) and (held_out_split(half, share) != chosen[: len(half)]).any():  # only for want of another
        assert held_out_split(half, share).sum() == (half == half[held_out_split(half, share)][0]).sum()


def test_the_share_held_out_is_the_share_asked_for():
    ranks = hash_ranks((number.to_bytes(4, "big") for number in range(20_000)), 0)
    for share in (0.01, 0.2):
        deviation = (20_000 * share * (1 - share)) ** 0.5
        assert abs(held_out_split(ranks, share).sum() - 20_000 * share) < 5 * deviation
    assert held_out_split(ranks, 1).all()


@given(populations(), st.integers(0, 2**32 - 1))
def test_pretraining_sees_no_image_and_no_group_of_another_split(population, seed):
    _, _, ranks, within = population
    split = np.random.default_rng(seed).choice(3, len(ranks), p=[0.6, 0.2, 0.2])
    low = within % np.uint64(50)  # so that some images are equal
    frame = pl.DataFrame({"split": split, "rank": ranks, "hash_high": low, "hash_low": low})
    kept = for_pretraining(frame)
    others = split > 0
    expected = [
        split[row] == 0 and ranks[row] not in ranks[others] and low[row] not in low[others]
        for row in range(len(ranks))
    ]
    assert kept.tolist() == expected


@given(st.lists(st.integers(1, 400), min_size=1, max_size=200), st.integers(1, 1000), st.floats(0, 1))
def test_packs_contain_every_image_once_and_end_at_data_sizes(sizes, most, share):
    pretraining = int(share * len(sizes))
    bounds = pack_bounds(np.array(sizes, np.uint64), pretraining, most)
    assert (bounds[0], bounds[-1]) == (0, len(sizes))
    assert {round(level * pretraining) for level in (0.001, 0.01, 0.1, 1)} <= set(bounds)
    for first, last in pairwise(bounds):
        assert last - first == 1 or sum(sizes[first:last]) <= most


@given(st.lists(st.integers(0, 50)), st.lists(st.integers(0, 50)))
def test_membership_is_that_of_sets(values, others):
    found = is_in(np.array(values, np.uint64), np.array(others, np.uint64))
    assert found.tolist() == [value in others for value in values]
