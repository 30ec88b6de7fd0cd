"""One process of several that train the same cells; prints rank 0's results as JSON.

usage: distributed_driver.py FOLDER NPZ shared|divided [STOP_AFTER [leave]]

The environment holds RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. `divided` shards parameters whatever
their number. With STOP_AFTER the last process alone asks to stop after so many steps, then all go on from the checkpoint,
or leave it.
"""

import json
import sys
from pathlib import Path

import torch
from learn_cells import TRAINED, make_cell

from orch_core.learn import Stopped, distributed, never, pretrain, pretraining, sharding
from orch_core.learn.checkpoint import save_tensors


def main():
    folder, path, mode, stop_after = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:]
    torch.set_num_threads(1)
    if mode == "divided":
        sharding.LARGE = 0
    results = {}
    with distributed.group():
        for recipe in TRAINED:
            cell = make_cell(path, recipe, samples=96, overrides=drops(recipe))
            if stop_after:
                results[recipe] = stopped_and_resumed(cell, folder / recipe, int(stop_after[0]))
            else:
                results[recipe] = dict(pretrain(cell, folder / recipe).values)
            save_gradients(cell, folder / recipe)
        if distributed.rank() == 0:
            print(json.dumps(results))


def save_gradients(cell, folder, economies=pretraining.WHOLE):
    """Gradients of the first step on the whole batch: Adam would hide a wrong scale."""
    run = pretraining._start(cell, folder / "untrained", None, economies)
    run.take.gradients(pretraining._first_inputs(run))
    named = run.objective.module.named_parameters()
    gradients = {name: sharding.whole(p.grad) for name, p in named if p.grad is not None}
    if distributed.rank() == 0:
        save_tensors(folder / "gradients.safetensors", gradients)


def drops(recipe):
    return (("drop_path", 0.2),) if recipe == "dinov2@1" else ()


def stopped_and_resumed(cell, folder, steps):
    calls = [0]

    def should_stop():
        calls[0] += 1
        return calls[0] == steps and distributed.rank() == distributed.world() - 1

    try:
        pretrain(cell, folder, should_stop=should_stop)
    except Stopped:
        if sys.argv[5:]:
            return {}
        return dict(pretrain(cell, folder, should_stop=never).values)
    return {"never stopped": 1}


if __name__ == "__main__":
    main()
