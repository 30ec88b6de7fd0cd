"""One file per probing protocol, named like it, with `evaluate(subject, task, probe) -> Scored`."""

from __future__ import annotations

import importlib

from orch_core.cell import Probe
from orch_core.learn.probes.scoring import Scored
from orch_core.learn.probes.subject import Subject
from orch_core.learn.probes.task import Task
from orch_core.protocols import protocol_named


def evaluate_probe(subject: Subject, task: Task, probe: Probe) -> Scored:
    """Score a subject on a task by the probe's protocol; raises OrchError if the protocol is unknown."""
    name = protocol_named(probe.protocol).name.replace("-", "_")
    scored: Scored = importlib.import_module(f"orch_core.learn.probes.{name}").evaluate(subject, task, probe)
    return scored
