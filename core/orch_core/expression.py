"""Expressions over the axes, as `exclude` writes them: `mix == "ct" and images >= 10_000`.

They are parsed with Python's grammar and checked node by node, never evaluated as Python.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from orch_core.errors import OrchError
from orch_core.load import did_you_mean

AXES = (
    "model", "width", "depth", "heads", "params", "algorithm", "recipe", "images", "mix", "seed",
    "resolution", "patch", "samples_seen", "epochs", "steps", "flops",
)  # fmt: skip

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
    """Names of the axes in an expression; raises ExpressionError for an unknown axis, or anything but a comparison."""
    used: set[str] = set()
    evaluate(text, _Names(used), is_in=lambda value, _: value)
    return used


def evaluate(text: str, axes: Mapping[str, Any], *, is_in: Callable[[Any, list[Any]], Any]) -> Any:
    """The value of an expression over `axes`: plain values, or columns that overload the operators.

    `is_in(value, items)` says how membership is asked. Raises ExpressionError as `axes_of` does.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        message = f"not an expression: {error.msg} in {text!r}"
        at = error.offset - 1 if error.offset and error.lineno == 1 else len(text.strip())
        raise ExpressionError(message, _indent(text) + min(at, len(text.strip()))) from error
    return _Translator(text, axes, is_in).visit(tree.body)


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


class _Names(Mapping[str, Any]):
    """Stands for every axis while an expression is only being checked."""

    def __init__(self, used: set[str]) -> None:
        self.used = used

    def __getitem__(self, name: str) -> Any:
        if name not in AXES:
            raise KeyError(name)
        self.used.add(name)
        return _Anything()

    def __iter__(self) -> Any:
        return iter(AXES)

    def __len__(self) -> int:
        return len(AXES)


class _Anything:
    def _same(self, _other: object = None) -> _Anything:
        return self

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _same  # type: ignore[assignment]
    __add__ = __sub__ = __mul__ = __truediv__ = __and__ = __or__ = _same
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rand__ = __ror__ = _same
    __hash__ = None  # type: ignore[assignment]

    def __invert__(self) -> _Anything:
        return self


class _Translator(ast.NodeVisitor):
    def __init__(self, text: str, axes: Mapping[str, Any], is_in: Callable[[Any, list[Any]], Any]) -> None:
        self.text, self.axes, self.is_in = text, axes, is_in

    def visit_Name(self, node: ast.Name) -> Any:
        if node.id not in self.axes:
            message = f"unknown axis {node.id!r} in {self.text!r}{did_you_mean(node.id, self.axes)}"
            raise ExpressionError(message, self._offset(node))
        return self.axes[node.id]

    def visit_Constant(self, node: ast.Constant) -> Any:
        if not isinstance(node.value, int | float | str):
            return self.generic_visit(node)
        return node.value

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        join = operator.and_ if isinstance(node.op, ast.And) else operator.or_
        value = self.visit(node.values[0])
        for other in node.values[1:]:
            value = join(value, self.visit(other))
        return value

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.visit(node.operand)
        if isinstance(node.op, ast.Not):
            return not value if isinstance(value, bool) else ~value
        return -value if isinstance(node.op, ast.USub) else self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        function = _ARITHMETIC.get(type(node.op))
        return (
            function(self.visit(node.left), self.visit(node.right)) if function else self.generic_visit(node)
        )

    def visit_Compare(self, node: ast.Compare) -> Any:
        left, result = self.visit(node.left), None
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            step, left = self._compare(op, left, right_node)
            result = step if result is None else result & step
        return result

    def _compare(self, op: ast.cmpop, left: Any, node: ast.expr) -> tuple[Any, Any]:
        if isinstance(op, ast.In | ast.NotIn) and isinstance(node, ast.List | ast.Tuple):
            inside = self.is_in(left, [self.visit(item) for item in node.elts])
            negated = isinstance(op, ast.NotIn)
            return (not inside if isinstance(inside, bool) else ~inside) if negated else inside, left
        function = _COMPARE.get(type(op))
        if function is None:
            return self.generic_visit(node), left
        right = self.visit(node)
        return function(left, right), right

    def generic_visit(self, node: ast.AST) -> Any:
        part = ast.get_source_segment(self.text.strip(), node) if isinstance(node, ast.expr) else None
        message = (
            f"{part or self.text!r} is not allowed here: compare axes with values, join with and, or, not"
        )
        raise ExpressionError(message, self._offset(node))

    def _offset(self, node: ast.AST) -> int:
        """Characters before the node; ast counts bytes."""
        if getattr(node, "lineno", 0) != 1:
            return 0
        line = self.text.strip().encode()
        return _indent(self.text) + len(line[: getattr(node, "col_offset", 0)].decode(errors="ignore"))
