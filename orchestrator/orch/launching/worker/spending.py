"""What a launch has spent, which its workers count themselves: nobody may be waiting for them."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

from orch.launching import journal
from orch.launching.worker.process import Every
from orch_core.files import write_atomic

LOOK_SECONDS = 5.0  # between two counts, or a hundred times as long as one takes


@dataclass(slots=True, kw_only=True)
class Spending:
    """The device time of a launch: this worker holds `devices`; all may use `most` device-seconds."""

    root: Path = Path()
    token: str = ""
    worker: str = ""
    devices: float = 1.0
    most: float = math.inf
    _began: float = field(default_factory=time.monotonic)
    _look: Every = field(default_factory=lambda: Every(LOOK_SECONDS))
    _over: bool = False

    def is_over(self) -> bool:
        """Whether the workers of the launch have spent what they may."""
        if not self._over and self.most < math.inf and self._look.due():
            before = time.monotonic()
            with contextlib.suppress(OSError):  # a full disk is found by what is being saved
                seconds = (before - self._began) * self.devices
                write_atomic(_folder(self.root, self.token) / self.worker, f"{seconds:.1f}")
            self._over = spent(self.root, self.token) > self.most
            self._look.seconds = max(LOOK_SECONDS, 100 * (time.monotonic() - before))
        return self._over


def spending_of(root: Path, launch: journal.Launch, worker: str, devices: float) -> Spending:
    """The count of one worker of a launch; one that is restarted counts on in another file."""
    if launch.max_gpu_hours:
        _folder(root, launch.token).mkdir(exist_ok=True)
    most = 3600.0 * launch.max_gpu_hours or math.inf
    return Spending(root=root, token=launch.token, worker=worker, devices=devices, most=most)


def _folder(root: Path, token: str) -> Path:
    return journal.launch_folder(root, token) / "spent"


def spent(root: Path, token: str) -> float:
    """Device-seconds that the workers of a launch have counted so far; 0 for a launch without a limit."""
    total = 0.0
    for path in _folder(root, token).glob("[!.]*"):  # not those that are being written
        with contextlib.suppress(OSError, ValueError):
            total += float(path.read_text(encoding="utf-8"))
    return total
