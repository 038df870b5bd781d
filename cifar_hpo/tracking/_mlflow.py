"""All of MLflow that is not its documented API, or whose form we depend on.

Names of tags, the view state of its UI, how a model is logged without being tried:
tests/tracking/test_mlflow.py says of each what a new MLflow has changed.
"""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it raises what it logs
logging.getLogger("alembic").setLevel(logging.WARNING)  # of the store's tables, when they are made

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""The schemes of stores that are a database."""

PARENT_RUN = "mlflow.parentRunId"
"""The tag of a child run; its UI nests runs by it."""

NOTE = "mlflow.note.content"
"""The tag that its UI shows as a run's description, Markdown."""

EXPERIMENT_KIND = "mlflow.experimentKind"
TRAINING = "custom_model_development"
"""The kind of an experiment that its UI opens on the runs rather than on the traces."""

VIEW = "cifar_hpo"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""The experiment's tag under which its UI looks for a view that an address asks for."""

VIEW_PARAMETER = "viewStateShareKey"
"""Of an address in its UI: the last part of the view's tag."""

RUN_ID_VARIABLE = "MLFLOW_RUN_ID"
"""Would make each run that is started a continuation of that one."""

REQUIREMENTS = [f"{package}=={version(package)}" for package in ("tensorflow", "keras", "numpy")]
"""Of a logged model; given, they spare MLflow the process that infers them: 0.05 s for 6.2 s."""


def forget_run_id() -> None:
    """Let the next run be a new one."""
    os.environ.pop(RUN_ID_VARIABLE, None)


def create_tables(url: str) -> None:
    """Make a database that has MLflow's tables and the experiment that all have."""
    mlflow.MlflowClient(url).search_experiments(max_results=1)


def view_address(experiment_id: str) -> str:
    """Where the UI shows an experiment in our view, as the last part of an address."""
    return f"#/experiments/{experiment_id}/runs?{VIEW_PARAMETER}={VIEW}"


def view_state(
    metrics: Sequence[str], params: Sequence[str], direction: str, expanded_run: str
) -> str:
    """The UI's list of runs with these columns, sorted by the first metric, as JSON.

    direction: minimize or maximize. expanded_run: the parent whose child runs are shown.
    """
    columns = ["attributes.`Duration`"]
    columns += [f"metrics.`{name}`" for name in metrics]
    columns += [f"params.`{name}`" for name in params]
    state = {
        "selectedColumns": columns,
        "runsExpanded": {expanded_run: True},
        "columnOrder": [],
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": direction == "minimize",
        "searchFilter": "",
        "datasetsFilter": [],
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "startTime": "ALL",
    }
    return json.dumps(state)


def child_runs(parent_run_id: str, status: str) -> str:
    """The filter of `search_runs` for a parent's child runs of a status."""
    return f"attributes.status = '{status}' and tags.`{PARENT_RUN}` = '{parent_run_id}'"


def model_id(run: Any) -> str | None:
    """The model that a run has logged; None where it has none."""
    if not run.outputs or not run.outputs.model_outputs:
        return None
    return str(run.outputs.model_outputs[0].model_id)


def model_uri(run: Any) -> str | None:
    """The address of the model that a run has logged; None where it has none."""
    logged = model_id(run)
    return None if logged is None else f"models:/{logged}"


def dataset_digest(run: Any) -> str:
    """The digest of the first dataset that a run has logged; empty where it has none."""
    if not run.inputs or not run.inputs.dataset_inputs:
        return ""
    return str(run.inputs.dataset_inputs[0].dataset.digest)


def log_keras_model(model: Any, classes: Sequence[str], example: NDArray[np.uint8]) -> None:
    """Log a Keras model to the active run, with the names of its classes and an example.

    example: a batch of raw images, uint8, as the model takes them; the model returns float32
    probabilities (n, classes).
    """
    example = np.array(example)  # may be mapped into memory, which MLflow does not take
    signature = ModelSignature(
        inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, len(classes)))]),
    )
    Model.log(
        artifact_path=None,
        name="model",
        flavor=_KerasWithExample(example),
        model=model,
        signature=signature,
        pip_requirements=REQUIREMENTS,
        metadata={"classes": list(classes)},
        save_exported_model=False,
        validate_serving_input=False,
    )


def fetch_keras_model(uri: str) -> str:
    """The folder of a logged model, on this machine.

    Raises BadZipFile where a byte of the model is not as it was written: Keras reads a file's parts
    only as far as it needs them, past their checksums.
    """
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    for file in folder.rglob("*.keras"):
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"{file.name} is damaged in {damaged}")
    return str(folder)


class _KerasWithExample:
    """MLflow's Keras flavor with an input example, for which it has not made the folder yet.

    `mlflow.keras.log_model` would load the model and predict the example twice, which takes a
    second and prints Keras' progress bars. `Model.log` asks the options that it hands on to the
    flavor whether to, so they carry one of its own, which is removed here.
    """

    __name__ = "mlflow.keras"

    def __init__(self, example: NDArray[np.uint8]) -> None:
        self.example = example

    def save_model(self, path: str, **options: Any) -> None:
        Path(path).mkdir()
        del options["validate_serving_input"]  # for Model.log alone
        options["input_example"] = self.example
        mlflow.keras.save_model(path=path, **options)
