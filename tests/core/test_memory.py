"""The closed formula of training memory against what torch allocates, for every recipe, precision and way to save memory."""

import pytest
from learn_cells import TRAINED, make_cell
from peaks import peak_of

from orch_core.cost import memory_bytes, micro_batch, price
from orch_core.learn.step import MemoryPlan

WAYS = (("fp32", 0, False), ("bf16", 0, False), ("fp32", 4, False), ("bf16", 4, True), ("fp32", 0, True))


@pytest.mark.parametrize("recipe", TRAINED)
@pytest.mark.parametrize(("precision", "micro", "checkpointing"), WAYS)
def test_memory_is_what_a_step_allocates_at_its_peak(recipe, precision, micro, checkpointing):
    cell = make_cell(
        None,
        recipe,
        width=128,
        depth=3,
        heads=2,
        patch=4,
        channels=3,
        batch=16,
        samples=1600,
        precision=precision,
    )
    measured = peak_of(cell, MemoryPlan(micro_batch=micro, checkpointing=checkpointing)).allocated
    assert memory_bytes(cell, micro, checkpointing=checkpointing) == pytest.approx(measured, rel=0.10)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_where_gradients_outweigh_what_blocks_keep_the_first_block_is_the_peak(precision):
    cell = make_cell(
        None,
        "supervised@1",
        width=192,
        depth=8,
        heads=3,
        patch=8,
        resolution=64,
        channels=3,
        batch=8,
        samples=800,
        precision=precision,
    )
    measured = peak_of(cell, MemoryPlan(checkpointing=True)).allocated
    assert memory_bytes(cell, checkpointing=True) == pytest.approx(measured, rel=0.05)


def test_the_largest_micro_batch_that_fits_is_taken_and_blocks_are_checkpointed_last():
    cell = make_cell(
        None, "dinov2@1", width=384, depth=12, heads=6, patch=16, resolution=224, batch=64, samples=6400
    )
    least = memory_bytes(cell, 1, checkpointing=True)
    for room in (least - 1, least, memory_bytes(cell, 1), memory_bytes(cell, 8), price(cell).memory_bytes):
        rows, checkpointing = micro_batch(cell, room)
        if rows == 0:
            assert room < least
            continue
        assert memory_bytes(cell, rows, checkpointing=checkpointing) <= room
        assert rows == 64 or memory_bytes(cell, 2 * rows, checkpointing=checkpointing) > room
        assert not checkpointing or memory_bytes(cell, 1) > room
    assert micro_batch(cell, price(cell).memory_bytes) == (64, False)


def test_a_smaller_plan_is_never_priced_with_more_memory():
    for recipe in TRAINED:
        cell = make_cell(
            None, recipe, width=192, depth=12, heads=3, patch=16, resolution=224, batch=256, samples=2560
        )
        sizes = [memory_bytes(cell, rows) for rows in (1, 2, 8, 64, 128)]
        assert sizes == sorted(sizes)
        assert memory_bytes(cell, 64, checkpointing=True) <= memory_bytes(cell, 64)
