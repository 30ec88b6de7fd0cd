"""Writing runs: through MLflow's client, which works for every store and takes five requests a run."""

from __future__ import annotations

import getpass
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from orch.tracking.mirror import Dataset, MirroredRun
from orch.tracking.track.connection import runs
from orch_core.study.folder import Study

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Experiment

KEY, BASE, DIGEST = "orch.cell", "orch.base", "orch.digest"
STATUS = {"done": "FINISHED", "pending": "SCHEDULED", "failed": "FAILED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRun:
    """A run in the store: its id, the hashes that it carries, and the keys of its tags if they are known."""

    id: str
    base: str
    digest: str
    tags: frozenset[str] = frozenset()


class Writer(Protocol):
    """A way to write the runs of one experiment."""

    @property
    def experiment(self) -> Experiment:
        """MLflow's experiment."""

    def known_runs(self) -> dict[str, KnownRun]:
        """The runs of the experiment by key; of two with one key only one is left."""

    def write(self, batch: Sequence[MirroredRun], known: Mapping[str, KnownRun]) -> None:
        """Write runs: one that is known with the same base is completed, one with another base replaced."""

    def tag_experiment(self, tags: Mapping[str, str]) -> None:
        """Set tags of the experiment."""


def experiment_of(client: MlflowClient, study: Study, artifacts: str | None) -> Experiment:
    """The study's experiment, made or restored. artifacts: URI of its files, if not the store's."""
    found = client.get_experiment_by_name(study.name)
    if found is None:
        return client.get_experiment(client.create_experiment(study.name, artifact_location=artifacts))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found


def run_tags(run: MirroredRun) -> dict[str, str]:
    """The tags of a run besides its digest, without those that are empty."""
    return {
        KEY: run.key,
        BASE: run.base,
        "mlflow.user": getpass.getuser(),
        **{key: value for key, value in run.tags.items() if value},
    }


def dataset_input(dataset: Dataset) -> DatasetInput:
    """A data set in MLflow's form."""
    from mlflow.entities import Dataset as MlflowDataset
    from mlflow.entities import DatasetInput, InputTag

    data = MlflowDataset(
        name=dataset.name,
        digest=dataset.digest,
        source_type="local",
        source=json.dumps({"uri": dataset.path}),
        profile=json.dumps(dict(dataset.facts)),
    )
    return DatasetInput(dataset=data, tags=[InputTag("mlflow.data.context", dataset.context)])


def link_files(files: Sequence[tuple[Path, str]], folder: Path) -> None:
    """A folder of links to artifacts, to upload them by one call."""
    for path, place in files:
        target = folder / place / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientWriter:
    """The writer for HTTP servers; a run gets its digest last, so that one cut short is completed."""

    client: MlflowClient
    experiment: Experiment

    def known_runs(self) -> dict[str, KnownRun]:
        """The runs by key; of two with one key the complete one stays, and the other is deleted."""
        known: dict[str, KnownRun] = {}
        for run in runs(self.client, self.experiment.experiment_id):
            tags = run.data.tags
            found = KnownRun(
                id=run.info.run_id,
                base=tags.get(BASE, ""),
                digest=tags.get(DIGEST, ""),
                tags=frozenset(tags),
            )
            if KEY in tags:
                other = known.setdefault(tags[KEY], found)
                if other is not found:
                    worse = found if other.digest else other
                    self.client.delete_run(worse.id)
                    known[tags[KEY]] = other if other.digest else found
        return known

    def write(self, batch: Sequence[MirroredRun], known: Mapping[str, KnownRun]) -> None:
        """Write one run after the other."""
        for run in batch:
            old = known.get(run.key)
            if old and old.base != run.base:
                self.client.delete_run(old.id)
                old = None
            self._write(run, old)

    def _write(self, run: MirroredRun, old: KnownRun | None) -> None:
        from mlflow.entities import Metric, Param, RunTag

        tags = run_tags(run)
        run_id = old.id if old else self._create(run, tags)
        self.client.log_batch(
            run_id,
            metrics=[Metric(one.key, one.value, one.time, one.step) for one in run.metrics],
            params=[Param(key, value) for key, value in run.params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        for key in (key for key, value in run.tags.items() if old and not value and key in old.tags):
            self.client.delete_tag(run_id, key)  # a probe that failed has been repaired
        if run.datasets:
            self.client.log_inputs(run_id, datasets=[dataset_input(one) for one in run.datasets])
        if run.files:
            with tempfile.TemporaryDirectory(prefix="orch-sync-") as folder:
                link_files(run.files, Path(folder))
                self.client.log_artifacts(run_id, folder)
        self.client.set_terminated(run_id, STATUS[run.state], run.end)
        self.client.set_tag(run_id, DIGEST, run.digest)

    def _create(self, run: MirroredRun, tags: Mapping[str, str]) -> str:
        first = {name: tags[name] for name in (KEY, BASE, "mlflow.user")}
        experiment = self.experiment.experiment_id
        created = self.client.create_run(experiment, run.start, tags=first, run_name=run.name)
        return str(created.info.run_id)

    def tag_experiment(self, tags: Mapping[str, str]) -> None:
        """Set tags of the experiment."""
        for key, value in tags.items():
            self.client.set_experiment_tag(self.experiment.experiment_id, key, value)
