"""`orch export`: a cell's encoder as a folder that timm loads, with a model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orch.answer import Answer
from orch_core.cell import Cell
from orch_core.errors import OrchError
from orch_core.files import write_atomic
from orch_core.formatting import number, plural
from orch_core.recipes import recipe_of
from orch_core.study.folder import ENCODER, Study
from orch_core.study.record import Record
from orch_core.study.rows import record_row, task_labels


@dataclass(frozen=True, slots=True)
class Exported(Answer):
    """An encoder that was exported: the cell's name and id, the folder, and the files in it."""

    name: str
    cell: str
    folder: Path
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The export as one JSON document."""
        return {
            "schema_version": 1,
            "name": self.name,
            "cell": self.cell,
            "folder": str(self.folder),
            "files": list(self.files),
        }

    @property
    def text(self) -> str:
        """Where the encoder is, and how it is loaded."""
        return (
            f"{self.name} is in {self.folder}: {', '.join(self.files)}\n"
            f'Load it with timm.create_model("local-dir:{self.folder}", pretrained=True).'
        )


def export_cell(study: Study, cell: str, out: Path) -> Exported:
    """Export the encoder of the cell with this id into a new or empty folder.

    Raises OrchError if the cell has no encoder or no result, or the folder has files.
    """
    from orch_core.learn.timm_folder import export_encoder

    one, record = study.cell(cell), study.record(cell)
    if not recipe_of(one).uses_model:
        message = f"{one.name} has no encoder: it is a control of raw pixels"
        raise OrchError(message, hint="export a cell of another algorithm")
    if record is None or record.status != "done":
        message = f"{one.name} has no result yet"
        raise OrchError(
            message, hint="`orch why CELL` prints the reason; `orch launch` trains what is missing"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        message = f"{out} exists and is not an empty folder"
        raise OrchError(message, hint="name another folder: an export never overwrites files")
    export_encoder(one, study.cell_folder(cell) / ENCODER, out)
    probes = [probe.read() for probe in study.stored_of(cell) if probe.is_probe and probe.published]
    write_atomic(out / "README.md", model_card(one, record, probes))
    return Exported(one.name, cell, out, tuple(sorted(path.name for path in out.iterdir())))


def model_card(cell: Cell, record: Record, probes: list[Record]) -> str:
    """The model card: what the encoder is, how it is used, its training, energy, data and scores."""
    model = cell.model
    assert model is not None
    values, cost = record.values, record.cost
    lines = [
        "---",
        "library_name: timm",
        "pipeline_tag: image-feature-extraction",
        "---",
        "",
        f"# {cell.name}",
        "",
        (
            f"A vision transformer of width {model.width}, depth {model.depth} and {model.heads} heads, on "
            f"images of {cell.resolution} x {cell.resolution} pixels in {plural(cell.channels, 'channel')} "
            f"and patches of {cell.patch}. It was made with orch; its cell has the id `{cell.id}`."
        ),
        "",
        "## Use",
        "",
        *_use(),
        "## Training",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _facts(cell, values, cost)),
        "",
        "## Data",
        "",
        *_data(cell),
        "",
        "## Scores",
        "",
        *_scores(probes),
        "",
        "## Citation",
        "",
        "Cite the data sets, the algorithm's paper, and orch (its repository has a CITATION.cff).",
        "",
    ]
    return "\n".join(lines)


def _use() -> list[str]:
    return [
        "```python",
        "import timm, torch",
        "",
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()',
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        "tokens = model.forward_features(images)  # [n, 1 + patches, width], of transformed images",
        "features = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1)  # of the linear probe",
        "```",
        "",
        (
            "Inputs are divided by 255, then normalised as in `preprocessor_config.json`. Other constants, "
            "such as ImageNet's, give other features and lower scores."
        ),
        "",
    ]


def _facts(cell: Cell, values: Any, cost: Any) -> list[tuple[str, str]]:
    rows = [("recipe", f"`{cell.recipe}`"), ("seed", str(cell.seed)), ("precision", cell.precision)]
    rows += [(f"override `{name}`", str(value)) for name, value in cell.overrides]
    if cell.data:
        rows += [
            ("samples seen", f"{cell.samples_seen:,}"),
            ("batch", f"{cell.batch:,}"),
            ("seed of the data's subset", str(cell.subset_seed)),
        ]
    names = {
        "params_encoder": "parameters of the encoder",
        "flops_train": "FLOPs of training",
        "heldout_loss": "held-out loss",
    }
    rows += [(text, f"{values[name]:,.6g}") for name, text in names.items() if values.get(name) is not None]
    if cost.get("seconds") is not None:
        rows.append(("hours of training", number(cost["seconds"] / 3600, 2)))
    joules = cost.get("energy_joules")
    rows.append(("energy", "not measured" if joules is None else f"{joules / 3.6e6:.3g} kWh"))
    return rows


def _data(cell: Cell) -> list[str]:
    if not cell.data:
        return ["The encoder was not trained: it is a control."]
    rows = [
        f"| {part.source} | {part.modality} | {part.images:,} | `{part.fingerprint[:12]}` |"
        for part in cell.data
    ]
    note = "The study does not record licences: state those of the sources before you publish the encoder."
    return ["| source | modality | images | content hash |", "|---|---|---|---|", *rows, "", note]


def _scores(probes: list[Record]) -> list[str]:
    done = [record for record in probes if record.status == "done"]
    if not done:
        return ["No task was probed."]
    labels = task_labels(done)
    rows = [
        f"| {labels[record.task, record.probe]} | {record_row(record)['protocol']} | "
        + " | ".join(_with_interval(record.values, name) for name in ("auc", "accuracy"))
        + f" | {record.values.get('n_test', '')} |"
        for record in done
    ]
    head = ["| task | protocol | AUC [95%] | accuracy [95%] | test images |", "|---|---|---|---|---|"]
    return [*head, *rows]


def _with_interval(values: Any, name: str) -> str:
    value, lo, hi = (values.get(key) for key in (name, f"{name}_lo", f"{name}_hi"))
    if value is None:
        return "not defined"
    return f"{value:.4f}" if lo is None or hi is None else f"{value:.4f} [{lo:.4f}, {hi:.4f}]"
