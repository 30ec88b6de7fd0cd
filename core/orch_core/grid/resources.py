"""The resources of a Slurm job: one type from the grid, user's file and options to the plan and launch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from orch_core.grid.section import Section, Whole, mistake

Option = str | int | bool
DEFAULT = "default"  # the class of cells that no rule of `cluster.classes` matches

NAMED = (
    "partition",
    "account",
    "qos",
    "gpus_per_node",
    "gres",
    "nodes",
    "time",
)  # fields, named as in sbatch
GPU_OPTIONS = ("gpus", "gpus-per-node", "gpus-per-task", "gres")  # they replace gpus_per_node
SHORT = {"A": "account", "G": "gpus", "N": "nodes", "n": "ntasks", "p": "partition", "q": "qos", "t": "time"}
SET_BY_ORCH = frozenset({
    "array", "chdir", "error", "job-name", "open-mode", "output", "parsable", "signal", "test-only", "wait",
    "wrap",
})  # fmt: skip


def minutes_of(text: str | int, *, exact: bool = False) -> float:
    """Minutes of Slurm's `MM`, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM`, `D-HH:MM:SS`; infinite for UNLIMITED.

    Raises ValueError for anything else. Without `exact`, rounded up to whole minutes as sbatch does.
    """
    words = str(text).strip()
    if words.upper() in {"UNLIMITED", "INFINITE"}:
        return math.inf
    days, dash, clock = words.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 1:
        hours, minutes, seconds = 0, parts[0], 0
    else:
        hours, minutes, seconds = (0, *parts) if len(parts) == 2 else tuple(parts)
    total = (int(days or 0) * 24 + hours) * 60 + minutes + seconds / 60
    return total if exact else math.ceil(total)


def _time(value: object) -> object:
    """Check a job's time limit; a number is minutes."""
    if value is None:
        return None
    text = str(value).strip()
    try:
        minutes = -1.0 if isinstance(value, bool | float) or text.startswith("-") else minutes_of(text)
    except (ValueError, TypeError):
        minutes = -1.0
    if minutes < 0:
        message = f"a time is minutes, HH:MM:SS or D-HH:MM:SS: got {value!r}"
        raise mistake(message)
    if minutes == 0:
        message = "a job of 0 minutes would end before it begins: give more time, or remove `time`"
        raise mistake(message)
    return text


def _long(name: str) -> str:
    return SHORT.get(name, name.removeprefix("--").replace("_", "-"))


SECRET_WORDS = frozenset(
    ("APIKEY", "AUTH", "CREDENTIAL", "CREDENTIALS", "KEY", "PASS", "PASSWD", "PASSWORD", "SECRET", "TOKEN")
)
SECRET_VALUE = re.compile(
    r"[a-z][a-z0-9+.-]*://[^/@\s]+@"  # a URL with a user or password
    r"|\b(hf_|ghp_|gho_|github_pat_|glpat-|sk-|xox[abp]-|AKIA)[A-Za-z0-9_-]{12,}"  # tokens of known services
    r"|-----BEGIN "
)
ASSIGNED = re.compile(r"\b([A-Za-z_]\w*)=(\S*)")
HINT = (
    "leave it out, since a grid is copied into the study: jobs have the environment of the shell that "
    "launches, or read it on the node, in `setup`, from a file that only you can read"
)
SOCKET_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


def _printed(value: str) -> str:
    if not value.strip() or re.search(r"[\n\r\0]", value):
        message = "give one line of text that is not empty"
        raise mistake(message)
    return value


def _setup_line(line: str) -> str:
    if line.lstrip().startswith("#SBATCH"):
        message = "`setup` is run by the shell: give options of sbatch in `sbatch`"
        raise mistake(message)
    for name, value in ASSIGNED.findall(line):
        if not value.startswith(("$", '"$', "`")):  # `KEY=$(cat file)` holds no secret itself
            _refuse_secret(name, value.strip("'\""))
    return line


def _refuse_secret(name: str, value: str) -> None:
    words = set(name.upper().split("_"))
    if (value and words & SECRET_WORDS and not value.startswith("/")) or SECRET_VALUE.search(value):
        message = f"{name} looks like a secret: {HINT}"
        raise mistake(message)


