"""The images of a data size: nested, in proportion to the strata, in whole groups, for any order of files.

Images are ranked by a keyed hash of their group (patient, slide, volume) or, without one, of their pixels. A
stratum is a part whose proportion is kept (a source, a modality). The order of `stratified_order` has every
subset as a prefix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
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
    image when the total grows (house monotonicity; Balinski & Young 1982), which is what makes subsets
    nested.
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
    """blake2b-64 of every key with the seed as salt, uint64 [n]; its ascending order is a random order."""
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

    strata: number of each row's stratum, below 65,536; ranks: hash ranks, equal for images of one group;
            within: order
    inside a group (ties keep the order of rows). Inside a stratum rows are ordered by rank; strata are
    interleaved so that every prefix contains each of them in proportion within one image.
    """
    by_rank = _by_rank(ranks, within)
    return by_rank[interleaved(strata[by_rank])]


def interleaved(strata: NDArray[np.integer]) -> Rows:
    """Rows ordered so that every prefix is proportional within one image, in the order of each stratum."""
    by_stratum = np.argsort(strata.astype(np.uint16), kind="stable")  # a radix sort
    places = np.argsort(chairmen(np.bincount(strata).tolist()), kind="stable")
    order = np.empty(len(strata), np.int64)
    order[places] = by_stratum
    return order


def chairmen(sizes: Sequence[int]) -> NDArray[np.uint16]:
    """The stratum of each place, uint16 [sum of sizes]: after n places, stratum s has n share_s within one.

    The chairman assignment problem (Tijdeman 1980, Discrete Mathematics 32). Image j (from 0) of a stratum of
    m in M must stand after place j M / m and by place (j + 1) M / m, rounded up: unit jobs with release times
    and deadlines, for which the earliest deadline first meets all of them (Horn 1974; Steiner & Yeomans
    1993). A heap's item is time * 65536 + stratum.
    """
    total, done = sum(sizes), [0] * len(sizes)
    if total in sizes:
        return np.full(total, sizes.index(total), np.uint16)
    out = np.zeros(total, np.uint16)
    places = out.data  # a memoryview is assigned to in half the time
    waiting = [(1 << 16) + stratum for stratum, size in enumerate(sizes) if size]
    ready: list[int] = []
    release = 1
    for place in range(1, total + 1):
        while release <= place:
            stratum = heappop(waiting) & 0xFFFF
            heappush(ready, (-(-(done[stratum] + 1) * total // sizes[stratum]) << 16) + stratum)
            release = waiting[0] >> 16 if waiting else total + 1
        stratum = heappop(ready) & 0xFFFF
        places[place - 1] = stratum
        done[stratum] = image = done[stratum] + 1
        size = sizes[stratum]
        if image < size:
            following = image * total // size + 1
            if following <= place + 1:
                heappush(ready, (-(-(image + 1) * total // size) << 16) + stratum)
            else:
                heappush(waiting, (following << 16) + stratum)
                release = min(release, following)
    return out


def _by_rank(ranks: Ranks, within: Ranks) -> Rows:
    """Rows by (rank, within, row): one fast sort, then a second one of the rows with equal ranks."""
    order = np.argsort(ranks)
    ranked = ranks[order]
    equal = ranked[1:] == ranked[:-1]
    del ranked
    tied = np.zeros(len(order), bool)
    tied[1:] |= equal
    tied[:-1] |= equal
    rows = order[tied]
    rows.sort()
    rows = rows[np.argsort(within[rows], kind="stable")]
    order[tied] = rows[np.argsort(ranks[rows], kind="stable")]
    return order


def held_out_split(ranks: Ranks, share: float) -> NDArray[np.bool_]:
    """Which images of one source are held out for validation: whole groups, about `share`, at least one.

    A group's place in 0..1 is its rank, mixed once more (SplitMix64's finaliser; Steele, Lea, Flood 2014), so
    that the held-out images are no prefix of the subsets' order; it does not depend on which other groups
    there are.
    """
    mixed = ranks ^ (ranks >> np.uint64(30))
    mixed = mixed * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    limit = np.uint64(min(int(share * 2**64), 2**64 - 1))
    chosen: NDArray[np.bool_] = (mixed < limit) | (mixed == mixed.min())
    return chosen


def is_in(values: Ranks, others: Ranks) -> NDArray[np.bool_]:
    """Which values are among the few others, bool [n]; np.isin takes twenty times as long."""
    found, mask = np.zeros(len(values), bool), np.uint64(2**22 - 1)
    if not len(others):
        return found
    bits = np.zeros(2**22, bool)
    bits[others & mask] = True
    perhaps = np.flatnonzero(bits[values & mask])  # few, so that few are looked up among the others
    ordered = np.sort(others)
    places = np.minimum(np.searchsorted(ordered, values[perhaps]), len(ordered) - 1)
    found[perhaps] = ordered[places] == values[perhaps]
    return found


def shared_with(kept: tuple[Ranks, Ranks], others: tuple[Ranks, Ranks]) -> NDArray[np.bool_]:
    """Which rows of `kept` have both 64-bit halves of a key equal to a row of `others`, bool [n]."""
    (high, low), (other_high, other_low) = kept, others
    found = is_in(low, other_low)
    there = set(zip(other_high.tolist(), other_low.tolist(), strict=True)) if found.any() else set()
    where = np.flatnonzero(found)
    found[where] = [(int(high[row]), int(low[row])) in there for row in where]
    return found
