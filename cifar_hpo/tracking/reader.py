"""What MLflow's runs hold, read again: `Records` gives curves, predictions and models to reports,
pages and predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from cifar_hpo.errors import StudyError
from cifar_hpo.paths import ARTIFACT_CONFIG, ARTIFACT_OVERRIDES
from cifar_hpo.tracking.runs import CHAMPION, PREDICTIONS, VIEW, connect

import mlflow  # isort: skip  after tracking, which sets what MLflow reads on import
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID  # isort: skip


class Records:
    """Reads what the runs of a store hold, and gives a study's run its report.

    Raises StudyError when the store is not there.
    """

    def __init__(self, tracking_uri: str | None) -> None:
        self.uri = connect(tracking_uri)
        if (
            self.uri.startswith("sqlite:///")
            and not Path(self.uri.removeprefix("sqlite:///")).exists()
        ):
            raise StudyError(
                f"MLflow's store {self.uri.removeprefix('sqlite:///')} is not here; give "
                "--tracking-uri"
            )
        self.client = mlflow.MlflowClient()

    def views(self) -> dict[str, str]:
        """Where MLflow's UI shows each study, as the last part of an address, the latest first."""
        found = [
            one
            for one in self.client.search_experiments(order_by=["last_update_time DESC"])
            if VIEW in one.tags
        ]
        view = VIEW.rpartition(".")[2]
        return {
            one.name: f"#/experiments/{one.experiment_id}/runs?viewStateShareKey={view}"
            for one in found
        }

    def curves(self, run_id: str, metric: str) -> dict[int, list[tuple[int, float]]]:
        """Epoch and value of a metric, for each replica."""
        run = self.client.get_run(run_id)
        own = {
            int(name.split("/")[0].removeprefix("replica_")): name
            for name in run.data.metrics
            if name.endswith(f"/{metric}") and name.startswith("replica_")
        }
        names = own or ({0: metric} if metric in run.data.metrics else {})
        found = {
            replica: dict(self._points(run_id, name)) for replica, name in sorted(names.items())
        }
        return {replica: sorted(points.items()) for replica, points in found.items()}

    def _points(self, run_id: str, name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run_id, name)]

    def running(self, parent: str, metric: str) -> list[tuple[str, list[float]]]:
        """Names of the runs of a study that are at work, and their values so far."""
        experiment_id = self.client.get_run(parent).info.experiment_id
        condition = f"attributes.status = 'RUNNING' and tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'"
        runs = self.client.search_runs([experiment_id], condition)
        shown = [
            (run, metric if metric in run.data.metrics else f"replica_0/{metric}") for run in runs
        ]
        return [
            (run.info.run_name, [value for _, value in sorted(self._points(run.info.run_id, name))])
            for run, name in shown
        ]

    def confusion(self, run_id: str) -> tuple[NDArray[np.int64], list[str]]:
        """Test images by true (rows) and predicted class, and the names of the classes."""
        table = json.loads(self._file(run_id, "confusion_matrix.json").read_text())
        return np.array(table["rows are true, columns predicted"]), table["classes"]

    def predictions(self, run_id: str) -> tuple[NDArray[np.uint16], NDArray[np.float16]]:
        """What each test image was taken for, and with what probability."""
        with np.load(self._file(run_id, PREDICTIONS)) as arrays:
            return arrays["predicted"], arrays["certainty"]

    def model(self, run_id: str | None, name: str | None) -> tuple[str, Any, list[str]]:
        """Name, Keras model and class names: of a run, else of the champion of a registered model,
        of which there is one or a `name`.

        Raises StudyError when there is none.
        """
        if run_id is None:
            found = {
                model.name: model.aliases[CHAMPION]
                for model in self.client.search_registered_models()
                if CHAMPION in model.aliases
            }
            if (name and name not in found) or not found:
                raise StudyError(
                    f"there is no champion {name or 'yet; a sweep makes one'}; there are: "
                    f"{', '.join(sorted(found)) or 'none'}"
                )
            if not name and len(found) > 1:
                raise StudyError(
                    "there are several champions; say --model with one of "
                    f"{', '.join(sorted(found))}"
                )
            name = name or next(iter(found))
            shown, uri = f"{name} version {found[name]}, {CHAMPION}", f"models:/{name}@{CHAMPION}"
        else:
            try:
                run = self.client.get_run(run_id)
            except mlflow.MlflowException:
                raise StudyError(f"there is no run {run_id}") from None
            if not run.outputs or not run.outputs.model_outputs:
                raise StudyError(f"run {run_id} has no model")
            shown, uri = (
                f"run {run.info.run_name}",
                f"models:/{run.outputs.model_outputs[0].model_id}",
            )
        about = mlflow.models.get_model_info(uri)
        return shown, mlflow.keras.load_model(uri), list(about.metadata["classes"])

    def _file(self, run_id: str, name: str) -> Path:
        return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name))

    def attach(self, run_id: str, folder: Path, note: str) -> None:
        """A report's files and its summary, which MLflow shows as the run's description."""
        self.client.log_artifacts(run_id, str(folder), "report")
        self.client.set_tag(run_id, "mlflow.note.content", note)

    def configuration(self, run_id: str) -> tuple[list[str], dict[str, Any]]:
        """The overrides of a run and its composed config. Raises StudyError when it has none."""
        try:
            overrides = json.loads(self._file(run_id, ARTIFACT_OVERRIDES).read_text())
            config = yaml.safe_load(self._file(run_id, ARTIFACT_CONFIG).read_text())
        except (mlflow.MlflowException, OSError):
            raise StudyError(f"run {run_id} has no {ARTIFACT_OVERRIDES}") from None
        return overrides, config
