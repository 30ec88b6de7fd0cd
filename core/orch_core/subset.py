"""Which images a data size means: nested, in proportion to the strata, groups whole, whatever the order of the files.

Images are ranked by a keyed hash of their group (patient, slide, volume) or, without one, of their pixels. A stratum is
what must keep its share (a source, a modality). The order of `stratified_order` has every subset as a prefix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.uint64]
Rows = NDArray[np.int64]
CHUNK = 2**16
"""Keys that are hashed at a time, so that 21 million take little memory."""


def apportion(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Whole images per source in proportion to `weights`, summing to `total`.

    Webster's method (divisors 1/2, 3/2, 5/2, ...): the only kind of rule under which no source loses an
    image when the total grows (house monotonicity; Balinski & Young 1982), which is what makes subsets nested.
    """
    scale = total / sum(weights.values())
    counts = {name: int(weight * scale + 0.5) for name, weight in weights.items()}
    while (excess := sum(counts.values()) - total) > 0:
        name = max(counts, key=lambda name: ((counts[name] - 0.5) / weights[name], list(weights).index(name)))
        counts[name] -= min(1, excess)
    while sum(counts.values()) < total:
        name = min(counts, key=lambda name: ((counts[name] + 0.5) / weights[name], list(weights).index(name)))
        counts[name] += 1
    return counts


def hash_ranks(keys: Iterable[bytes], subset_seed: int) -> Ranks:
    """blake2b-64 of every key, salted with the seed: images in ascending order of it are in random order, uint64 [n]."""
    salt = subset_seed.to_bytes(8, "big", signed=True)
    parts = [
        np.frombuffer(
            b"".join(hashlib.blake2b(key, digest_size=8, salt=salt).digest() for key in some), ">u8"
        )
        for some in batched(keys, CHUNK)
    ]
    return np.concatenate([np.empty(0, np.uint64), *parts]).astype(np.uint64)


def batched(keys: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Lists of up to `size` keys."""
    rest = iter(keys)
    while some := list(islice(rest, size)):
        yield some


def stratified_order(strata: NDArray[np.integer], ranks: Ranks, within: Ranks) -> Rows:
    """Rows in the order of which the first n are the subset of size n, int64 [n].

    strata: number of each row's stratum, below 65,536; ranks: hash ranks, equal for images of one group; within: order
    inside a group (ties keep the order of rows). Image j (from 0) of a stratum of m stands at (j + 1/2) / m: that is
    the order in which Webster's method (see `apportion`) gives seats, so every prefix holds every stratum in proportion
    within one image, and contains every shorter prefix.
    """
    by_rank = _by_rank(ranks, within)
    by_stratum = by_rank[np.argsort(strata[by_rank].astype(np.uint16), kind="stable")]  # a radix sort
    sizes = np.bincount(strata, minlength=1)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    places = (np.arange(len(by_stratum)) - starts + 0.5) / np.repeat(sizes, sizes)
    return by_stratum[np.argsort(places, kind="stable")]  # merges runs that are sorted already


def _by_rank(ranks: Ranks, within: Ranks) -> Rows:
    """Rows by (rank, within, row): one fast sort, then only the rows whose ranks are equal are sorted again."""
    order = np.argsort(ranks)
    ranked = ranks[order]
    equal = ranked[1:] == ranked[:-1]
    tied = np.zeros(len(order), bool)
    tied[1:] |= equal
    tied[:-1] |= equal
    rows = np.sort(order[tied])
    rows = rows[np.argsort(within[rows], kind="stable")]
    order[tied] = rows[np.argsort(ranks[rows], kind="stable")]
    return order


def held_out_split(ranks: Ranks, share: float) -> NDArray[np.bool_]:
    """Which images of one source are held out for validation: whole groups, about `share` of them and at least one.

    A group's place in 0..1 is its rank, mixed once more (SplitMix64's finaliser; Steele, Lea, Flood 2014), so that
    what is held out is no prefix of the subsets' order; it does not depend on which other groups there are.
    """
    mixed = ranks ^ (ranks >> np.uint64(30))
    mixed = mixed * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    limit = np.uint64(min(int(share * 2**64), 2**64 - 1))
    chosen: NDArray[np.bool_] = (mixed < limit) | (mixed == mixed.min())
    return chosen


def is_in(values: Ranks, others: Ranks) -> NDArray[np.bool_]:
    """Which of the values are among the others (of which there are few), bool [n]; np.isin takes twenty times as long."""
    if not len(others):
        return np.zeros(len(values), bool)
    ordered = np.sort(others)
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    found: NDArray[np.bool_] = ordered[places] == values
    return found


def shared_with(kept: tuple[Ranks, Ranks], others: tuple[Ranks, Ranks]) -> NDArray[np.bool_]:
    """Which rows of `kept` have both 64-bit halves of a key equal to a row of `others`, bool [n]."""
    (high, low), (other_high, other_low) = kept, others
    found = is_in(low, other_low)
    there = set(zip(other_high.tolist(), other_low.tolist(), strict=True)) if found.any() else set()
    where = np.flatnonzero(found)
    found[where] = [(int(high[row]), int(low[row])) in there for row in where]
    return found
