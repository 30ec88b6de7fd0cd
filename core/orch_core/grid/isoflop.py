"""IsoFLOP blocks: for every budget of training FLOPs and every size, the training length that spends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orch_core.grid.axes import Block, DataChoice, available, data_choice, mixes, refuse
from orch_core.grid.check import CheckedGrid
from orch_core.grid.section import MOST


@dataclass(frozen=True, slots=True)
class Solved:
    """A row of an isoFLOP block: which of the shapes, the data, and the samples that spend the budget."""

    shape: int
    data: DataChoice
    samples_seen: int


def solve(
    checked: CheckedGrid, block: Block, recipe: str, shapes: Sequence[tuple[str, float]]
) -> list[Solved]:
    """Every (budget, mix, shape) that meets its budget; `shapes` gives name and training FLOPs of one image.

    Raises GridError at the first budget that no size of a mix can meet.
    """
    assert block.isoflop is not None
    rows: list[Solved] = []
    for index, budget in enumerate(block.isoflop.budgets):
        for mix, weights in mixes(checked, block).items():
            tried = [_try(checked, block, mix, weights, budget / flops) for _, flops in shapes]
            met = [
                Solved(at, data, samples)
                for at, (samples, found, _) in enumerate(tried)
                for data in found
                if samples
            ]
            if not met:
                order = sorted(range(len(shapes)), key=lambda at: shapes[at][1])
                nearest = order[0] if "min_steps" in tried[order[0]][2] else order[-1]
                why = f"{shapes[nearest][0]} {tried[nearest][2]}"
                message = f"no size can meet {budget:.3g} FLOPs with {recipe}: {why}"
                raise refuse(checked, (*block.loc, "budgets", index), message)
            rows += met
    return rows


def _try(
    checked: CheckedGrid, block: Block, mix: str, weights: Mapping[str, float | None], wanted: float
) -> tuple[int, list[DataChoice], str]:
    """Samples seen in full batches, the data they are drawn from, and the reason if there are none."""
    isoflop, batch = block.isoflop, checked.grid.training.batch
    assert isoflop is not None
    if wanted >= MOST:
        return 0, [], f"would see {wanted:.3g} samples, more than 2^53"
    steps = round(wanted / batch)
    if steps < isoflop.min_steps:
        return (
            0,
            [],
            f"is left {steps} steps of {batch} images, fewer than min_steps ({isoflop.min_steps})",
        )
    sizes = list(_sizes(block, available(checked, weights), steps * batch / isoflop.epochs))
    data = [data_choice(checked, mix, weights, images) for images in sizes]
    enough = [choice for choice in data if not choice.short]
    return (steps * batch, enough, "") if enough else (0, [], f"cannot: {data[0].short}")


def _sizes(block: Block, there: int, solved: float) -> Iterator[int]:
    if not block.axes["images"]:
        yield max(1, round(solved))
        return
    for size in block.axes["images"]:
        if isinstance(size, int):
            yield size
        else:
            yield there if size == "all" else max(1, round(float(size.removesuffix("%")) / 100 * there))
