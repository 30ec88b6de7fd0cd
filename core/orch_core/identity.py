"""The identity of a cell as a number: 128-bit ids that do not depend on where or when it runs.

An id is the sum of one keyed hash per field (Zobrist 1970), in two 64-bit lanes without carry.
Fields can therefore be hashed once per axis value and added by the column: a plan of a million
cells needs as many hashes as its axes have values.
"""

from __future__ import annotations

import hashlib
import json
import math
from binascii import hexlify
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"

VERSION = 1  # of the canonical form: raising it gives every cell a new id
Hashes = NDArray[np.uint64]

_LANE = 1 << 64


def canonical(value: object) -> str:
    """JSON text with sorted keys, no spaces, and one spelling per number (`1.0` is `1`).

    Raises TypeError for anything without a stable form (callables, sets, NaN, objects).
    """
    return json.dumps(_stable(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _stable(value: object) -> Json:
    if isinstance(value, float):
        if not math.isfinite(value):
            msg = f"{value} has no stable form"
            raise TypeError(msg)
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list | tuple):
        return [_stable(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _stable(item) for key, item in value.items()}
    msg = f"a {type(value).__name__} has no stable identity: {value!r}"
    raise TypeError(msg)


def digest(fields: Mapping[str, object]) -> str:
    """The id of a set of fields: 32 hexadecimal digits, independent of their order."""
    halves = [_hash(field, value) for field, value in fields.items()]
    high, low = (sum(half) % _LANE for half in zip(*halves, strict=True)) if halves else (0, 0)
    return f"{high:016x}{low:016x}"


def field_hashes(field: str, values: Sequence[object]) -> Hashes:
    """The hash of each value of one field, shape (values, 2). A cell's id is the sum over its fields."""
    return np.array([_hash(field, value) for value in values], dtype=np.uint64).reshape(-1, 2)


def join_ids(hashes: Hashes) -> pl.Series:
    """Ids of summed hashes, shape (cells, 2), as 32 hexadecimal digits each; equal to `digest` of fields."""
    import polars as pl

    text = np.frombuffer(hexlify(hashes.astype(">u8").tobytes()), dtype="S32")
    return pl.Series("id", text, dtype=pl.Binary).cast(pl.String)


def split_ids(ids: pl.Series) -> Hashes:
    """Both 64-bit halves of ids, shape (cells, 2): the inverse of `join_ids`."""
    import polars as pl

    halves = (ids.str.slice(start, 16).str.decode("hex") for start in (0, 16))
    numbers = [half.bin.reinterpret(dtype=pl.UInt64, endianness="big").to_numpy() for half in halves]
    return np.stack(numbers, axis=1)


def _hash(field: str, value: object) -> tuple[int, int]:
    """Two 64-bit halves of blake2b over one field; they are added over all fields modulo 2^64."""
    text = f"{VERSION}|{field}|{canonical(value)}".encode()
    digest = hashlib.blake2b(text, digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
