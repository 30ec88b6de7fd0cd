"""How a launch runs, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from orch.launching.slurm import Value
from orch.launching.status import Standing
from orch_core.study.folder import Study

ATTEMPTS = 3  # of a cell in one launch, in a row and without progress, before it counts as failed
SLURM_WORKERS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where and how a launch runs; nothing here enters a cell's identity.

    parallel:      workers at once; 0 for one a GPU or core here, and for 32 on Slurm
    attempts:      of a cell in a row without progress before it counts as failed
    options:       sbatch's long options (`partition`, `gpus-per-node`, `time`, ...), for all workers
    profiles:      more of them by size class (`Job.size_class`): each is a resource class of its own
    cells_per_job: by resource class, cells that lie side by side in one job and share its GPUs; one where not given,
                   which then has all of them
    gpus:          of a cell on one's own machine
    max_gpu_hours: a launch that has spent this much stops, and saves; 0 for no limit
    """

    cluster: Literal["local", "debug", "slurm"] = "local"
    parallel: int = 0
    attempts: int = ATTEMPTS
    options: Mapping[str, Value] = field(default_factory=dict)
    profiles: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    cells_per_job: Mapping[str, int] = field(default_factory=dict)
    gpus: int = 1
    max_gpu_hours: float = 0.0

    def options_of(self, group: str) -> dict[str, Value]:
        """The sbatch options of a resource class."""
        return {**self.options, **self.profiles.get(group, {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A cell, or one of its probes, that gave nothing: why, and the log's path in the study."""

    cell: str
    name: str
    task: str
    cause: str
    message: str
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a launch came to: cells by where they stand, why it stopped early, and the failures by cause."""

    token: str
    done: int
    failed: int
    remaining: int
    diverged: int = 0
    interrupted: bool = False
    stopped: str = ""
    failures: tuple[Failure, ...] = ()

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 1 where a cell failed, else 0."""
        return 130 if self.interrupted else int(self.failed > 0)

    def to_json(self) -> dict[str, Any]:
        """The summary as one JSON document."""
        return {"schema_version": 1, **asdict(self)}


def summarise(study: Study, token: str, standings: Sequence[Standing], *, stopped: str) -> Summary:
    """Count the standings, and read why the failed ones failed."""
    states = [standing.state for standing in standings]
    failed = {standing.entry.id for standing in standings if standing.state == "failed"}
    failures = [
        Failure(
            cell=record.cell,
            name=record.name,
            task=record.task,
            cause=record.reason.cause,
            message=record.reason.message,
            log=record.reason.log,
        )
        for record in (study.failures() if failed else ())
        if record.cell in failed and record.reason
    ]
    return Summary(
        token=token,
        done=states.count("done"),
        diverged=states.count("diverged"),
        failed=len(failed),
        remaining=states.count("pending") + states.count("running"),
        interrupted=stopped == "signal",
        stopped=stopped,
        failures=tuple(failures),
    )
