"""How expected.json was made: AUC and ACC of medmnist 3.0.2's own Evaluator on the cases that `case` draws.

Run it where that package is installed (it is not a dependency): `python make.py`.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
KINDS = {
    "multi-class": "pathmnist", "binary-class": "breastmnist", "multi-label": "chestmnist",
    "ordinal-regression": "retinamnist",
}  # fmt: skip
SCORES = ("continuous", "ties", "half", "constant", "certain", "rare")


def case(kind: str, form: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels [n, k] and scores [n, classes] (binary: [n, 1], of the positive class)."""
    rng = np.random.default_rng([seed, len(kind), SCORES.index(form)])
    n, classes = 80, {"multi-class": 5, "ordinal-regression": 5, "binary-class": 1, "multi-label": 6}[kind]
    if kind == "multi-label":
        labels = rng.integers(0, 2, (n, classes))
        labels[0], labels[1] = 0, 1
    else:
        share = (
            [0.96] + [0.04 / max(1, classes - 1)] * (classes - 1) if form == "rare" and classes > 1 else None
        )
        many = 2 if kind == "binary-class" else classes
        labels = np.concatenate([np.arange(many), rng.choice(many, n - many, p=share)])[:, None]
    scores = rng.random((n, classes))
    if form == "ties":
        scores = np.round(scores * 3) / 3
    elif form == "half":
        scores = rng.choice([0.5, np.nextafter(0.5, 1), np.nextafter(0.5, 0), 0.4], (n, classes))
    elif form == "constant":
        scores = np.full((n, classes), 0.25)
    elif form == "certain":
        scores = rng.choice([0.0, 1.0, 1e-300, 1 - 1e-16], (n, classes))
    return labels, scores


def main() -> None:
    from medmnist import Evaluator

    found = {}
    with tempfile.TemporaryDirectory() as root:
        for kind, flag in KINDS.items():
            for form in SCORES:
                for seed in (0, 1):
                    labels, scores = case(kind, form, seed)
                    np.savez(Path(root) / f"{flag}.npz", test_labels=labels.astype(np.uint8))
                    metrics = Evaluator(flag, "test", root=root).evaluate(scores)
                    found[f"{kind} {form} {seed}"] = [float(metrics.AUC), float(metrics.ACC)]
    (HERE / "expected.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
