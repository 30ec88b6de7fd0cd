"""How a job's nodes are prepared: setup lines, variables, container, local copies of data, network."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from orch_core.grid.section import Section, mistake

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
