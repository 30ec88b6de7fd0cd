"""Several processes that train the same cells; prints rank 0's results as JSON.

usage: distributed_driver.py FOLDER NPZ WORLD shared|divided [STOP_AFTER [leave]]

torch is imported once, then every process is a fork of this one, in which no tensor has been made. `divided` shards parameters
whatever their number. With STOP_AFTER the last process alone asks to stop after so many steps, then all go on from the
checkpoint, or leave it.
"""

import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import numpy.ma  # noqa: F401  as np.unique does
import torch
import torch._dynamo  # as AdamW's first step does
from learn_cells import TRAINED, make_cell

from orch_core.learn import Stopped, distributed, never, pretrain, pretraining, sharding
from orch_core.learn.checkpoint import save_tensors


def in_processes(world, work):
    """Exit codes, by rank, of `world` processes that do the work together; where one fails the others are killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [_forked(where | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, work) for rank in range(world)]
    codes = dict.fromkeys(running)
    while running:
        child, status = os.wait()
        running.remove(child)
        codes[child] = os.waitstatus_to_exitcode(status)
        for other in running if status else ():
            os.kill(other, signal.SIGKILL)
    return list(codes.values())


def _forked(environment, work):
    child = os.fork()
    if child:
        return child
    os.environ |= environment
    torch.set_num_threads(1)
    try:
        with distributed.group():
            work()
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def main():
    folder, path = map(Path, sys.argv[1:3])
    world, mode, *stop_after = sys.argv[3:]
    if mode == "divided":
        sharding.LARGE = 0
    sys.exit(any(in_processes(int(world), lambda: train_all(folder, path, stop_after))))


def train_all(folder, path, stop_after):
    results = {}
    for recipe in TRAINED:
        cell = make_cell(path, recipe, samples=96, overrides=drops(recipe))
        if stop_after:
            results[recipe] = stopped_and_resumed(cell, folder / recipe, *stop_after)
        else:
            results[recipe] = dict(pretrain(cell, folder / recipe).values)
        save_gradients(cell, folder / recipe)
    if distributed.rank() == 0:
        print(json.dumps(results))


def save_gradients(cell, folder, memory_plan=pretraining.WHOLE):
    """Gradients of the first step on the whole batch: Adam would hide a wrong scale."""
    run = pretraining._start(cell, folder / "untrained", None, memory_plan)
    run.gradient_step.gradients(pretraining._first_inputs(run))
    named = run.objective.module.named_parameters()
    gradients = sharding.whole({name: p.grad for name, p in named if p.grad is not None})
    if distributed.rank() == 0:
        save_tensors(folder / "gradients.safetensors", gradients)


def drops(recipe):
    return (("drop_path", 0.2),) if recipe.startswith("dinov2@") else ()


def stopped_and_resumed(cell, folder, steps, *leave):
    calls = [0]

    def should_stop():
        calls[0] += 1
        return calls[0] == int(steps) and distributed.rank() == distributed.world() - 1

    try:
        pretrain(cell, folder, should_stop=should_stop)
    except Stopped:
        if leave:
            return {}
        return dict(pretrain(cell, folder, should_stop=never).values)
    return {"never stopped": 1}


if __name__ == "__main__":
    main()
