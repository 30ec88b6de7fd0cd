"""The published scaling laws, by name; `load("my_law.py")` reads a user's own.

A law is a value of type `Law` in any module of this package: adding it there is all that adding a law takes.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from types import MappingProxyType
from typing import Any

from orch_analysis.laws.law import Law, load
from orch_analysis.laws.null import constant
from orch_core.errors import OrchError

__all__ = ["LAWS", "Law", "get", "load", "restored"]


def _collected() -> Mapping[str, Law]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    values = [value for name in names for value in vars(import_module(f"{__name__}.{name}")).values()]
    return MappingProxyType({law.name: law for law in values if isinstance(law, Law)})


LAWS: Mapping[str, Law] = _collected()


def get(name: str) -> Law:
    """A law by its name, or by the path of a file that defines one; raises OrchError for neither."""
    if name in LAWS:
        return LAWS[name]
    if name.endswith(".py"):
        return load(name)
    close = get_close_matches(name, LAWS, n=1)
    msg = f"unknown law {name!r}; known: {', '.join(LAWS)}"
    raise OrchError(
        msg, hint=f"did you mean {close[0]!r}?" if close else "or give the path of a file that sets LAW"
    )


def restored(form: Mapping[str, Any], variables: tuple[str, ...], *, trust: bool = False) -> Law:
    """The law that a card or an entry of laws.json names, with its fixed parameters, read along `variables`.

    Raises OrchError for a law that is not known, and for one in a Python file unless `trust` allows to
    execute it.
    """
    name, file = form["law"], form.get("file")
    if file and not trust:
        msg = f"law {name} is the Python program {file}, which is not executed unless it is trusted"
        raise OrchError(msg, hint="read the file; if it does what you want, repeat the command with --trust")
    if name == "constant":
        return constant(variables)
    law = load(file) if file else get(name)
    if len(law.x) == 1 == len(variables):
        law = law.along(variables[0])
    return law.fix(**form["fixed"]) if form["fixed"] else law
