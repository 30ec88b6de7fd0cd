"""The grid of a study: the types of one checked YAML file.

Every section is a frozen pydantic model, so that `orch schema` can give editors the same rules.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from orch_core.cell import Model
from orch_core.grid.resources import Cluster
from orch_core.grid.section import MOST, Name, Section, Whole, listed, mistake
from orch_core.images.medmnist import MEDMNIST
from orch_core.vit import known_models, named_model
from orch_core.yaml import did_you_mean

LENGTHS = ("samples_seen", "epochs", "flops")  # units of the length of training
WHOLE_MIX = "all"  # the mix that a grid without mixes has: of every source
PARAMS_TOLERANCE = 0.02  # a size named in the grid may be off its real parameter count by this share


class Shape(Section):
    """A ViT by its shape. `params` is the nominal encoder size, refused when off by more than 2%."""

    name: Name
    width: int = Field(gt=0, lt=2**31)
    depth: int = Field(gt=0, lt=2**31)
    heads: int | None = Field(default=None, gt=0, lt=2**31, description="default: one per 64 of width")
    mlp_ratio: float = Field(default=4.0, gt=0)
    params: float | None = Field(default=None, gt=0)

    def model(self) -> Model:
        """The shape as a cell's model; raises a validation error when heads do not divide the width."""
        heads = self.heads or max(1, self.width // 64)
        if self.width % heads:
            message = f"{self.name}: {heads} heads do not divide the width {self.width}"
            raise mistake(message)
        return Model(
            name=self.name, width=self.width, depth=self.depth, heads=heads, mlp_ratio=self.mlp_ratio
        )


class Family(Section):
    """ViTs of every width with every depth, named `FAMILY-w64-d4`, with one head per `head_width`."""

    family: Name
    width: Annotated[list[Whole], BeforeValidator(listed), Field(min_length=1)]
    depth: Annotated[list[Whole], BeforeValidator(listed), Field(min_length=1)]
    head_width: int = Field(default=64, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)

    def shapes(self) -> list[Shape]:
        """Every member, from narrow and shallow to wide and deep."""
        return [
            Shape(
                name=f"{self.family}-w{width}-d{depth}",
                width=width,
                depth=depth,
                heads=max(1, width // self.head_width),
                mlp_ratio=self.mlp_ratio,
            )
            for width in self.width
            for depth in self.depth
        ]


def _shape(value: object) -> object:
    """Look up a model's name; a mapping is a shape or a family."""
    if not isinstance(value, str):
        return value
    try:
        model = named_model(value)
    except KeyError:
        hint = did_you_mean(value, known_models())
        message = f"unknown model {value!r}{hint}; or give a shape: {{name, width, depth, heads}}"
        raise mistake(message) from None
    return Shape(**{name: getattr(model, name) for name in ("name", "width", "depth", "heads", "mlp_ratio")})


def _size(value: object) -> object:
    """Read a data size: images, a share such as `10%`, or `all`."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        message = f"a data size is a number of images, a share such as 10%, or all: got {value!r}"
        raise mistake(message)
    if isinstance(value, int):
        if not 0 < value < MOST:
            message = f"a data size must be positive, below 2^53: got {value}"
            raise mistake(message)
        return value
    if value == "all":
        return value
    try:
        share = float(value.removesuffix("%"))
    except ValueError:
        share = math.nan
    if not value.endswith("%") or not 0 < share <= 100:
        message = f"a data size is a number of images, a share such as 10%, or all: got {value!r}"
        raise mistake(message)
    return value


def _mix(value: object) -> object:
    """Read `[a, b]` as a and b in proportion to their images."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return dict.fromkeys(value)
    return value


def _count(value: float) -> float:
    if value < 1 or value % 1:
        message = f"samples are counted in whole numbers: got {value:g}"
        raise mistake(message)
    return value


Positive = Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)]
Lengths = Annotated[list[Positive], BeforeValidator(listed), Field(min_length=1)]
Counts = Annotated[
    list[Annotated[Positive, AfterValidator(_count)]], BeforeValidator(listed), Field(min_length=1)
]
Names = Annotated[list[str], BeforeValidator(listed), Field(min_length=1)]
Sizes = Annotated[
    list[Annotated[int | str, BeforeValidator(_size)]], BeforeValidator(listed), Field(min_length=1)
]
Seeds = Annotated[
    list[Annotated[int, Field(gt=-(2**62), lt=2**62)]], BeforeValidator(listed), Field(min_length=1)
]
Wholes = Annotated[list[Whole], BeforeValidator(listed), Field(min_length=1)]
Value = bool | int | float | str


class Source(Section):
    """Images for pretraining: an npz in MedMNIST's format or a pack folder (`orch data pack`).

    `path` is relative to the grid. From a pack folder the source takes the images of `modality`, or every
    image if that is `all`. `images` declares the number of images if the file is not on this machine; the
    study can then be planned but not launched.
    """

    path: str
    modality: Name
    images: int | None = Field(default=None, gt=0, lt=MOST)


class TaskFile(Section):
    """A downstream task: an npz in MedMNIST's format by `path`, or a published one by name.

    `task: pathmnist` is looked for in the folder of `--data`, in those of ORCH_DATA and in ~/.medmnist, as
    the package medmnist names its files, at `size` pixels a side. A file by `path` that is elsewhere needs
    counts and classes.
    """

    path: str | None = None
    task: str | None = None
    size: Literal[28, 64, 128, 224] = Field(default=28, description="pixels a side of a named task")
    kind: Literal["multi-class", "binary-class", "multi-label", "ordinal-regression"] | None = None
    train: Whole | None = None
    val: Whole | None = None
    test: Whole | None = None
    classes: Whole | None = None

    @model_validator(mode="after")
    def _one_place(self) -> TaskFile:
        if (self.path is None) == (self.task is None):
            message = "give `path` (a file) or `task` (a published task), and not both"
            raise mistake(message)
        if self.task is not None and self.task not in MEDMNIST:
            message = f"unknown task {self.task!r}{did_you_mean(self.task, MEDMNIST)}"
            raise mistake(message)
        return self