def _variables(value: object) -> object:
    """Read numbers and true or false as the text that the variable gets."""
    if not isinstance(value, dict):
        return value
    texts = {name: str(one).lower() if isinstance(one, bool) else one for name, one in value.items()}
    return {name: str(one) if isinstance(one, int | float) else one for name, one in texts.items()}


def _known_variables(variables: dict[str, str]) -> dict[str, str]:
    for name, value in variables.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            message = f"{name!r} is not the name of an environment variable"
            raise mistake(message)
        if re.search(r"[\n\r\0]", value):
            message = f"{name}: the value of a variable is one line"
            raise mistake(message)
        if name.startswith(("SLURM_", "SBATCH_")) or name in {"PYTHONPATH", "PYTHONSAFEPATH"}:
            message = f"{name} is set by Slurm or by orch: leave it out"
            raise mistake(message)
        _refuse_secret(name, value)
    return variables


def _place(value: str) -> str:
    if not re.match(r"/|\$", value):
        message = (
            f"give a path on the node that begins with / or with a variable such as $TMPDIR: got {value!r}"
        )
        raise mistake(message)
    return value


def _mount(value: str) -> str:
    if not re.fullmatch(r"[^:,]+(:[^:,]+){0,2}", value):
        message = f"a mount is SOURCE, SOURCE:TARGET or SOURCE:TARGET:ro, without commas: got {value!r}"
        raise mistake(message)
    return value


Line = Annotated[str, AfterValidator(_printed)]
Interface = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$")]


class Container(Section):
    """The container image in which workers run, with torch and what orch depends on; orch itself is mounted.

    The study and the folders of the data are mounted by orch, in addition to `mounts`.
    """

    image: Line = Field(description="what the runtime takes: a file, or an address such as docker://...")
    runtime: Literal["pyxis", "apptainer"]
    mounts: list[Annotated[Line, AfterValidator(_mount)]] = Field(default=[])
    workdir: Annotated[Line, AfterValidator(_place)] | None = None

    def with_folders(self, folders: Iterable[Path]) -> Container:
        """Return this container with more folders of the host mounted where they are."""
        there = {mount.partition(":")[0] for mount in self.mounts}
        more = sorted({str(folder) for folder in folders} - there)
        bad = next((path for path in more if not re.fullmatch(r"[^:,\n]+", path)), None)
        if bad:
            message = f"a folder whose path has a colon or comma cannot be mounted in a container: {bad}"
            raise mistake(message)
        return Container.model_validate(
            self.model_dump() | {"mounts": [*self.mounts, *(f"{path}:{path}" for path in more)]}
        )

    def sbatch_options(self) -> dict[str, str]:
        """What pyxis adds to the options of sbatch and srun; nothing for apptainer."""
        if self.runtime != "pyxis":
            return {}
        mounts = ",".join(mount if ":" in mount else f"{mount}:{mount}" for mount in self.mounts)
        options = {"container-image": self.image, "container-mounts": mounts}
        options |= {"container-workdir": self.workdir} if self.workdir else {}
        return {name: value for name, value in options.items() if value}

    def command(self) -> list[str]:
        """What is written before a command so that apptainer runs it in the image; nothing for pyxis."""
        if self.runtime != "apptainer":
            return []
        binds = [word for mount in self.mounts for word in ("--bind", mount)]
        place = ["--pwd", self.workdir] if self.workdir else []
        return ["apptainer", "exec", "--nv", *binds, *place, self.image]


class NodeEnvironment(Section):
    """How the nodes of a Slurm job are prepared before its worker starts; never part of a cell's identity."""

    setup: list[Annotated[Line, AfterValidator(_setup_line)]] | None = Field(
        default=None, description="shell lines before the worker starts, such as `module load cuda`"
    )
    env: Annotated[dict[str, str], BeforeValidator(_variables), AfterValidator(_known_variables)] | None = (
        Field(default=None, description="environment variables of the worker, as they are, without expansion")
    )
    container: Container | None = None
    stage: Annotated[Line, AfterValidator(_place)] | None = Field(
        default=None, description="a folder on the node's own disk, to which data are copied before work"
    )
    network_interface: Interface | None = Field(
        default=None, description="by which the nodes of a cell exchange gradients, such as ib0"
    )

    def variables(self) -> dict[str, str]:
        """Every variable that a worker gets: `env`, and what `network_interface` sets unless `env` does."""
        named = dict.fromkeys(SOCKET_VARIABLES if self.network_interface else (), self.network_interface)
        return {name: value for name, value in (named | (self.env or {})).items() if value is not None}

    def node_environment(self) -> NodeEnvironment:
        """Return these fields alone."""
        return NodeEnvironment.model_validate(environment_of(self))


