"""Expressions over a grid's axes, such as `mix == "ct" and images >= 10_000`, or over a table's columns.

They are parsed with Python's grammar and checked node by node, never evaluated as Python.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import polars as pl

from orch_core.cell import algorithm_of
from orch_core.errors import OrchError
from orch_core.grid.columns import COLUMNS, TEXT
from orch_core.yaml import did_you_mean

AXES = tuple(column.axis for column in COLUMNS if column.axis)
TEXTS = frozenset(column.axis for column in COLUMNS if column.dtype == TEXT)  # the other axes are numbers
Kind = Literal["number", "text", "truth"]
GRID: Mapping[str, Kind] = {axis: "text" if axis in TEXTS else "number" for axis in AXES}

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class ExpressionError(OrchError):
    """A mistake in an expression, `offset` characters from its start."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


def axes_of(text: str) -> set[str]:
    """Names of the axes in an expression; raises ExpressionError for an unknown axis or a forbidden part."""
    kinds = _Kinds(text)
    try:
        kinds.require(_parsed(text), "truth", "the whole")
    except RecursionError as error:
        message = "not an expression: it is nested too deeply"
        raise ExpressionError(message, 0) from error
    return kinds.used


def evaluate(text: str, axes: Mapping[str, Any], *, is_in: Callable[[Any, list[Any]], Any]) -> Any:
    """The value of an expression over `axes`: plain values, or columns that overload the operators.

    `is_in(value, items)` tests membership. Raises ExpressionError as `axes_of` does.
    """
    axes_of(text)
    return _Translator(text, axes, is_in).visit(_parsed(text))


def over_columns(text: str, columns: Mapping[str, Kind], kind: Kind) -> pl.Expr:
    """An expression of one kind over columns: `split == "train"` is a truth, `C / 6 / N` a number.

    Backquotes enclose names of columns that are not words. Raises ExpressionError as `axes_of` does, and
    for a name that is not a column.
    """
    quoted = dict.fromkeys(re.findall(r"`([^`]+)`", text))
    words = {name: f"column_{number}_" for number, name in enumerate(quoted)}
    plain = re.sub(r"`([^`]+)`", lambda match: words[match.group(1)], text)
    known = {word: columns[name] for name, word in words.items() if name in columns} | dict(columns)
    found = {words.get(name, name): pl.col(name) for name in columns} | {
        name: pl.col(name) for name in columns
    }
    kinds = _Kinds(plain, known)
    unknown = next((name for name in quoted if name not in columns), None)
    if unknown is not None:
        message = f"no column {unknown!r}{did_you_mean(unknown, tuple(columns))}"
        raise ExpressionError(message, 0)
    try:
        kinds.require(_parsed(plain), kind, "the whole")
        value = _Translator(plain, found, lambda value, items: value.is_in(items)).visit(_parsed(plain))
    except RecursionError as error:
        message = "not an expression: it is nested too deeply"
        raise ExpressionError(message, 0) from error
    return value if isinstance(value, pl.Expr) else pl.lit(value)


def is_expression(text: str) -> bool:
    """Whether a text contains a comparison: `mix == 'ct'` does, the name `mae-w64-all-2000-s0` does not."""
    try:
        node = _parsed(text)
    except ExpressionError:
        return False
    negated = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
    return negated or isinstance(node, ast.Compare | ast.BoolOp)


def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        message = f"not an expression: {error.msg} in {_short(text)}"
        at = error.offset - 1 if error.offset and error.lineno == 1 else len(text.strip())
        raise ExpressionError(message, _indent(text) + min(at, len(text.strip()))) from error
    except (MemoryError, ValueError) as error:  # nested too deeply for the parser, or a null character
        message = f"not an expression: {str(error) or 'it is nested too deeply'}"
        raise ExpressionError(message, 0) from error


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


class _Visitor(ast.NodeVisitor):
    """Visits the nodes of an expression; nodes without a method here are not allowed."""

    def __init__(self, text: str) -> None:
        self.text = text

    def generic_visit(self, node: ast.AST) -> Any:
        part = self._part(node)
        message = f"{part!r} is not allowed here: compare axes with values, join with and, or, not"
        raise ExpressionError(message, self._offset(node))

    def _part(self, node: ast.AST) -> str:
        part = ast.get_source_segment(self.text.strip(), node) if isinstance(node, ast.expr) else None
        return part or self.text

    def _offset(self, node: ast.AST) -> int:
        """Characters before the node; ast counts bytes."""
        if getattr(node, "lineno", 0) != 1:
            return 0
        line = self.text.strip().encode()
        return _indent(self.text) + len(line[: getattr(node, "col_offset", 0)].decode(errors="ignore"))


