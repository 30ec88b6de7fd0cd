"""A section of a grid: a frozen pydantic model that refuses unknown keys, and values that sections share."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MOST = 2**53  # floating-point numbers count images and samples exactly below it

LONGEST_NAME = 100  # bytes, so that a file name has room for a hash

Whole = Annotated[int, Field(gt=0, lt=2**31)]


def name_fault(name: str) -> str:
    """Why a name may not become part of a path or a table; "" if it may. Letters of any script may occur."""
    if not name or name != name.strip():
        return "a name may not be empty, or begin or end with a space"
    if name[0] in ".-" or "/" in name or "\\" in name:
        return "a name may not begin with a dot or a dash, or contain a slash: it becomes part of a path"
    if any(unicodedata.category(letter).startswith(("C", "Zl", "Zp")) for letter in name):
        return "a name may not contain line breaks or other characters that are not printed"
    if len(name.encode()) > LONGEST_NAME:
        return f"a name may not be longer than {LONGEST_NAME} bytes"
    return ""


def _name(value: str) -> str:
    fault = name_fault(value)
    if fault:
        message = f"{fault}: got {value[:40]!r}"
        raise mistake(message)
    return value


Name = Annotated[str, AfterValidator(_name)]


class Section(BaseModel):
    """A mapping of the grid: unknown keys are mistakes, and `"3"` is not a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, data: Any) -> Any:
        """YAML reads `1e6` as a float; convert it to an integer."""
        if not isinstance(data, dict):
            return data
        return {
            key: [whole(item) for item in value] if isinstance(value, list) else whole(value)
            for key, value in data.items()
        }


def whole(value: object) -> object:
    """The integer of a float such as `1e6`; any other value unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() and 1 < value < MOST else value


def mistake(message: str) -> PydanticCustomError:
    """A validation error whose text is shown as it is, at the value's place in the grid."""
    return PydanticCustomError("grid", cast(Any, message))


def listed(value: object) -> object:
    """Read one value as a list of one, and `{log_space: [first, last, n]}` as n whole numbers."""
    if isinstance(value, dict) and "log_space" in value:
        return _log_space(value)
    return value if isinstance(value, list) else [value]


def _log_space(value: dict[str, Any]) -> list[int]:
    span = value["log_space"]
    numbers = isinstance(span, list) and len(span) == 3 and all(isinstance(x, int | float) for x in span)
    if (
        len(value) > 1
        or not numbers
        or not 0 < min(span[:2]) <= max(span[:2]) <= 1e30
        or not isinstance(span[2], int)
        or not 2 <= span[2] <= 1_000_000
    ):
        message = f"log_space requires [first, last, n], all positive, with n of at least 2: got {span}"
        raise mistake(message)
    first, last, count = float(span[0]), float(span[1]), span[2]
    return [round(first * (last / first) ** (index / (count - 1))) for index in range(count)]