def environment_of(one: NodeEnvironment) -> dict[str, Any]:
    """The fields of a node's environment that are set, as a document."""
    return one.model_dump(include=set(NodeEnvironment.model_fields), exclude_none=True)


class ResourceClass(NodeEnvironment):
    """The resources that one Slurm job requests, None for its default. They never enter a cell's identity."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gpus_per_node: int | None = Field(default=None, ge=0)
    gres: str | None = Field(
        default=None,
        description="generic resources of a node, such as gpu:a100:2, where GPUs are asked for so",
    )
    nodes: Whole | None = Field(default=None, description="default: 1")
    time: Annotated[str | None, BeforeValidator(_time)] = Field(
        default=None, description="HH:MM:SS or minutes, per job"
    )
    cells_per_job: Whole | None = Field(
        default=None,
        description="number of small cells that share a job and its GPUs; default: one",
    )
    sbatch: dict[str, Option] = Field(default={}, description="any other option of sbatch, by its long name")

    @model_validator(mode="before")
    @classmethod
    def _named_options(cls, data: Any) -> Any:
        """Move each option of `sbatch` that has a field into that field."""
        if not isinstance(data, dict) or not isinstance(data.get("sbatch"), dict):
            return data
        options = {_long(str(name)): value for name, value in data["sbatch"].items()}
        named = {}
        for name in NAMED:
            value = options.get(_option(name))
            number = name in {"gpus_per_node", "nodes"}
            if value is None or data.get(name) is not None or (number and not str(value).isdecimal()):
                continue
            named[name] = int(value) if number else value
            del options[_option(name)]
        return {**data, **named, "sbatch": options}

    @field_validator("sbatch")
    @classmethod
    def _allowed(cls, options: dict[str, Option]) -> dict[str, Option]:
        for name, value in options.items():
            if name in SET_BY_ORCH:
                message = f"orch sets sbatch's option `{name}` itself: remove it"
                raise mistake(message)
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                message = f"{name!r} is not the long name of an option of sbatch"
                raise mistake(message)
            if re.search(r"[\n\r\0]", str(value)):
                message = f"{name}: an option of sbatch is one line"
                raise mistake(message)
        return options

    @field_validator("partition", "account", "qos", "gres")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        if value is not None and re.search(r"[\n\r\0]", value):
            message = "an option of sbatch is one line"
            raise mistake(message)
        return value

    def over(self, below: ResourceClass) -> ResourceClass:
        """Return this class with the fields that are None taken from `below`."""
        return ResourceClass(**_merged(self, below, ResourceClass))

    def options(self) -> dict[str, Option]:
        """Every option under sbatch's long name."""
        own = {_option(name): getattr(self, name) for name in NAMED}
        return {name: value for name, value in own.items() if value is not None} | self.sbatch

    def gpu_options(self) -> dict[str, Option]:
        """The options that request GPUs; empty if there are none."""
        found = {name: value for name, value in self.options().items() if name in GPU_OPTIONS}
        return {name: value for name, value in found.items() if name != "gres" or "gpu" in str(value)}

    @property
    def gpus(self) -> int:
        """GPUs of a job on all nodes, from gpus_per_node or sbatch's gpus, gres or gpus-per-task; else 0."""
        asked, options = self.gpu_options(), self.options()
        if "gpus" in asked:
            return _count(asked["gpus"])
        if "gpus-per-task" in asked:
            per_node = _number(options.get("ntasks-per-node", 1))
            return _number(options.get("ntasks", self.node_count * per_node)) * _count(asked["gpus-per-task"])
        if "gpus-per-node" in asked:
            return self.node_count * _count(asked["gpus-per-node"])
        return self.node_count * _gres(str(asked.get("gres", "")))

    @property
    def node_count(self) -> int:
        """Nodes of a job; the lower end of a range such as `2-4`."""
        return _number(self.options().get("nodes", 1))

    @property
    def devices(self) -> float:
        """Devices per cell: the job's GPUs, or one per node, by its cells; below 1, cells share a device."""
        return max(self.node_count, self.gpus) / (self.cells_per_job or 1)

    @property
    def minutes(self) -> float | None:
        """The time limit of a job in minutes, or None."""
        return None if self.time is None else minutes_of(self.time)


