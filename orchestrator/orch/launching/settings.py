"""Settings of a launch: the command line's options, then the grid's cluster section, then `cluster.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ValidationError

from orch_core import provenance
from orch_core.cell import Job
from orch_core.errors import OrchError
from orch_core.grid.resources import DEFAULT, Cluster, Option, ResourceClass
from orch_core.user_settings import user_cluster

ATTEMPTS = 3  # of a cell in one launch, in a row and without progress, before it counts as failed
Where = Literal["local", "debug", "slurm", "worker"]
"""Where cells run: workers on this machine, this process, workers on Slurm, or `orch worker`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """Options of `orch launch`; raises OrchError if they contradict each other.

    parallel:      workers at once; None for the grid's number, or the default of `Settings`
    resources:     of jobs on Slurm; overrides the grid
    max_gpu_hours: device-hours after which the launch saves and stops
    wait:          wait until everything is done; otherwise return once workers have started
    """

    cluster: Where = "local"
    parallel: int | None = None
    resources: ResourceClass = field(default_factory=ResourceClass)
    max_gpu_hours: float | None = None
    wait: bool = True

    def __post_init__(self) -> None:
        asked = next(iter(self.resources.options()), "")
        if asked and self.cluster != "slurm":
            message = f"--{asked} is an option of Slurm, and this launch is {self.cluster}"
            raise OrchError(message, hint="add --cluster slurm, or remove it")


def resources_of(named: Mapping[str, Option | None], words: Sequence[str]) -> ResourceClass:
    """Slurm resources from the command line: named options, and `NAME=VALUE` or `NAME` for any other.

    Raises OrchError for anything else.
    """
    options: dict[str, Option] = {name: value for name, value in named.items() if value is not None}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or (equals and not value):
            message = f"--sbatch takes NAME=VALUE, or NAME for a flag: got {word!r}"
            raise OrchError(message, hint="for example --sbatch constraint=a100 --sbatch exclusive")
        options[name] = value if equals else True
    try:
        return ResourceClass.model_validate({"sbatch": options})
    except ValidationError as error:
        raise OrchError(error.errors()[0]["msg"], hint="see `man sbatch`") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where and how a launch runs; nothing here is part of a cell's identity.

    parallel:      workers at once; 0 for one per GPU or core of this machine, or for 32 on Slurm
    attempts:      of a cell in a row without progress before it counts as failed
    classes:       resources of jobs on Slurm, by resource class; other size classes are in `default`
    gpus:          that a cell uses on this machine
    max_gpu_hours: device-hours after which the launch saves and stops; 0 for no limit
    """

    cluster: Where = "local"
    parallel: int = 0
    attempts: int = ATTEMPTS
    classes: Mapping[str, ResourceClass] = field(default_factory=dict)
    gpus: int = 1
    max_gpu_hours: float = 0.0

    def class_of(self, job: Job) -> str:
        """The name of a job's resource class."""
        return job.size_class if job.size_class in self.classes else DEFAULT

    def resources(self, name: str) -> ResourceClass:
        """Resources of the jobs of a resource class."""
        return self.classes.get(name, ResourceClass())


def settings_of(cluster: Cluster, options: LaunchOptions) -> Settings:
    """Settings from a grid's cluster section and the options; on Slurm, `cluster.yaml` adds defaults.

    Raises GridError for a mistake in `cluster.yaml`.
    """
    on_slurm = options.cluster == "slurm"
    cluster = cluster.with_defaults(user_cluster()) if on_slurm else cluster
    classes = {name: options.resources.over(asked) for name, asked in cluster.resource_classes().items()}
    most = max(int(asked.devices) for asked in classes.values())
    return Settings(
        cluster=options.cluster,
        parallel=options.parallel or (cluster.parallel if on_slurm else None) or 0,
        attempts=cluster.max_attempts or ATTEMPTS,
        classes=classes if on_slurm else {},
        gpus=max(1, min(most, len(provenance.visible_gpus()))),
        max_gpu_hours=options.max_gpu_hours or 0.0,
    )
