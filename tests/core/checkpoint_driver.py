"""What becomes of the states of divided runs; prints it as JSON. usage: checkpoint_driver.py FOLDER NPZ"""

import json
import math
import os
import signal
import sys
from itertools import accumulate
from pathlib import Path

from distributed_driver import in_processes
from learn_cells import make_cell
from torch.profiler import ProfilerActivity, profile

from orch_core.learn import Stopped, distributed, pretrain, pretraining, sharding
from orch_core.learn.checkpoint import load_checkpoint, save_checkpoint, training_state

EVENTS = {"open", "os.mkdir", "os.rename", "os.rmdir"}
MOMENTS = ((1, 2), (0, 9), (0, 11))
"""Rank and number of the call to the file system at which it dies: in its part, before the state is
published, and between the removals of an old state's parts and folder."""


def main():
    folder, path = map(Path, sys.argv[1:])
    sharding.LARGE = 0
    killed = killed_and_resumed(make_cell(path, "moco-v3@1", samples=80), folder)
    moved = moved_about(make_cell(path, "dinov2@1", samples=64), folder / "moved")
    print(json.dumps({"killed": killed, "moved": moved, "memory": memory_of(path, folder / "memory")}))


def killed_and_resumed(cell, folder):
    """Two processes, whole and killed at every moment; then one part of the newest state is cut short before they go on."""
    whole, broken = folder / "whole", folder / "broken"
    assert in_processes(2, lambda: pretrain(cell, whole)) == [0, 0]
    newest = []
    for rank, number in MOMENTS:
        codes = in_processes(2, lambda rank=rank, number=number: train_and_die(cell, broken, rank, number))
        assert codes[rank] == -signal.SIGKILL
        newest.append(max(names(broken)))
    part = broken / "checkpoint" / newest[-1] / "__1_0.distcp"
    os.truncate(part, part.stat().st_size - 1)
    assert in_processes(2, lambda: train(cell, broken)) == [0, 0]
    return {"newest": newest, "left": names(broken)}


def names(folder):
    return sorted(path.name for path in (folder / "checkpoint").iterdir())


def train(cell, folder, should_stop=lambda: False):
    pretrain(cell, folder, should_stop=should_stop, checkpoint_seconds=0)


def train_and_die(cell, folder, rank, number):
    """Train until this rank's `number`th call to the file system in the save after the second step."""
    steps, calls = [0], [0]

    def should_stop():
        steps[0] += 1
        return False

    def watch(event, arguments):
        if event in EVENTS and steps[0] >= 2 and "/checkpoint/" in str(arguments[0]):
            calls[0] += 1
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)

    if distributed.rank() == rank:
        sys.addaudithook(watch)
    train(cell, folder, should_stop)


def moved_about(cell, folder):
    """Values of a run divided between two processes, then of one, then shared by two, then divided among four."""
    for world, large in ((2, 0), (1, 0), (2, math.inf)):
        assert in_processes(world, lambda large=large: leave(cell, folder, large)) == [0] * world
    assert in_processes(4, lambda: finish(cell, folder)) == [0] * 4
    return json.loads((folder / "values.json").read_text())


def leave(cell, folder, large):
    sharding.LARGE = large
    try:
        pretrain(cell, folder, should_stop=lambda: True)
    except Stopped:
        return
    raise AssertionError


def finish(cell, folder):
    values = pretrain(cell, folder).values
    if distributed.rank() == 0:
        (folder / "values.json").write_text(json.dumps(dict(values)))


def memory_of(path, folder):
    """Bytes of a state, and what each of two processes has torch allocate at most while it saves and loads it."""
    cell = make_cell(path, width=64, depth=4, heads=1, samples=32)
    assert in_processes(2, lambda: measure(cell, folder)) == [0, 0]
    return [json.loads(file.read_text()) for file in folder.glob("*.json")]


def measure(cell, folder):
    run = pretraining._start(cell, folder, None, pretraining.WHOLE)
    tensors = training_state(run.objective.module, run.gradient_step.optimiser)
    facts = {"cell": "a", "step": 1}
    found = {
        "state": sum(tensor.nbytes for tensor in tensors.values()),
        "save": most_allocated(lambda: save_checkpoint(folder / "states", tensors, facts)),
        "load": most_allocated(lambda: load_checkpoint(folder / "states", "a", tensors)),
        "whole": most_allocated(lambda: sharding.whole(tensors)),
    }
    (folder / f"{distributed.rank()}.json").write_text(json.dumps(found))


def most_allocated(work):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(sizes, initial=0))


if __name__ == "__main__":
    main()
