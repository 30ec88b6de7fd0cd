"""Frozen dataclasses as JSON values, there and back, by the types of their fields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np


def to_plain(value: Any) -> Any:
    """`value` as `json.dumps` takes it: dataclasses and mappings as objects, tuples and arrays as lists.

    Numbers that JSON does not have become the texts "nan", "inf" and "-inf".
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist() if np.isfinite(value).all() else to_plain(value.tolist())
    return {item.name: to_plain(getattr(value, item.name)) for item in fields(value)}


def from_plain(kind: Any, value: Any, known: Mapping[str, Any] | None = None) -> Any:
    """What `to_plain` made into `value`, as the type `kind`; fields that are left out take their defaults.

    known: fields of a dataclass that are taken as they are instead of from `value`. Raises KeyError,
    TypeError or ValueError for a value of another form.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        kinds = [item for item in arguments if item is not NoneType]
        return from_plain(kinds[0], value) if value is not None and len(kinds) == 1 else value
    if origin is Literal:
        if value not in arguments:
            message = f"{value!r} is not one of {', '.join(map(repr, arguments))}"
            raise ValueError(message)
        return value
    if origin is tuple:
        kinds = list(arguments[:1]) * len(value) if arguments[-1] is ... else list(arguments)
        return tuple(from_plain(item, part) for item, part in zip(kinds, value, strict=True))
    if origin is np.ndarray:
        return np.array(value, dtype=np.float64)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: from_plain(arguments[1], item) for key, item in value.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        hints, given = _hints(kind), known or {}
        names = [item.name for item in fields(kind) if item.name in value and item.name not in given]
        return kind(**{name: from_plain(hints[name], value[name]) for name in names}, **given)
    return kind(value) if kind is float or issubclass(kind, Enum) else value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
