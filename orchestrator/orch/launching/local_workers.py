"""The workers of a launch on this machine: how many live, how many to start, how to end them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orch.launching import journal, submit
from orch.launching.settings import Settings
from orch.launching.status import JobState
from orch_core import provenance
from orch_core.files import exclusive
from orch_core.study import attempts
from orch_core.study.folder import Study

REGISTER_SECONDS = 60.0  # that a worker may take to start Python and write its lock file


@dataclass(slots=True, kw_only=True)
class LocalWorkers:
    """Workers on this machine: those of this launch, and those that a killed launch left behind.

    parallel:  how many may live at once
    gpus_each: number of GPUs that each of them sees
    handles:   those that this launch has started
    """

    study: Study
    token: str
    snapshot: Path
    parallel: int
    gpus_each: int = 1
    handles: list[Any] = field(default_factory=list)
    detached: bool = False

    def alive(self) -> int:
        """Count the living workers, and reap those that ended."""
        for handle in self.handles:
            handle.done()
        return len(local_workers(self.study))

    def keep(self, pending: Sequence[JobState]) -> int:
        """Start missing workers for the pending cells; returns how many were started."""
        started = 0
        if pending and self.alive() < self.parallel:
            # under a lock, because two launches at once would each start as many as there are cores
            with exclusive(self.study.launches / ".spawning"):
                for _ in range(min(len(pending), self.parallel - self.alive())):
                    number = len(self.handles)
                    self.handles.append(
                        submit.start_here(self.study, self.token, number, self.gpus_each, self.snapshot)
                    )
                    started += 1
                self._until_registered()
        return started

    def stop(self) -> None:
        """Ask them to save and end."""
        for path in local_workers(self.study, self.token):
            owner = attempts.read_owner(path)
            if owner:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(owner.pid, signal.SIGTERM)

    def explain(self) -> str:
        """The end of the newest worker's output."""
        return last_words(self.study.logs / self.token)

    def note(self) -> str:
        """An empty string: there is no cluster."""
        return ""

    def _until_registered(self) -> None:
        """Wait until each new worker has written its lock file, or has ended."""
        folder = journal.launch_folder(self.study.root, self.token) / "workers"
        end = time.monotonic() + REGISTER_SECONDS
        while time.monotonic() < end:
            if all((folder / f"w{k}.json").exists() or one.done() for k, one in enumerate(self.handles)):
                return
            time.sleep(0.05)


def parallel_here(settings: Settings) -> int:
    """Workers at once on this machine: the given number, else one per group of GPUs, else one per core."""
    gpus = len(provenance.visible_gpus())
    return settings.parallel or (max(1, gpus // settings.gpus) if gpus else provenance.hardware()["cores"])


def local_workers(study: Study, token: str = "") -> list[Path]:
    """Lock files of live workers: the study's, or those of `token` and of launches without a launcher."""
    return [
        path
        for other in journal.tokens(study.root)
        if not token or other == token or not journal.launcher_lives(study.root, other)
        for path in journal.live_workers(study.root, other)
    ]


def last_words(logs: Path) -> str:
    """The end of the newest log."""
    last = max(logs.glob("*_log.out"), key=lambda path: path.stat().st_mtime, default=None)
    if not last:
        return f"no worker has written to {logs}: do the nodes see this folder?"
    lines = last.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
    return f"{last} ends with:\n" + "\n".join(lines)