class _Kinds(_Visitor):
    """The kind of each part: number, text or truth. Refuses values that no cell has or that do not fit."""

    def __init__(self, text: str, kinds: Mapping[str, Kind] = GRID) -> None:
        super().__init__(text)
        self.kinds = kinds
        self.used: set[str] = set()

    def require(self, node: ast.expr, kind: str, where: str, about: ast.expr | None = None) -> None:
        """Refuse a part of another kind; the message names its role `where`, and the part `about`."""
        found = self.visit(node)
        if found != kind:
            example = {"truth": "a comparison, such as seed == 0"}.get(kind, f"a {kind}")
            place = f"{where} {self._part(about)!r}" if about else where
            message = f"{self._part(node)!r} is a {found}, where {place} must be {example}"
            raise ExpressionError(message, self._offset(node))

    def visit_Name(self, node: ast.Name) -> str:
        if node.id not in self.kinds:
            what = "unknown axis" if self.kinds is GRID else "no column"
            message = f"{what} {node.id!r} in {_short(self.text)}{did_you_mean(node.id, tuple(self.kinds))}"
            raise ExpressionError(message, self._offset(node))
        self.used.add(node.id)
        return self.kinds[node.id]

    def visit_Constant(self, node: ast.Constant) -> str:
        if not isinstance(node.value, int | float | str):
            self.generic_visit(node)
        if isinstance(node.value, float) and not math.isfinite(node.value):
            message = f"{self._part(node)!r} is beyond the largest number, 1.8e308"
            raise ExpressionError(message, self._offset(node))
        return "text" if isinstance(node.value, str) else "number"

    def visit_BoolOp(self, node: ast.BoolOp) -> str:
        for value in node.values:
            self.require(value, "truth", f"each side of `{'and' if isinstance(node.op, ast.And) else 'or'}`")
        return "truth"

    def visit_UnaryOp(self, node: ast.UnaryOp) -> str:
        if not isinstance(node.op, ast.Not | ast.USub):
            self.generic_visit(node)
        kind, sign = ("truth", "not") if isinstance(node.op, ast.Not) else ("number", "-")
        self.require(node.operand, kind, f"the operand of `{sign}`")
        return kind

    def visit_BinOp(self, node: ast.BinOp) -> str:
        if type(node.op) not in _ARITHMETIC:
            self.generic_visit(node)
        for side in (node.left, node.right):
            self.require(side, "number", "each side of arithmetic")
        return "number"

    def visit_Compare(self, node: ast.Compare) -> str:
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn) and isinstance(right, ast.List | ast.Tuple):
                sides = right.elts
            elif type(op) in _COMPARE:
                sides = [right]
            else:
                self.generic_visit(node)
            if isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
                for side in (left, *sides):
                    self.require(side, "number", "each side of an inequality")
            else:
                kind = self.visit(left)
                for side in sides:
                    self.require(side, kind, "a value compared with", left)
            for side in (left, *sides):
                self._versioned(left, side)
            left = right
        return "truth"

    def _versioned(self, left: ast.expr, right: ast.expr) -> None:
        """An algorithm is `mae`, a recipe `mae@1`: a comparison with the other would never match."""
        if self.kinds is not GRID or not isinstance(left, ast.Name) or not isinstance(right, ast.Constant):
            return
        name, value = left.id, right.value
        wrong = algorithm_of(str(value)) != value if name == "algorithm" else "@" not in str(value)
        if name in {"algorithm", "recipe"} and wrong:
            example = "recipe == 'mae@1' or algorithm == 'mae'"
            message = f"no cell's {name} is {value!r}: only a recipe has a version, as in {example}"
            raise ExpressionError(message, self._offset(right))


def _joined(join: Callable[[Any, Any], Any], values: list[Any]) -> Any:
    """All values joined pair by pair, because joining a thousand in turn would nest a thousand deep."""
    while len(values) > 1:
        odd = values[-1:] if len(values) % 2 else []
        values = [join(a, b) for a, b in zip(values[::2], values[1::2], strict=False)] + odd
    return values[0]


class _Translator(_Visitor):
    def __init__(self, text: str, axes: Mapping[str, Any], is_in: Callable[[Any, list[Any]], Any]) -> None:
        super().__init__(text)
        self.axes, self.is_in = axes, is_in

    def visit_Name(self, node: ast.Name) -> Any:
        return self.axes[node.id]

    def visit_Constant(self, node: ast.Constant) -> Any:
        return node.value

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        join = operator.and_ if isinstance(node.op, ast.And) else operator.or_
        return _joined(join, [self.visit(value) for value in node.values])

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.visit(node.operand)
        if isinstance(node.op, ast.Not):
            return not value if isinstance(value, bool) else ~value
        return -value

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        try:
            value = _ARITHMETIC[type(node.op)](self.visit(node.left), self.visit(node.right))
        except (ZeroDivisionError, OverflowError) as error:
            fault = (
                "divides by zero" if isinstance(error, ZeroDivisionError) else "is beyond the largest number"
            )
            message = f"{self._part(node)!r} {fault}"
            raise ExpressionError(message, self._offset(node)) from error
        if isinstance(value, float) and not math.isfinite(value):
            message = f"{self._part(node)!r} is beyond the largest number"
            raise ExpressionError(message, self._offset(node))
        return value.fill_nan(None) if isinstance(value, pl.Expr) else value  # 0 / 0 compares with nothing

    def visit_Compare(self, node: ast.Compare) -> Any:
        left, steps = self.visit(node.left), []
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            step, left = self._compare(op, left, right_node)
            steps.append(step)
        return _joined(operator.and_, steps)

    def _compare(self, op: ast.cmpop, left: Any, node: ast.expr) -> tuple[Any, Any]:
        if isinstance(op, ast.In | ast.NotIn):
            inside = self.is_in(left, [self.visit(item) for item in cast(ast.List, node).elts])
            negated = isinstance(op, ast.NotIn)
            return (not inside if isinstance(inside, bool) else ~inside) if negated else inside, left
        right = self.visit(node)
        return _COMPARE[type(op)](left, right), right