def _kind_of_model(value: object) -> str:
    if isinstance(value, str):
        return "a name"
    family = isinstance(value, Family) or (isinstance(value, dict) and "family" in value)
    return "a family" if family else "a shape"


def _known_shape(value: object) -> object:
    """Look up a model's name; one that is unknown here may be named in `axes.model`."""
    return _shape(value) if isinstance(value, str) and value in known_models() else value


ModelSpec = Annotated[
    Annotated[Shape, Tag("a shape")] | Annotated[Family, Tag("a family")],
    Discriminator(_kind_of_model),
    BeforeValidator(_shape),
]
ModelRef = Annotated[
    Annotated[Shape, Tag("a shape")] | Annotated[Family, Tag("a family")] | Annotated[str, Tag("a name")],
    Discriminator(_kind_of_model),
    BeforeValidator(_known_shape),
]
ModelRefs = Annotated[list[ModelRef], BeforeValidator(listed), Field(min_length=1)]


class Axes(Section):
    """The axes. The cells are their product without `exclude`, plus `include` and `isoflop`.

    The training length is given once, as samples_seen, epochs or flops. Without it the axes span no cells,
    and only provide the values that `include` and `isoflop` do not set. In `mix`, `leave_one_out(NAME)` makes
    one mix per modality of NAME, without that modality.
    """

    model: Annotated[list[ModelSpec], BeforeValidator(listed), Field(min_length=1)]
    algorithm: Names
    images: Sizes | None = None
    mix: Names = Field(default=[WHOLE_MIX])
    seed: Seeds = Field(default=[0])
    resolution: Wholes
    patch: Wholes
    samples_seen: Counts | None = None
    epochs: Lengths | None = None
    flops: Lengths | None = None


class Training(Section):
    """Settings of all cells. A data size above the mix is refused or repeats images (`beyond_data`).

    `cooldown` and `warmup_samples` are recipe constants, set here for every recipe that trains. With both,
    cells that differ only in length share one run at a constant rate, from which each branches off to cool
    down.
    """

    batch: Whole
    channels: Literal[1, 3] = 3
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    cooldown: float = Field(
        default=0.0, ge=0, lt=1, description="share of a run, at its end, in which the rate falls to zero"
    )
    warmup_samples: int = Field(
        default=0, ge=0, lt=MOST, description="samples of warm-up; 0 for the recipe's share of the run"
    )
    subset_seed: int = 0
    beyond_data: Literal["refuse", "repeat"] = "refuse"


class Probes(Section):
    """Probes of every encoder: names of `tasks` (or of sources with labels), and the protocols."""

    tasks: list[str] | None = Field(
        default=None, min_length=1, description="default: every task, and every source whose labels make one"
    )
    train_limit: int = Field(default=0, ge=0, description="training images per task, stratified; 0 for all")
    protocol: Names = Field(default=["linear@1"], description="one protocol, or a list of them")


class _Block(Section):
    """Axes of a block of extra cells; an axis that is not set takes the values of `axes`."""

    model: ModelRefs | None = None
    algorithm: Names | None = None
    images: Sizes | None = None
    mix: Names | None = None
    seed: Seeds | None = None
    resolution: Wholes | None = None
    patch: Wholes | None = None


class Include(_Block):
    """Extra cells: a product of axes, in which an axis that is not set takes the values of `axes`.

    `model` may also be the name of one in `axes.model`.
    """

    samples_seen: Counts | None = None
    epochs: Lengths | None = None
    flops: Lengths | None = None


class IsoFlop(_Block):
    """Cells of equal training compute: budgets (FLOPs) x sizes, for which the training length is solved.

    Without `images` the data size is also solved for, so that every image is seen `epochs` times. A size is
    skipped if a budget gives it fewer than `min_steps` steps or needs more images than the mix has. An
    axis that is not set takes the values of `axes`.
    """

    budgets: Lengths
    epochs: float = Field(default=1.0, gt=0)
    min_steps: Whole = 100


class Budget(Section):
    """The most that the study may cost; `orch launch` refuses cells beyond it."""

    gpu_hours: float | None = Field(default=None, gt=0)
    usd: float | None = Field(default=None, gt=0)


class Grid(Section):
    """A whole study, as written."""

    study: Annotated[Name, Field(pattern=r"^[^\W_][\w.-]*$")]
    sources: dict[Name, Source] = Field(min_length=1)
    tasks: dict[Name, TaskFile] = Field(default={})
    mixes: dict[Name, Annotated[dict[str, Positive | None], BeforeValidator(_mix), Field(min_length=1)]] = (
        Field(default={}, description=f"default: {WHOLE_MIX}, of every source")
    )
    axes: Axes
    training: Training
    overrides: dict[str, dict[str, Value | list[Value]]] = Field(
        default={}, description="recipe constants by recipe; a list of values is an axis"
    )
    exclude: list[str] = Field(default=[])
    include: list[Include] = Field(default=[])
    isoflop: list[IsoFlop] = Field(default=[])
    probes: Probes = Probes()
    cluster: Cluster = Cluster()
    budget: Budget = Budget()

    @model_validator(mode="before")
    @classmethod
    def _whole_mix(cls, data: Any) -> Any:
        unsaid = isinstance(data, dict) and "mixes" not in data and isinstance(data.get("sources"), dict)
        return {**data, "mixes": {WHOLE_MIX: list(data["sources"])}} if unsaid else data
