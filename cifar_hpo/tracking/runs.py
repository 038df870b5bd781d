"""What is written to MLflow: `StudyRun` is a study's parent run, `attempt` one attempt's child run;
`records` reads them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import socket
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import numpy as np
import psutil
from filelock import FileLock
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import Metric, Param, RunTag
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from cifar_hpo.config.app import IMAGE_SIZE, SYNTHETIC_NOTICE
from cifar_hpo.config.fields import flat
from cifar_hpo.data.dataset import Dataset
from cifar_hpo.paths import GENERATED
from cifar_hpo.trial import Context, Pruned

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

REQUIREMENTS = [f"{package}=={version(package)}" for package in ("tensorflow", "keras", "numpy")]
OWNER = "cifar_hpo.owner"
CHAMPION = "champion"
PREDICTIONS = "test_predictions.npz"
VIEW = "mlflow.sharedViewState.cifar_hpo"
"""The experiment's tag under which MLflow's UI looks for a view that is asked for by its last
part."""

KIND = "mlflow.experimentKind"
"""Lets MLflow's UI open an experiment on its runs rather than on its traces."""


def owner() -> str:
    """Who runs this: host, process and its start time, so that another process with the same number
    is told apart."""
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_alive(owner: str) -> bool:
    """Whether that process still runs; one on another host is believed to."""
    host, pid, started = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    try:
        return bool(abs(psutil.Process(int(pid)).create_time() - float(started)) < 0.1)
    except psutil.NoSuchProcess:
        return False


def connect(tracking_uri: str | None) -> str:
    """Point MLflow at its store and return the URI: the one given, else MLFLOW_TRACKING_URI, else
    mlflow.db here."""
    uri = (
        tracking_uri
        or os.environ.get("MLFLOW_TRACKING_URI")
        or f"sqlite:///{Path('mlflow.db').absolute()}"
    )
    mlflow.set_tracking_uri(uri)
    os.environ.pop("MLFLOW_RUN_ID", None)  # would make every run a continuation of that one
    return uri


def experiment(name: str) -> str:
    """The id of the experiment, made on first use. Two processes at once make one database and one
    experiment."""
    with _store_lock():
        found = mlflow.set_experiment(name)
    if KIND not in found.tags:
        mlflow.set_experiment_tag(KIND, "custom_model_development")
    return str(found.experiment_id)


def _store_lock() -> FileLock:
    """Held while MLflow looks for something and makes it if it is missing, which goes wrong for two
    processes at once."""
    Path(GENERATED).mkdir(exist_ok=True)
    return FileLock(Path(GENERATED, ".mlflow.lock"))


