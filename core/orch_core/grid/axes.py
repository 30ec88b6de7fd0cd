"""The meaning of a grid's axes: blocks of axes, shapes, mixes, subsets of sources, recipe overrides."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orch_core.cell import Model, Override, SourceSubset
from orch_core.errors import GridError
from orch_core.grid.check import CheckedGrid
from orch_core.grid.language import LENGTHS, Axes, Family, Include, IsoFlop, Shape
from orch_core.images.subset import apportion
from orch_core.recipes import RECIPES
from orch_core.yaml import Loc

LEAVE_ONE_OUT = "leave_one_out("


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Axes that span cells, and their place in the grid (`loc`). `isoflop` has budgets instead of lengths."""

    loc: Loc
    axes: Mapping[str, Any]
    isoflop: IsoFlop | None = None

    @property
    def ruled(self) -> bool:
        """Whether `exclude` applies: to the product of `axes` and to isoFLOP blocks, not to `include`."""
        return self.loc[0] != "include"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataChoice:
    """One (mix, data size): the images that a cell draws from each source, and their total.

    short: why there are too few images, or empty; asked: index of the size on its axis.
    """

    mix: str
    images: int
    portions: tuple[SourceSubset, ...]
    short: str = ""
    asked: int = 0


def blocks(checked: CheckedGrid) -> list[Block]:
    """The product of `axes` if it has a training length, every `include` and every `isoflop`."""
    axes = checked.grid.axes
    found = [Block(loc=("axes",), axes=dict(axes))] if any(getattr(axes, name) for name in LENGTHS) else []
    for index, include in enumerate(checked.grid.include):
        found.append(Block(loc=("include", index), axes=_completed(axes, include)))
    for index, isoflop in enumerate(checked.grid.isoflop):
        given = _completed(axes, isoflop) | {"images": isoflop.images}
        found.append(Block(loc=("isoflop", index), axes=given, isoflop=isoflop))
    return found


def _completed(axes: Axes, block: Include | IsoFlop) -> dict[str, Any]:
    own = {name: value for name, value in block if value is not None}
    given = dict(axes) | own
    if any(name in own for name in LENGTHS):
        given |= {name: own.get(name) for name in LENGTHS}
    return given


def models(checked: CheckedGrid, block: Block) -> list[Model]:
    """The shapes of a block, with families expanded and names of `axes.model` looked up."""
    named = {shape.name: shape for spec in checked.grid.axes.model for shape in _shapes(spec)}
    specs = [named[spec] if isinstance(spec, str) else spec for spec in block.axes["model"]]
    return [shape.model() for spec in specs for shape in _shapes(spec)]


def _shapes(spec: Shape | Family) -> list[Shape]:
    return spec.shapes() if isinstance(spec, Family) else [spec]


def mixes(checked: CheckedGrid, block: Block) -> dict[str, dict[str, float | None]]:
    """Weights by source of every mix of a block; `leave_one_out(all)` gives `all-without-ct` and so on.

    Raises GridError if that leaves no source.
    """
    found: dict[str, dict[str, float | None]] = {}
    for index, name in enumerate(block.axes["mix"]):
        if not name.startswith(LEAVE_ONE_OUT):
            found[name] = checked.grid.mixes[name]
            continue
        whole = name.removeprefix(LEAVE_ONE_OUT).removesuffix(")")
        weights, sources = checked.grid.mixes[whole], checked.grid.sources
        modalities = dict.fromkeys(sources[source].modality for source in weights)
        if len(modalities) == 1:
            message = f"{name} is empty: {whole!r} has only one modality, {next(iter(modalities))}"
            raise refuse(checked, (*block.loc, "mix", index), message)
        for modality in modalities:
            rest = {source: w for source, w in weights.items() if sources[source].modality != modality}
            found[f"{whole}-without-{modality}"] = rest
    return found


def overrides(checked: CheckedGrid, recipe: str) -> Iterator[tuple[Override, ...]]:
    """Every combination of the overrides of a recipe, sorted by name; an empty one without overrides.

    The schedule under `training` is an override of every recipe that trains, unless `overrides` sets it too.
    """
    training = checked.grid.training
    shared = {"cooldown": training.cooldown, "warmup_samples": training.warmup_samples}
    schedule = {name: value for name, value in shared.items() if value and RECIPES[recipe].uses_data}
    given = sorted((schedule | checked.grid.overrides.get(recipe, {})).items())
    values = [value if isinstance(value, list) else [value] for _, value in given]
    for combination in itertools.product(*values):
        yield tuple(zip((name for name, _ in given), combination, strict=True))


def data_choices(checked: CheckedGrid, block: Block) -> list[DataChoice]:
    """Every mix with every data size of a block."""
    return [
        data_choice(checked, mix, weights, _asked(size, available(checked, weights)), asked=index)
        for mix, weights in mixes(checked, block).items()
        for index, size in enumerate(block.axes["images"])
    ]


def available(checked: CheckedGrid, weights: Mapping[str, float | None]) -> int:
    """Images for pretraining in the sources of a mix."""
    return sum(checked.sources[name].pretraining for name in weights)


def _asked(size: int | str, there: int) -> int:
    if isinstance(size, int):
        return size
    return there if size == "all" else max(1, math.ceil(float(size.removesuffix("%")) / 100 * there))


def data_choice(
    checked: CheckedGrid, mix: str, weights: Mapping[str, float | None], images: int, *, asked: int = 0
) -> DataChoice:
    """The subsets of sources that make up `images` of a mix; `beyond_data: repeat` caps each at a source."""
    there = {name: checked.sources[name].pretraining for name in weights}
    total = sum(there.values())
    short = ""
    if images > total and checked.grid.training.beyond_data == "repeat":
        counts = there
    else:
        counts = apportion(images, {name: float(weight or there[name]) for name, weight in weights.items()})
        lacking = [name for name in counts if counts[name] > there[name]]
        if images > total:
            short = f"mix {mix!r} needs {images:,} images but has {total:,} for pretraining"
        elif lacking:
            has = f"source {lacking[0]!r} has {there[lacking[0]]:,}"
            short = f"mix {mix!r} needs {images:,} images but {has} for pretraining"
    portions = tuple(_portion(checked, name, counts[name]) for name in sorted(counts) if counts[name])
    return DataChoice(mix=mix, images=sum(counts.values()), portions=portions, short=short, asked=asked)


def _portion(checked: CheckedGrid, name: str, images: int) -> SourceSubset:
    source = checked.grid.sources[name]
    return SourceSubset(
        source=name,
        modality=source.modality,
        images=images,
        fingerprint=checked.sources[name].fingerprint,
        path=str(checked.file(name)),
    )


def refuse(checked: CheckedGrid, loc: Loc, message: str) -> GridError:
    """A mistake that is found only when enumerating, at its place in the grid."""
    return GridError((checked.document.problem(loc, message),))
