"""Errors that users make: the message names the mistake and its place, the hint its remedy."""

from __future__ import annotations

from dataclasses import dataclass


class OrchError(Exception):
    """A mistake that the user can correct; commands print it without a traceback and exit with 2."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake in a file: `line` and `column` count from 1, `text` is the offending line."""

    file: str
    line: int
    column: int
    message: str
    text: str

    def __str__(self) -> str:
        caret = " " * (self.column - 1) + "^"
        return f"{self.file}:{self.line}:{self.column}: {self.message}\n    {self.text}\n    {caret}"


class GridError(OrchError):
    """Every mistake found in a grid, in the order of its lines."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems
