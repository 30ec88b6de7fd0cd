"""The grid of a study: what one YAML file says, checked.

Every section is a frozen pydantic model, so that `orch schema` can give editors the same rules.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from orch_core.cell import Model
from orch_core.load import did_you_mean
from orch_core.models import known_models, named_model

PARAMS_TOLERANCE = 0.02  # a size named in the grid may be off its real parameter count by this share


class Section(BaseModel):
    """A mapping of the grid: unknown keys are mistakes, and `"3"` is not a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _mistake(message: str) -> PydanticCustomError:
    return PydanticCustomError("grid", cast(Any, message))


def _listed(value: object) -> object:
    """Read one value as a list of one, and `{log_space: [first, last, n]}` as n whole numbers."""
    if isinstance(value, dict) and "log_space" in value:
        return _log_space(value)
    return value if isinstance(value, list) else [value]


def _log_space(value: dict[str, Any]) -> list[int]:
    span = value["log_space"]
    numbers = isinstance(span, list) and len(span) == 3 and all(isinstance(x, int | float) for x in span)
    if len(value) > 1 or not numbers or min(span[:2]) <= 0 or not isinstance(span[2], int) or span[2] < 2:
        message = f"log_space takes [first, last, how many], all positive, at least 2: got {span}"
        raise _mistake(message)
    first, last, count = float(span[0]), float(span[1]), span[2]
    return [round(first * (last / first) ** (index / (count - 1))) for index in range(count)]


class Shape(Section):
    """A ViT by its shape. `params` is the nominal encoder size, refused when off by more than 2%."""

    name: str = Field(min_length=1)
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int | None = Field(default=None, gt=0, description="default: one per 64 of width")
    mlp_ratio: float = Field(default=4.0, gt=0)
    params: float | None = Field(default=None, gt=0)

    def model(self) -> Model:
        """The shape as a cell's model; raises a validation error when heads do not divide the width."""
        heads = self.heads or max(1, self.width // 64)
        if self.width % heads:
            message = f"{self.name}: {heads} heads do not divide the width {self.width}"
            raise _mistake(message)
        return Model(
            name=self.name, width=self.width, depth=self.depth, heads=heads, mlp_ratio=self.mlp_ratio
        )


def _shape(value: object) -> object:
    """Look up a model's name; a mapping is a shape of its own."""
    if not isinstance(value, str):
        return value
    try:
        model = named_model(value)
    except KeyError:
        hint = did_you_mean(value, known_models())
        message = f"unknown model {value!r}{hint}; or give a shape: {{name, width, depth, heads}}"
        raise _mistake(message) from None
    return Shape(**{name: getattr(model, name) for name in ("name", "width", "depth", "heads", "mlp_ratio")})


def _size(value: object) -> object:
    """Read a data size: images, a share such as `10%`, or `all`."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        message = f"a data size is a number of images, a share such as 10%, or all: got {value!r}"
        raise _mistake(message)
    if isinstance(value, int):
        if value <= 0:
            message = f"a data size must be positive: got {value}"
            raise _mistake(message)
        return value
    if value == "all":
        return value
    try:
        share = float(value.removesuffix("%"))
    except ValueError:
        share = math.nan
    if not value.endswith("%") or not 0 < share <= 100:
        message = f"a data size is a number of images, a share such as 10%, or all: got {value!r}"
        raise _mistake(message)
    return value


def _mix(value: object) -> object:
    """Read `[a, b]` as a and b in proportion to what they have."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return dict.fromkeys(value)
    return value


Whole = Annotated[int, Field(gt=0)]
Lengths = Annotated[list[Annotated[float, Field(gt=0)]], BeforeValidator(_listed), Field(min_length=1)]


class Source(Section):
    """Images for pretraining: an npz in MedMNIST's format, relative to the grid.

    `images` is what the source has when it is not on this machine: the study can be planned, not launched.
    """

    path: str
    modality: str
    images: Whole | None = None


class TaskFile(Section):
    """A downstream task: an npz in MedMNIST's format. Counts and classes only where it is not on this machine."""

    path: str
    kind: Literal["multi-class", "binary-class", "multi-label", "ordinal-regression"] | None = None
    train: Whole | None = None
    val: Whole | None = None
    test: Whole | None = None
    classes: Whole | None = None


class Axes(Section):
    """The axes: their product, less `exclude`, plus `include`, are the cells."""

    model: Annotated[
        list[Annotated[Shape, BeforeValidator(_shape)]], BeforeValidator(_listed), Field(min_length=1)
    ]
    algorithm: Annotated[list[str], BeforeValidator(_listed), Field(min_length=1)]
    images: Annotated[
        list[Annotated[int | str, BeforeValidator(_size)]], BeforeValidator(_listed), Field(min_length=1)
    ]
    mix: Annotated[list[str], BeforeValidator(_listed), Field(min_length=1)]
    seed: Annotated[list[int], BeforeValidator(_listed), Field(min_length=1)] = [0]
    resolution: Annotated[list[Whole], BeforeValidator(_listed), Field(min_length=1)]
    patch: Annotated[list[Whole], BeforeValidator(_listed), Field(min_length=1)]
    samples_seen: Lengths | None = None
    epochs: Lengths | None = None
    flops: Lengths | None = None


class Training(Section):
    """What all cells share. `beyond_data` says what a data size above what the mix has means."""

    batch: Whole
    channels: Literal[1, 3] = 3
    precision: Literal["fp32", "bf16"] = "fp32"
    subset_seed: int = 0
    beyond_data: Literal["refuse", "repeat"] = "refuse"


class Probes(Section):
    """Linear probes on frozen features: names of `tasks` (or of sources, whose labels they are)."""

    tasks: Annotated[list[str], Field(min_length=1)]
    train_limit: int = Field(default=0, ge=0, description="training images per task, stratified; 0 for all")


def _known_shape(value: object) -> object:
    """Look up a model's name; one that is unknown here may be named in `axes.model`."""
    return _shape(value) if isinstance(value, str) and value in known_models() else value


ModelRef = Annotated[
    Annotated[Shape, Tag("a shape")] | Annotated[str, Tag("a name")],
    Discriminator(lambda value: "a name" if isinstance(value, str) else "a shape"),
    BeforeValidator(_known_shape),
]


class Include(Section):
    """Extra cells: a product of axes in which what is left out takes the value of `axes`.

    `model` may also be the name of one in `axes.model`.
    """

    model: Annotated[list[ModelRef], BeforeValidator(_listed)] | None = None
    algorithm: Annotated[list[str], BeforeValidator(_listed)] | None = None
    images: Annotated[list[Annotated[int | str, BeforeValidator(_size)]], BeforeValidator(_listed)] | None = (
        None
    )
    mix: Annotated[list[str], BeforeValidator(_listed)] | None = None
    seed: Annotated[list[int], BeforeValidator(_listed)] | None = None
    resolution: Annotated[list[Whole], BeforeValidator(_listed)] | None = None
    patch: Annotated[list[Whole], BeforeValidator(_listed)] | None = None
    samples_seen: Lengths | None = None
    epochs: Lengths | None = None
    flops: Lengths | None = None


class Cluster(Section):
    """Where cells run; nothing here is part of a cell's identity. `sbatch` passes any option through."""

    parallel: Whole | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gpus_per_node: int | None = Field(default=None, ge=0)
    nodes: Whole = 1
    time: str | None = Field(default=None, description="HH:MM:SS or minutes, per job")
    device: str | None = Field(default=None, description="device that costs are computed for, such as H100")
    usd_per_gpu_hour: float | None = Field(default=None, ge=0)
    max_attempts: Whole = 3
    sbatch: dict[str, str | int | bool] = {}


class Budget(Section):
    """What the study may cost; `orch launch` refuses beyond it."""

    gpu_hours: float | None = Field(default=None, gt=0)
    usd: float | None = Field(default=None, gt=0)


class Grid(Section):
    """A whole study, as written."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    sources: dict[str, Source] = Field(min_length=1)
    tasks: dict[str, TaskFile] = {}
    mixes: dict[str, Annotated[dict[str, Annotated[float, Field(gt=0)] | None], BeforeValidator(_mix)]] = (
        Field(min_length=1)
    )
    axes: Axes
    training: Training
    overrides: dict[str, dict[str, bool | int | float | str]] = {}
    exclude: list[str] = []
    include: list[Include] = []
    probes: Probes
    cluster: Cluster = Cluster()
    budget: Budget = Budget()
