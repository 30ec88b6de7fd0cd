"""Probing protocols by name. A new one is a module here, and its namesake in `orch_core.learn.probes`."""

from __future__ import annotations

import importlib
import pkgutil

from orch_core.errors import OrchError
from orch_core.protocols.protocol import Protocol
from orch_core.yaml import did_you_mean

__all__ = ["PROTOCOLS", "Protocol", "protocol_named"]


def _found() -> dict[str, Protocol]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"orch_core.protocols.{name}") for name in names]
    return {module.PROTOCOL.id: module.PROTOCOL for module in modules if hasattr(module, "PROTOCOL")}


PROTOCOLS: dict[str, Protocol] = _found()


def protocol_named(name: str) -> Protocol:
    """The protocol called `linear@1`; raises OrchError with the nearest names for an unknown one."""
    if name not in PROTOCOLS:
        message = f"no protocol is called `{name}`{did_you_mean(name, PROTOCOLS)}"
        raise OrchError(message, hint="use a version of orch that has it, or name another under `probes`")
    return PROTOCOLS[name]
