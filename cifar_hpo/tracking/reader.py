"""`RunReader` reads what MLflow's runs hold: curves, predictions, models.

Reports, pages and predictions are made of it.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import mlflow
import numpy as np
import yaml
from numpy.typing import NDArray

from cifar_hpo import paths, processor
from cifar_hpo.config.app import RAW_PIXELS
from cifar_hpo.errors import StudyError, named_line, one_line
from cifar_hpo.metrics import replica_name, stored_names
from cifar_hpo.redaction import redacted
from cifar_hpo.tracking import _mlflow
from cifar_hpo.tracking.runs import CHAMPION, USERS_NOTE, described_by, registered_name
from cifar_hpo.tracking.store import TITLE, connect, open_store, store_errors


class ImageModel(Protocol):
    """What is asked of a Keras model."""

    def predict(self, x: NDArray[Any], *, verbose: int) -> NDArray[np.float32]:
        """The outputs (n, classes) for images (n, height, width, channels)."""


class LoadedModel(NamedTuple):
    """A model, what it is called to a user, and the names of its outputs.

    shape: of its images: height, width, channels. pixels: the largest pixel that it takes, of
    images whose smallest are 0; None for images of a scale of their own. labels: the kind of its
    labels, `classes` unless they are others. dtype: of its images.
    """

    title: str
    model: ImageModel
    classes: list[str]
    shape: tuple[int, int, int]
    pixels: float | None
    labels: str
    dtype: str = "uint8"


MAX_CAUSE = 300
"""Characters of why a model can't be loaded."""


def why_not_loaded(layers: Any) -> str:
    """Why a model of these layers, its config as Keras saves it, can't be loaded; else empty.

    layers: None of a model that has no config.
    """
    if layers is None:
        return "one of its classes has no get_config that Keras can save"
    try:
        _mlflow.custom_objects(layers)
    except ValueError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Champion:
    """The best model of a dataset, and the run that it comes from.

    title: what it is called to a user. study: the name of the study that made it champion. metric:
    by which it is one. metrics: its run's last values. params: its run's, flat, by the path of
    their key. digest: of the images' content; empty where the run has no dataset.
    """

    title: str
    run_id: str
    study: str
    metric: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    digest: str


@contextlib.contextmanager
def runs_read(tracking_uri: str | None) -> Iterator[RunReader]:
    """A reader that leaves MLflow's settings of this process as they were.

    Raises what `RunReader` raises.
    """
    with _mlflow.settings_kept():
        yield RunReader(tracking_uri)


