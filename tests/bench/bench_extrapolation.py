"""Forecasts against fixed forms on the development half of the extrapolation benchmark.

    python tests/bench/bench_extrapolation.py [curves.csv]

Five settings with the same points to predict: h2 fits up to half the largest scale (the authors' split), h4 and h8 up
to a quarter and an eighth, sp6h2 and sp6h4 only six log-spaced pilots over a 32-fold range. The error is RMSLE, the
root mean square of ln predicted/measured over a curve's held-out points. Prints, per method and setting, the mean
error, and for the forecast the geometric ratio of errors and win rate against each fixed form, band coverage, band
width and seconds a curve; all in one run. About three CPU minutes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
from fixed_forms import broken, official, predict

from orch_analysis.forecast.one_variable import forecast

DEV = Path(__file__).parents[1] / "data" / "extrapolation" / "dev.csv"
SETTINGS = {"h2": 2, "h4": 4, "h8": 8, "sp6h2": 2, "sp6h4": 4}
# M4 as published and as the authors' code gives it here (2022 paper; image classification, all 72 curves: .0415).
PARAMETERS = {"M2": 3, "M4": 5, "BNSL-1": 6}
PUBLISHED = {"M2": (0.0689, 0.140, 0.223, 0.034, 0.087), "M4": (0.0349, 0.108, 0.158, 0.0346, 0.069)}


def cases(path):
    """(domain, setting, x, y, scales ahead, errors ahead) for every curve and setting."""
    table = pl.read_csv(path).unique(maintain_order=True).sort("Seen Examples")
    for (domain, _, _), rows in table.group_by("Domain", "Task", "Model", maintain_order=True):
        train, test = (rows.filter(pl.col("Training") == flag) for flag in (1, 0))
        x, y, ahead, truth = (
            part[name].to_numpy() for part in (train, test) for name in ("Seen Examples", "Loss")
        )
        for setting, divisor in SETTINGS.items():
            keep = x <= ahead[-1] / divisor if divisor > 2 else x > 0
            yield domain, setting, *thinned(x[keep], y[keep], setting), ahead, truth


def thinned(x, y, setting):
    """Six pilots over a 32-fold range in the sp settings, all points in the others."""
    if not setting.startswith("sp6"):
        return x, y
    picked = sorted({int(np.abs(np.log(x / q)).argmin()) for q in np.geomspace(x[-1] / 32, x[-1], 6)})
    return x[picked], y[picked]


def fixed(tasks, form):
    """ln predictions of M2 or M4 at the points fitted, then ahead, with the authors' settings by domain."""
    starts = [1.001 if domain == "BB" else 1.0 for domain, *_ in tasks]
    caps = [1.0 if domain in {"IC", "BB"} else None for domain, *_ in tasks]
    found = official([(task[2], task[3]) for task in tasks], form, starts, caps)
    return [predict(found, k, np.append(task[2], task[4])) for k, task in enumerate(tasks)]


def timed(name, work):
    start = time.process_time()
    result = work()
    return name, result, time.process_time() - start


def main(path=DEV):
    tasks = list(cases(path))
    truth = [np.log(task[5]) for task in tasks]
    ours = []
    methods = [
        timed("M2", lambda: fixed(tasks, "M2")),
        timed("M4", lambda: fixed(tasks, "M4")),
        timed("BNSL-1", lambda: [broken(x, y, np.append(x, ahead)) for _, _, x, y, ahead, _ in tasks]),
        timed("forecast", lambda: ours.extend(forecast(*task[2:5]) for task in tasks) or [np.log(f.value) for f in ours]),
    ]  # fmt: skip
    methods.insert(3, ("of the three by AICc", picked(methods, tasks), 0.0))
    errors = {
        name: np.array(
            [np.sqrt(np.mean((p[-len(t) :] - t) ** 2)) for p, t in zip(result, truth, strict=True)]
        )
        for name, result, _ in methods
    }
    domains, settings = (np.array([task[i] for task in tasks]) for i in (0, 1))
    print("mean RMSLE, image classification".ljust(34), *(s.rjust(7) for s in SETTINGS), " other h2  s/curve")
    for name, _, seconds in methods:
        means = [errors[name][(domains == "IC") & (settings == s)].mean() for s in SETTINGS]
        language = errors[name][(domains != "IC") & (settings == "h2")]
        rest = f"{language.mean():9.4f}" if len(language) else " " * 9
        print(name.ljust(34), *(f"{mean:7.4f}" for mean in means), rest, f"{seconds / len(tasks):8.3f}")
        if path == DEV and name in PUBLISHED:
            print(f"  {name} by its authors' code".ljust(34), *(f"{value:7.4f}" for value in PUBLISHED[name]))
    compare(errors, domains, settings)
    bands(ours, tasks, settings)


def picked(methods, tasks):
    """Of the fixed forms' predictions, for each curve the one with the lowest AICc (Hurvich & Tsai 1989)."""
    chosen = []
    for k, (_, _, x, y, _, _) in enumerate(tasks):
        scores = []
        for name, result, _ in methods[:3]:
            parameters = PARAMETERS[name] + 1
            spare = len(x) - parameters - 1
            variance = np.mean((result[k][: len(x)] - np.log(y)) ** 2)
            fine = 2 * parameters + 2 * parameters * (parameters + 1) / spare if spare > 0 else np.inf
            scores.append(len(x) * np.log(max(variance, 1e-300)) + fine)
        chosen.append(methods[int(np.argmin(scores))][1][k])
    return chosen


def compare(errors, domains, settings):
    for name in ("M2", "M4", "BNSL-1", "of the three by AICc"):
        ratio = np.log(errors["forecast"] / errors[name])
        parts = [np.exp(ratio[settings == s].mean()) for s in SETTINGS]
        print(
            f"forecast / {name}".ljust(34),
            *(f"{part:7.2f}" for part in parts),
            f"  pooled {np.exp(ratio.mean()):.3f}",
        )
        wins = [(ratio[settings == s] < 0).mean() for s in SETTINGS]
        print(
            "  share of curves won".ljust(34),
            *(f"{win:7.2f}" for win in wins),
            f"  pooled {(ratio < 0).mean():.3f}",
        )
    for domain in dict.fromkeys(domains.tolist()):
        here = domains == domain
        print(
            f"{domain}: mean error over M4's, all settings: {errors['forecast'][here].mean() / errors['M4'][here].mean():.2f}"
        )


def bands(forecasts, tasks, settings):
    inside = np.array(
        [
            np.mean((np.array(f.lo) <= t[5]) & (t[5] <= np.array(f.hi)))
            for f, t in zip(forecasts, tasks, strict=True)
        ]
    )
    width = np.array([np.median(np.log(np.array(f.hi) / f.lo)) for f in forecasts])
    print(
        "90% band, coverage".ljust(34),
        *(f"{inside[settings == s].mean():7.3f}" for s in SETTINGS),
        f"  pooled {inside.mean():.3f}",
    )
    print(
        "  median full width, ln error".ljust(34),
        *(f"{np.median(width[settings == s]):7.3f}" for s in SETTINGS),
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