def unshareable(classes: Mapping[str, ResourceClass], batch: int) -> dict[str, str]:
    """The fault of each class whose devices cannot share a batch equally; other classes are not included."""
    return {
        name: f"{asked.devices:g} GPUs cannot share a batch of {batch}: choose a multiple of their number"
        for name, asked in classes.items()
        if (asked.cells_per_job or 1) == 1 and batch % asked.devices
    }


def _merged(above: ResourceClass, below: ResourceClass, kind: type[ResourceClass]) -> dict[str, Any]:
    """Fields of `kind` from `above` if it sets them, else `below`; GPU options all come from one of them."""
    own, rest = ({name: getattr(one, name) for name in kind.model_fields} for one in (above, below))
    taken = {_field(name) for name in (*above.sbatch, *(GPU_OPTIONS if above.gpu_options() else ()))}
    taken |= {name for name, value in own.items() if value is not None and name != "sbatch"}
    merged = {name: value if name in taken else rest[name] for name, value in own.items()}
    if above.env is not None:
        merged["env"] = {**(below.env or {}), **above.env}
    options = {name: value for name, value in below.sbatch.items() if _field(name) not in taken}
    return {**merged, "sbatch": {**options, **above.sbatch}}


def _field(option: str) -> str:
    return option.replace("-", "_")


def _option(field: str) -> str:
    return field.replace("_", "-")


def _number(value: Option) -> int:
    """The whole number that a value begins with, at least 1."""
    found = re.match(r"\d+", str(value))
    return max(1, int(found.group())) if found else 1


def _count(value: Option) -> int:
    """GPUs of `4`, `a100:4` or `a100:2,v100:2`."""
    parts = [part.partition("(")[0].rpartition(":")[2] for part in str(value).split(",")]
    return sum(int(part) if part.isdecimal() else 1 for part in parts)


def _gres(value: str) -> int:
    """GPUs of a list of generic resources such as `gpu:a100:4,shard:1`."""
    parts = [part for part in value.split(",") if re.match(r"(gres[:/])?gpu(:|=|$)", part)]
    return sum(_count(part.partition("gpu")[2].lstrip(":=") or 1) for part in parts)


class SizeClass(ResourceClass):
    """Resources of the cells that match `when`, an expression over axes; the first matching class applies."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    when: str


class Cluster(ResourceClass):
    """Where cells run; nothing here is part of a cell's identity. `sbatch` passes any option through."""

    parallel: Whole | None = None
    device: str | None = Field(default=None, description="device that costs are computed for, such as H100")
    usd_per_gpu_hour: float | None = Field(default=None, ge=0)
    max_attempts: Whole | None = Field(default=None, description="default: 3")
    classes: list[SizeClass] = Field(default=[])

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: list[SizeClass]) -> list[SizeClass]:
        names = [DEFAULT, *(entry.name for entry in classes)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            message = f"two classes are called {twice[0]!r}"
            raise mistake(message)
        return classes

    def with_defaults(self, below: Cluster) -> Cluster:
        """Return this section; fields that it does not set are taken from the user's settings, `below`."""
        return Cluster(**{**_merged(self, below, Cluster), "classes": self.classes})

    def resource_classes(self) -> Mapping[str, ResourceClass]:
        """Resources of the jobs of each size class: those of the cluster, changed by the class."""
        shared = self.over(ResourceClass(nodes=1))
        return {DEFAULT: shared} | {entry.name: entry.over(shared) for entry in self.classes}