class RunReader:
    """Reads what the runs of a store hold, and gives a study's run its report.

    Raises StudyError when the store is not there or can't be read.
    """

    def __init__(self, tracking_uri: str | None) -> None:
        self.uri = connect(tracking_uri)
        open_store(self.uri, will_write=False)
        self.client = mlflow.MlflowClient()

    def check_run(self, run_id: str) -> None:
        """Raise StudyError where the store does not have a run."""
        with store_errors(self.uri):
            try:
                self.client.get_run(run_id)
            except mlflow.MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                problem = f"has no run {run_id}: it was deleted, or is in another store"
                raise StudyError(f"{TITLE} {problem}; give --tracking-uri") from None

    def views(self) -> dict[str, str]:
        """Where MLflow's UI shows each study, as the last part of an address, the latest first."""
        addresses = {}
        order = ["last_update_time DESC"]
        for experiment in _all_pages(self.client.search_experiments, order_by=order):
            if _mlflow.VIEW_TAG in experiment.tags:
                addresses[experiment.name] = _mlflow.view_address(experiment.experiment_id)
        return addresses

    def curves(self, run_id: str, metric: str) -> dict[int, list[tuple[int, float]]]:
        """Epoch and value of a metric, for each replica."""
        logged = self.client.get_run(run_id).data.metrics
        names = stored_names(logged, metric)
        if not names and metric in logged:
            names = {0: metric}
        return {replica: self._points(run_id, name) for replica, name in names.items()}

    def all_curves(self, run_id: str) -> dict[str, dict[int, float]]:
        """Value by epoch of each metric that was logged after several epochs, those of replicas
        among them; of a run of one epoch, all its metrics.

        Raises StudyError where the run is not there.
        """
        self.check_run(run_id)
        curves = {}
        with store_errors(self.uri):
            for name in sorted(self.client.get_run(run_id).data.metrics):
                if not name.startswith(_mlflow.SYSTEM_METRICS):
                    curves[name] = dict(self._points(run_id, name))
        longest = max(map(len, curves.values()), default=0)
        return {name: curve for name, curve in curves.items() if longest == 1 or len(curve) > 1}

    def latest_attempt(self, parent: str, trial: int) -> str | None:
        """The run of a study's trial, that of its latest attempt; None where there is none."""
        with store_errors(self.uri):
            experiment_id = self.client.get_run(parent).info.experiment_id
            condition = _mlflow.attempts(parent, trial)
            order = ["attributes.start_time DESC"]
            runs = self.client.search_runs([experiment_id], condition, order_by=order)
        return str(runs[0].info.run_id) if runs else None

    def dataset_digest(self, run_id: str) -> str:
        """The digest of the images that a run was trained on; empty where it has none."""
        return _mlflow.dataset_digest(self.client.get_run(run_id))

    def champion(self, dataset: str) -> Champion:
        """The champion of a dataset. Raises StudyError when there is none, or its run is gone."""
        name = registered_name(dataset)
        with store_errors(self.uri):
            title, _ = self._find_champion(name)
            version = self.client.get_model_version_by_alias(name, CHAMPION)
            if not version.run_id:
                problem = f"{title} is of no run, so nobody knows how it was measured"
                raise StudyError(f"{problem}; remove its alias {CHAMPION} in MLflow's pages")
            self.check_run(version.run_id)
            run = self.client.get_run(version.run_id)
        return Champion(
            title=title,
            run_id=str(version.run_id),
            study=str(version.tags.get("study", "")),
            metric=str(version.tags.get("metric", "")),
            metrics=run.data.metrics,
            params=run.data.params,
            digest=_mlflow.dataset_digest(run),
        )

    def _points(self, run_id: str, name: str) -> list[tuple[int, float]]:
        """Step and value by step; the last value where a step was logged again."""
        values = {}
        for point in self.client.get_metric_history(run_id, name):
            values[point.step] = point.value
        return sorted(values.items())

    def running(self, parent: str, metric: str) -> list[tuple[str, list[float]]]:
        """Names of the runs of a study that are at work, and their values so far."""
        progress = []
        with store_errors(self.uri):
            experiment_id = self.client.get_run(parent).info.experiment_id
            runs = self.client.search_runs([experiment_id], _mlflow.child_runs(parent, "RUNNING"))
            for run in runs:
                name = metric if metric in run.data.metrics else replica_name(0, metric)
                values = [value for _, value in self._points(run.info.run_id, name)]
                progress.append((run.info.run_name, values))
        return progress

    def classifies(self, run_id: str) -> bool:
        """Whether a run's model tells classes apart; True also where the store can't be asked."""
        try:
            artifacts = self.client.list_artifacts(run_id)
        except (mlflow.MlflowException, OSError):
            return True
        return not artifacts or any(file.path == paths.ARTIFACT_CONFUSION for file in artifacts)

    def confusion(self, run_id: str) -> tuple[NDArray[np.int64], list[str]]:
        """Test images by true (rows) and predicted class, and the names of the classes."""
        table = json.loads(self._download(run_id, paths.ARTIFACT_CONFUSION).read_text())
        return np.array(table["rows are true, columns predicted"]), table["classes"]

    def predictions(self, run_id: str) -> tuple[NDArray[np.uint16], NDArray[np.float16]]:
        """What each test image was taken for, and with what probability."""
        with np.load(self._download(run_id, paths.ARTIFACT_PREDICTIONS)) as arrays:
            return arrays["predicted"], arrays["certainty"]

    def correct(self, run_id: str) -> NDArray[np.bool_] | None:
        """Whether each replica recognised each test image, (replica, n); None where a run does not
        say, as those of earlier versions don't."""
        try:
            path = self._download(run_id, paths.ARTIFACT_PREDICTIONS)
        except StudyError:
            return None
        with np.load(path) as arrays:
            if "correct" not in arrays:
                return None
            count = len(arrays["predicted"])
            correct: NDArray[np.bool_] = np.unpackbits(arrays["correct"], axis=1, count=count) > 0
            return correct

    def model(self, run_id: str | None, name: str | None) -> LoadedModel:
        """The model of a run, else the champion of a registered model.

        name: of the registered model, where there are several with a champion. Raises StudyError
        when there is none, or it is gone, damaged or not ours.
        """
        with store_errors(self.uri):
            title, uri = self._find_champion(name) if run_id is None else self._find_model(run_id)
        processor.set_tensorflow_switches()
        try:
            with tempfile.TemporaryDirectory() as copy, processor.quiet_tensorflow():
                fetched = _mlflow.fetch_keras_model(uri, Path(copy))
                info = mlflow.models.get_model_info(fetched.folder)
                (images,) = info.signature.inputs.inputs
                _, height, width, colours = images.shape
                return LoadedModel(
                    title,
                    mlflow.keras.load_model(fetched.folder, custom_objects=fetched.custom_objects),
                    list(info.metadata["classes"]),
                    (height, width, colours),
                    info.metadata.get("pixels", RAW_PIXELS),
                    info.metadata.get("labels", "classes"),
                    np.dtype(images.type).name,
                )
        except Exception as error:  # noqa: BLE001  Keras, h5py and zipfile share no base
            cause = named_line(error, MAX_CAUSE)
            hint = "choose another one, or train it again"
            raise StudyError(f"{title}: its model can't be loaded ({cause}); {hint}") from None

    def _find_model(self, run_id: str) -> tuple[str, str]:
        """Title and URI of the model that a run has logged."""
        try:
            run = self.client.get_run(run_id)
        except mlflow.MlflowException:
            raise StudyError(f"there is no run {run_id}") from None
        uri = _mlflow.model_uri(run)
        if uri is None:
            raise StudyError(f"run {run_id} has no model")
        return f"run {run.info.run_name}", uri

    def _find_champion(self, name: str | None) -> tuple[str, str]:
        """Title and URI of a champion."""
        versions = self._champion_versions()
        names = ", ".join(sorted(versions))
        if (name and name not in versions) or not versions:
            raise StudyError(
                f"there is no champion {name or 'yet; a sweep makes one'}; there are: "
                f"{names or 'none'}"
            )
        if not name and len(versions) > 1:
            raise StudyError(f"there are several champions; say --model with one of {names}")
        chosen = name or next(iter(versions))
        return f"{chosen} version {versions[chosen]}, {CHAMPION}", f"models:/{chosen}@{CHAMPION}"

    def _champion_versions(self) -> dict[str, Any]:
        """The version that is champion, by the name of the registered model."""
        versions = {}
        for model in _all_pages(self.client.search_registered_models):
            if CHAMPION in model.aliases:
                versions[model.name] = model.aliases[CHAMPION]
        return versions

    def _download(self, run_id: str, name: str) -> Path:
        """A run's artifact. Raises StudyError when it has none of that name."""
        try:
            return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name))
        except (mlflow.MlflowException, OSError):
            raise StudyError(f"run {run_id} has no {name}") from None

    def attach(self, run_id: str, folder: Path, note: str) -> None:
        """A report's files and its summary, which MLflow shows as the run's description.

        Raises StudyError where the store, or the place of its artifacts, can't be written.
        """
        try:
            with store_errors(self.uri):
                self.client.log_artifacts(run_id, str(folder), paths.ARTIFACT_REPORT)
                users_note = self.client.get_run(run_id).data.tags.get(USERS_NOTE, "")
                self.client.set_tag(run_id, _mlflow.NOTE, described_by(users_note, note))
        except OSError as error:
            raise StudyError(redacted(one_line(error))) from None

    def configuration(self, run_id: str) -> tuple[list[str], dict[str, Any]]:
        """The overrides of a run and its composed config. Raises StudyError when it has none."""
        overrides = json.loads(self._download(run_id, paths.ARTIFACT_OVERRIDES).read_text())
        config = yaml.safe_load(self._download(run_id, paths.ARTIFACT_CONFIG).read_text())
        return overrides, config


def _all_pages(search: Callable[..., Any], **given: Any) -> Iterator[Any]:
    """All that a search of MLflow's client finds, which gives a hundred or a thousand at a time."""
    token = None
    while True:
        page = search(**given, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
