"""The result of every command: a document for `--json`, and a text for the terminal and for `print`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Answer(ABC):
    """The result of a command or of the function of the same name in `orch`."""

    __slots__ = ()

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The result as one JSON document."""

    @property
    @abstractmethod
    def text(self) -> str:
        """The result for the terminal."""

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        return 0

    def __str__(self) -> str:
        return self.text
