"""Random numbers as functions of counters: a generator has no state, so none has to be saved.

Philox (Salmon et al. 2011) is a counter-based generator: key and counter determine the stream. The same
(seed, stream, counter) gives the same numbers in every process, on every device and after every resume.
"""

from __future__ import annotations

import hashlib
from typing import overload

import numpy as np
from numpy.typing import NDArray

MASK = (1 << 64) - 1


def generator(seed: int, stream: str, counter: int = 0) -> np.random.Generator:
    """A generator for one use (`stream`) at one step (`counter`) of one seed."""
    key = [seed & MASK, _word(stream)]
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, counter]))


class Rows:
    """A generator for the rows `part` of a batch of `total`: numpy's methods, each returning only those rows.

    An image's random numbers therefore do not depend on how a batch is divided among processes.
    """

    def __init__(self, rng: np.random.Generator, part: slice, total: int) -> None:
        self.rng, self.part, self.total = rng, part, total

    @overload
    def random(self, size: None = None) -> float: ...
    @overload
    def random(self, size: int | tuple[int, ...]) -> NDArray[np.float64]: ...
    def random(self, size: int | tuple[int, ...] | None = None) -> float | NDArray[np.float64]:
        """Uniform in 0..1: one number for the whole batch, or [rows, ...]."""
        return self.rng.random() if size is None else self.rng.random(self._whole(size))[self.part]

    def integers(self, low: int, high: int, size: tuple[int, ...]) -> NDArray[np.int64]:
        """Integers from low to high - 1, [rows, ...]."""
        return self.rng.integers(low, high, self._whole(size))[self.part]

    def shuffled(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Values [k x total] in random order, as [k, rows]."""
        return self.rng.permutation(values).reshape(-1, self.total)[:, self.part]

    def _whole(self, size: int | tuple[int, ...]) -> tuple[int, ...]:
        shape = (size,) if isinstance(size, int) else size
        return (self.total, *shape[1:])


Draws = np.random.Generator | Rows


def epoch_indices(first: int, count: int, n: int, seed: int) -> NDArray[np.int64]:
    """Which of `n` images are shown at positions first .. first+count-1 of an endless sequence of epochs.

    Every epoch is another permutation (a Feistel network, iterated until in range: Black and Rogaway 2002),
    so any position is computed without those before it, in O(count) time and memory.
    """
    positions = np.arange(first, first + count, dtype=np.int64)
    epochs, offsets = positions // n, (positions % n).astype(np.uint64)
    keys = np.array(
        [[_word(f"{seed}|{epoch}|{r}") for r in range(ROUNDS)] for epoch in np.unique(epochs)], np.uint64
    )
    return permuted(offsets, n, keys[epochs - epochs[0]]).astype(np.int64)


ROUNDS = 6


def permuted(offsets: NDArray[np.uint64], n: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Images at `offsets` (each < n) of the permutations of range(n) with `keys` [offsets, rounds]."""
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    value = _network(offsets, keys, half, low)
    outside = value >= n
    while outside.any():
        value[outside] = _network(value[outside], keys[outside], half, low)
        outside = value >= n
    return value


def _network(
    value: NDArray[np.uint64], keys: NDArray[np.uint64], half: np.uint64, low: np.uint64
) -> NDArray[np.uint64]:
    left, right = value >> half, value & low
    for key in keys.T:
        left, right = right, left ^ (_mix(right + key) & low)
    return (left << half) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _word(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
