"""How often the lack-of-fit test flags true and wrong laws: `python tests/bench/bench_misfit.py [data sets]`.

The laws and truths are those of tests/analysis/test_misfit.py, at .3%, 1% and 2% noise and 6 to 40 points. For wrong
laws, `missed` is the share of flags among the data sets whose 95% band at four times the largest scale does not contain
the truth (a dash: every band contains it). The aims: at most .06 of true laws, at least .90 of wrong extrapolations.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))
from test_misfit import TRUE, WRONG, fits

from orch_analysis.fitting.fit import Outcome

SIZES, NOISES, BEYOND = (6, 8, 12, 20, 40), (0.003, 0.01, 0.02), 4e9


def rates(law, truth, n, sd, sets):
    """Share of data sets that are flagged, and the same among those whose band misses the truth."""
    goal, flags, misses = float(truth(np.array([BEYOND]))[0]), [], []
    for found in fits(law, truth, n, sd, sets, bootstrap=100):
        flags.append(found.outcome is Outcome.MISFIT)
        row = replace(found, outcome=Outcome.OK).predict(params=BEYOND).row(0, named=True)
        misses.append(row["lo"] is None or not row["lo"] <= goal <= row["hi"])
    flags, misses = np.array(flags), np.array(misses)
    return flags.mean(), flags[misses].mean() if misses.any() else float("nan")


def main(sets=100):
    for name, (law, truth, *_) in {**TRUE, **WRONG}.items():
        for n in SIZES:
            found = [rates(law, truth, n, sd, sets) for sd in NOISES]
            shown = "   ".join(f"sd {sd:<5} {all_:.2f}, missed {wrong:.2f}".replace("nan", "-")
                               for sd, (all_, wrong) in zip(NOISES, found, strict=True))  # fmt: skip
            print(f"{name:32} {law:12} n={n:<3} {shown}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
