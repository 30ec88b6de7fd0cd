"""The first page of a study in MLflow: the experiment's description, and saved views of its runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from orch_core.study.folder import Study


def description(study: Study, runs: Sequence[Mapping[str, str]]) -> str:
    """Markdown on the study: the claims of its grid, then a table of runs by algorithm, encoder and mix.

    runs: per run the labels `algorithm`, `model`, `mix`, `images` and `state`.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, str]]] = {}
    for labels in runs:
        groups.setdefault((labels["algorithm"], labels["model"], labels["mix"]), []).append(labels)
    counts = Counter(labels["state"] for labels in runs)
    pending = f", {counts['pending']} with probes that are missing" if counts["pending"] else ""
    summary = f"{counts['done']} cells done, {counts['failed']} failed or diverged{pending}."
    summary += f" Mirror of `{study.root}`."
    lines = ["| algorithm | encoder | mix | images | runs | failed |", "|---|---|---|---|---:|---:|"]
    for key, group in sorted(groups.items()):
        images = ", ".join(map(str, sorted({int(labels["images"] or 0) for labels in group})))
        failed = sum(labels["state"] == "failed" for labels in group)
        lines.append(f"| {' | '.join(key)} | {images} | {len(group)} | {failed or ''} |")
    text = "\n".join([*_claim(study.root / "grid.yaml"), "", summary, "", *lines])
    return text.strip()[:18_000]  # MLflow 3.17 takes 20,000 characters of an experiment's tag


def views(tasks: Iterable[str], made: int) -> dict[str, str]:
    """Saved views of MLflow's runs table (MLflow >= 3.15), as values of experiment tags by the view's id.

    `orch ui` opens the first. The format is internal to MLflow and not documented: an older UI ignores the
    tags.
    made: Unix milliseconds of the experiment, so that a second sync writes the same.
    """
    axes = [f"params.`{key}`" for key in ("algorithm", "model", "mix", "images", "seed")]
    scores = [f"metrics.`{key}`" for key in ("heldout_loss", *(f"auc/{task}" for task in sorted(tasks)))]
    costs = [
        f"metrics.`{key}`" for key in ("flops_train", "cost/images_per_second", "cost/peak_memory_bytes")
    ]
    reasons = [f"tags.`orch.{key}`" for key in ("cause", "reason", "host", "job")]
    wanted: dict[str, tuple[str, str, list[str]]] = {
        "orch-scaling": ("Scaling", "tags.`orch.kind` = 'cell'", [*axes, "params.`params_encoder`", *scores]),
        "orch-failed": ("Failed cells", "attributes.status = 'FAILED'", [*axes, *reasons]),
        "orch-cost": ("Cost", "tags.`orch.kind` = 'cell'", [*axes, "params.`params_encoder`", *costs]),
    }
    return {key: _view(*wanted[key], made) for key in wanted}


def _view(name: str, search: str, columns: list[str], made: int) -> str:
    state = {
        "searchFilter": search,
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {"attributes.`Run Name`": 220, "params.`seed`": 60, "params.`images`": 75},
    }
    return json.dumps({"name": name, "createdAt": made, "updatedAt": made, "state": json.dumps(state)})


def _claim(grid: Path) -> list[str]:
    """The comment that a grid opens with, without its marks."""
    if not grid.exists():
        return []
    lines = []
    for line in grid.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("#"):
            break
        if "yaml-language-server" not in line:
            lines.append(line.lstrip("# ").rstrip())
    return lines
