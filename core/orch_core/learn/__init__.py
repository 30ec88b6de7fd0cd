"""Pretraining and probing: the only door to torch and timm."""

from orch_core.learn.pretraining import pretrain
from orch_core.learn.probing import probe
from orch_core.learn.result import Result, Stopped, never
from orch_core.learn.step import MemoryPlan

__all__ = ["MemoryPlan", "Result", "Stopped", "never", "pretrain", "probe"]
