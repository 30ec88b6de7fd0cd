"""Trains cells again and again in processes that are killed; prints one JSON line a recipe.

usage: resume_driver.py FOLDER NPZ KILLS RECIPE...

torch is imported once, then every attempt is a fork of this process, in which no tensor has been made.
Kills fall after a step (before its checkpoint), or in the middle of writing a checkpoint, at places that a seed chooses.
"""

import hashlib
import json
import os
import random
import signal
import sys
from pathlib import Path

import torch
import torch._dynamo  # as AdamW's first step does
from learn_cells import make_cell

from orch_core.learn import pretrain
from orch_core.learn.checkpoint import MANIFEST


def attempt(cell, folder, *, die_after=None, die_writing=False):
    """One process: trains on, or dies with SIGKILL in its `die_after`-th step. Its exit status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    torch.set_num_threads(1)
    calls = [0]

    def should_stop():
        calls[0] += 1
        if die_after == calls[0]:
            if die_writing:
                os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return False

    result = pretrain(cell, folder, should_stop=should_stop, checkpoint_seconds=0)
    (folder / "result.json").write_text(json.dumps({"status": result.status, "values": dict(result.values)}))
    os._exit(0)


def outcome(folder):
    weights = hashlib.blake2b((folder / "encoder.safetensors").read_bytes()).hexdigest()
    newest = max((folder / "checkpoint").iterdir())
    _, manifest = (newest / MANIFEST).read_text().splitlines()
    state = json.loads(manifest)
    del state["parts"][".metadata"]  # it names itself at random
    curve = [json.loads(line) for line in (folder / "metrics.ndjson").read_text().splitlines()]
    rows = {row["step"]: {name: row.get(name) for name in ("lr", "heldout_loss")} for row in curve}
    return {
        "encoder": weights,
        "state": state,
        "result": json.loads((folder / "result.json").read_text()),
        "curve": rows,
        "rows": [row["step"] for row in curve],
    }


def main():
    folder, path, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    for recipe in sys.argv[4:]:
        cell = make_cell(
            path, recipe, samples=3 * (kills + 1) * 16, batch=16
        )  # each kill allows 0 to 2 new steps
        whole, broken = folder / recipe / "whole", folder / recipe / "broken"
        assert attempt(cell, whole) == 0
        chance, killed = random.Random(recipe), 0
        while killed < kills:
            status = attempt(cell, broken, die_after=chance.randint(1, 3), die_writing=chance.random() < 0.3)
            if status == 0:  # all steps are done: start over, the kills go on
                break
            assert status == signal.SIGKILL
            killed += 1
        assert attempt(cell, broken) == 0
        print(
            json.dumps(
                {
                    "recipe": recipe,
                    "kills": killed,
                    "whole": outcome(whole),
                    "broken": outcome(broken),
                }
            )
        )


main()