class StudyRun:
    """The parent run of a study: its best value over trials, its report, its best configuration."""

    def __init__(self, tracking_uri: str | None, experiment_name: str, study: str) -> None:
        self.uri, self.experiment_name = connect(tracking_uri), experiment_name
        self.experiment_id = experiment(experiment_name)
        self.client = mlflow.MlflowClient()
        found = self._runs(f"tags.study = '{study}' and tags.kind = 'study'")
        if found:
            self.run_id = found[0].info.run_id
            self.client.set_tag(self.run_id, OWNER, owner())
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            tags = {"study": study, "kind": "study", OWNER: owner()}
            self.run_id = self.client.create_run(
                self.experiment_id, tags=tags, run_name=f"study {study}"
            ).info.run_id
        self.close_abandoned()

    def _runs(self, condition: str) -> list[Any]:
        return list(mlflow.search_runs([self.experiment_id], condition, output_format="list"))

    def close_abandoned(self) -> None:
        """Mark as KILLED what still says RUNNING but whose process is gone."""
        for run in self._runs(
            f"attributes.status = 'RUNNING' and tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.run_id}'"
        ):
            if not is_alive(run.data.tags.get(OWNER, ":0:0")):
                self.end(run.info.run_id, "KILLED")

    def end(self, run_id: str, status: str) -> None:
        self.client.set_terminated(run_id, status)

    def set_ui_columns(self, metrics: Sequence[str], direction: str, keys: Sequence[str]) -> None:
        """A view of the runs for MLflow's UI: what varied and what came of it as columns, the best
        first."""
        shown = dict.fromkeys([*metrics, "test_accuracy", "parameters", "train_seconds"])
        varied = [
            key if "." in key else f"{key}.name" for key in keys
        ]  # a group's choice is known by its name
        columns = [*(f"metrics.`{name}`" for name in shown), *(f"params.`{key}`" for key in varied)]
        view: dict[str, Any] = {
            "selectedColumns": ["attributes.`Duration`", *columns],
            "runsExpanded": {self.run_id: True},
            "columnOrder": [],
        }
        view |= {
            "orderByKey": f"metrics.`{metrics[0]}`",
            "orderByAsc": direction == "minimize",
            "searchFilter": "",
            "datasetsFilter": [],
        }
        view |= {"lifecycleFilter": "Active", "modelVersionFilter": "All Runs", "startTime": "ALL"}
        self.client.set_experiment_tag(self.experiment_id, VIEW, json.dumps(view))

    def tell(self, finished: int, best: float | None) -> None:
        """A point of the chart of the best value over trials."""
        if best is not None:
            self.client.log_metric(self.run_id, "best_value", best, step=finished)

    def close(self, status: str, note: str, best: Mapping[str, Any] | None) -> None:
        """End the parent run with its report, which MLflow shows as the run's description, and its
        best configuration."""
        self.client.set_tag(self.run_id, "mlflow.note.content", note)
        self.client.log_text(self.run_id, note, "report.md")
        if best:
            self.client.log_dict(self.run_id, dict(best), "best.json")
        self.end(self.run_id, status)

    def register_champion(self, run_id: str, metric: str, value: float, direction: str) -> None:
        """Register the model of a run as the champion of its dataset, unless the present one is as
        good in the same metric."""
        run = self.client.get_run(run_id)
        if not run.outputs or not run.outputs.model_outputs:
            return
        name = f"cifar_hpo-{run.data.tags['data']}"
        with contextlib.suppress(mlflow.MlflowException):  # it is there already
            self.client.create_registered_model(name)
        try:
            present = self.client.get_model_version_by_alias(name, CHAMPION).tags
        except mlflow.MlflowException:
            present = {}
        sign = 1 if direction == "maximize" else -1
        if present.get("metric") == metric and sign * float(present["value"]) >= sign * value:
            return
        tags = {"metric": metric, "value": str(value), "study": run.data.tags.get("study", "")}
        source = f"models:/{run.outputs.model_outputs[0].model_id}"
        version = self.client.create_model_version(name, source, run_id, tags=tags)
        self.client.set_registered_model_alias(name, CHAMPION, version.version)


class Attempt:
    """A child run while it lasts."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.client = mlflow.MlflowClient()

    def log_epoch(self, epoch: int, values: Mapping[str, float], prefix: str = "") -> None:
        """All of an epoch's metrics in one batch; its step is the number of epochs done."""
        now = int(time.time() * 1000)
        self.client.log_batch(
            self.run_id,
            metrics=[
                Metric(prefix + name, value, now, epoch + 1) for name, value in values.items()
            ],
        )

    def log_outcome(
        self,
        metrics: Mapping[str, float],
        dataset: Dataset,
        predicted: NDArray[np.int64],
        confidence: NDArray[np.float32],
        epochs: int,
    ) -> None:
        """Final metrics, accuracy on each class, the confusion matrix of the test images as a
        table, and what each was taken for."""
        labels, classes = np.asarray(dataset.test[1], np.int64), len(dataset.classes)
        confusion = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(
            classes, classes
        )
        right = np.diag(confusion) / np.maximum(confusion.sum(axis=1), 1)
        per_class = {
            f"test_accuracy/{name}": float(share)
            for name, share in zip(dataset.classes, right, strict=True)
        }
        self.log_epoch(epochs - 1, {**metrics, **per_class})
        table = {
            "classes": list(dataset.classes),
            "rows are true, columns predicted": confusion.tolist(),
        }
        self.client.log_dict(self.run_id, table, "confusion_matrix.json")
        with tempfile.TemporaryDirectory() as folder:
            np.savez_compressed(
                Path(folder, PREDICTIONS),
                predicted=predicted.astype(np.uint16),
                certainty=confidence.astype(np.float16),
            )
            self.client.log_artifact(self.run_id, str(Path(folder, PREDICTIONS)))

    def log_model(self, model: Any, dataset: Dataset) -> None:
        """The Keras model, taking raw uint8 images, with the names of its classes and an image to
        try it on.

        Pinned requirements spare MLflow the seconds of inferring them.
        """
        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, IMAGE_SIZE, IMAGE_SIZE, 3))]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, len(dataset.classes)))]),
        )
        Model.log(
            artifact_path=None,
            name="model",
            flavor=_Flavor(np.array(dataset.test[0][:1])),
            model=model,
            signature=signature,
            pip_requirements=REQUIREMENTS,
            metadata={"classes": list(dataset.classes)},
            save_exported_model=False,
            validate_serving_input=False,
        )


class _Flavor:
    """MLflow's Keras flavor with an input example, for which it has not made the folder yet.

    MLflow would load the model and predict the example twice, which takes a second and prints
    Keras' progress bars; it asks the options that it hands on whether to, so they carry one of its
    own.
    """

    __name__ = "mlflow.keras"

    def __init__(self, example: NDArray[np.uint8]) -> None:
        self.example = example

    def save_model(self, path: str, **options: Any) -> None:
        Path(path).mkdir()
        del options["validate_serving_input"]  # for Model.log alone
        mlflow.keras.save_model(path=path, **{**options, "input_example": self.example})


@contextlib.contextmanager
def attempt(
    config: DictConfig, overrides: Sequence[str], dataset: Dataset, context: Context, number: int
) -> Iterator[Attempt]:
    """A child run for one attempt, or a run of its own outside a study.

    Its status at the end is true: FINISHED, FAILED with the traceback as an artifact, or KILLED
    when interrupted.
    """
    connect(OmegaConf.select(config, "mlflow.tracking_uri"))
    experiment_id = context.experiment_id or experiment(
        OmegaConf.select(config, "mlflow.experiment") or "cifar_hpo"
    )
    tags = {"data": dataset.name, OWNER: owner(), "cpu": platform.processor() or platform.machine()}
    if context.study:
        tags |= {
            "study": context.study,
            "kind": "trial",
            "trial": str(number),
            "attempt": str(context.attempt),
        }
    if dataset.fallback:
        tags |= {"synthetic": "true", "mlflow.note.content": SYNTHETIC_NOTICE}
    name = _run_name(overrides, context) + (" SYNTHETIC" if dataset.fallback else "")
    parent, system = (
        context.parent_run_id or None,
        bool(OmegaConf.select(config, "mlflow.system_metrics")),
    )
    with contextlib.ExitStack() as stack:
        run = mlflow.start_run(
            experiment_id=experiment_id,
            run_name=name,
            parent_run_id=parent,
            tags=tags,
            log_system_metrics=system,
        )
        stack.callback(lambda: mlflow.active_run() and mlflow.end_run("FAILED"))
        opened = Attempt(run.info.run_id)
        try:
            _describe(opened, config, overrides, dataset)
            yield opened
        except Pruned as pruned:
            opened.client.set_tag(opened.run_id, "pruned", str(pruned))
            mlflow.end_run("FINISHED")
            raise
        except Exception:
            opened.client.log_text(opened.run_id, traceback.format_exc(), "traceback.txt")
            mlflow.end_run("FAILED")
            raise
        except BaseException:
            mlflow.end_run("KILLED")
            raise
        mlflow.end_run("FINISHED")


def _run_name(overrides: Sequence[str], context: Context) -> str:
    """What varied, such as filters=4; the whole key only where its last part is not enough."""
    keys = context.varied or [override.split("=")[0] for override in overrides]
    short = [key.split(".")[-1] for key in keys]
    parts = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key in keys:
            last = key.split(".")[-1]
            parts.append(f"{last if short.count(last) == 1 else key}={value}")
    return ", ".join(parts)[:200] or "base"


def _describe(
    opened: Attempt, config: DictConfig, overrides: Sequence[str], dataset: Dataset
) -> None:
    """What fixes the run: flat params, the composed config and the overrides, the dataset."""
    values = flat(OmegaConf.to_container(config, resolve=False))
    params = [
        Param(key, str(value)[:500])
        for key, value in values.items()
        if not key.startswith("mlflow.")
    ]
    opened.client.log_batch(
        opened.run_id, params=params, tags=[RunTag("overrides", " ".join(overrides)[:5000])]
    )
    opened.client.log_text(opened.run_id, OmegaConf.to_yaml(config), "config.yaml")
    opened.client.log_text(opened.run_id, json.dumps(list(overrides)), "overrides.json")
    name = f"{dataset.name} SYNTHETIC FALLBACK" if dataset.fallback else dataset.name
    images, labels = dataset.train
    with _store_lock():
        mlflow.log_input(
            from_numpy(images[:1], targets=labels[:1], name=name, digest=dataset.digest),
            context="training",
        )
