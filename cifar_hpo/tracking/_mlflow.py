"""All of MLflow that is not its documented API, or whose form we depend on.

Names of tags, the view state of its UI, how a model is logged without being tried, which errors are
worth another call: tests/tracking/test_mlflow.py says of each what a new MLflow has changed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
)
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.abstract_context import RunContextProvider
from mlflow.tracking.context.registry import _run_context_provider_registry, resolve_tags
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_GIT_BRANCH,
    MLFLOW_GIT_COMMIT,
    MLFLOW_GIT_DIRTY,
    MLFLOW_GIT_REPO_URL,
    MLFLOW_SOURCE_NAME,
)
from numpy.typing import NDArray

from cifar_hpo import trust
from cifar_hpo.errors import ConfigError

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it raises the same
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # of a store that is away
logging.getLogger("alembic").setLevel(logging.WARNING)  # of the store's tables, when they are made

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""The schemes of stores that are a database."""

KERAS_CONFIG = "config.json"
KERAS_FILES = {"metadata.json", KERAS_CONFIG, "model.weights.h5"}
"""All that a model file of Keras holds."""

MODEL_FILE = Path("data") / "model.keras"
"""Where it lies in the folder of a saved model."""

GRAPH = "graph"
"""The folder in it that has the same as a graph. Nothing of ours loads it: it may do whatever
TensorFlow can."""

KERAS_MODULES = {
    "keras",
    "keras.constraints",
    "keras.initializers",
    "keras.layers",
    "keras.losses",
    "keras.metrics",
    "keras.optimizers",
    "keras.optimizers.schedules",
    "keras.regularizers",
    "keras.src.models.functional",
    "keras.src.ops.core",
    "keras.src.ops.image",
    "keras.src.ops.math",
    "keras.src.ops.nn",
    "keras.src.ops.numpy",
}
"""Where the classes are of which models consist: layers, what computes, and how it is trained."""

KERAS_VALUES = {"__keras_tensor__", "__tuple__"}
"""What stands for plain values in a model's config."""

NEVER_OWN = {"None", "builtins", "keras"}
"""Packages of which a model file may name what stands in KERAS_MODULES alone, whatever is
allowed."""

RUNNING_CODE = {"Lambda", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer", "function"}
"""Classes of Keras that run what a file brings along."""

PARENT_RUN = "mlflow.parentRunId"
"""The tag of a child run; its UI nests runs by it."""

NOTE = "mlflow.note.content"
"""The tag that its UI shows as a run's description, Markdown."""

SOURCE_NAME = MLFLOW_SOURCE_NAME
GIT_COMMIT, GIT_BRANCH, GIT_DIRTY = MLFLOW_GIT_COMMIT, MLFLOW_GIT_BRANCH, MLFLOW_GIT_DIRTY
GIT_REMOTE = MLFLOW_GIT_REPO_URL
GIT_TAGS = (GIT_COMMIT, GIT_BRANCH, GIT_REMOTE)
"""The tags that its UI shows as a run's source; those of git are of the program's own folder."""

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

EXPERIMENT_ID_VARIABLE = "MLFLOW_EXPERIMENT_ID"
EXPERIMENT_VARIABLES = (EXPERIMENT_ID_VARIABLE, "MLFLOW_EXPERIMENT_NAME")
"""Name the experiment of runs for which nobody else does; both may only name the same."""

RUN_NAME = "mlflow.runName"
"""The tag that names a run for which nobody gives a name."""

STUDY_RUN = "cifar_hpo.study_run"
"""The tag of a run that an app started by itself: the run of the study whose trial it is."""
TRACKING_URI_VARIABLE = "MLFLOW_TRACKING_URI"
"""Names the store; `mlflow.set_tracking_uri` sets it too, for processes that are started."""

MODEL_NAME = "model"

REQUIREMENTS = [f"{package}=={version(package)}" for package in ("tensorflow", "keras", "numpy")]
"""Of a logged model; given, they spare MLflow the process that infers them: 0.05 s for 6.2 s."""


def forget_run_id() -> None:
    """Let the next run be a new one."""
    os.environ.pop(RUN_ID_VARIABLE, None)


_more_tags: Callable[[], Mapping[str, str]] | None = None


class _MoreTags(RunContextProvider):  # type: ignore[misc]
    """Gives each run that is started by `mlflow.start_run`, or by what calls it, further tags."""

    def in_context(self) -> bool:
        return _more_tags is not None

    def tags(self) -> dict[str, str]:
        return dict(_more_tags()) if _more_tags is not None else {}


_run_context_provider_registry.register(_MoreTags)


@contextlib.contextmanager
def runs_tagged(tags: Callable[[], Mapping[str, str]]) -> Iterator[None]:
    """Give each run that is started meanwhile these tags; those that its caller gives win."""
    global _more_tags  # noqa: PLW0603  one process runs one trial at a time
    _more_tags = tags
    try:
        yield
    finally:
        _more_tags = None


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """Put back what `connect` sets for the whole process: a notebook has a store of its own.

    Where the store was set by a call, it is set by the environment afterwards, which is the same to
    MLflow and to processes that are started.
    """
    before = os.environ.copy()
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # forgets it
        for name in (TRACKING_URI_VARIABLE, RUN_ID_VARIABLE):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


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


RUNNING = "attributes.status = 'RUNNING'"
"""The filter of `search_runs` for runs that say they are at work."""


def child_runs(parent_run_id: str, status: str) -> str:
    """The filter of `search_runs` for a parent's child runs of a status."""
    return f"attributes.status = '{status}' and tags.`{PARENT_RUN}` = '{parent_run_id}'"


def running_runs_of_app(study_run_id: str) -> str:
    """The filter for those that an app started by itself in trials of a study, and that say they
    are at work."""
    return f"{RUNNING} and tags.`{STUDY_RUN}` = '{study_run_id}'"


def attempts(parent_run_id: str, trial: int) -> str:
    """The filter of `search_runs` for the runs of one trial below its study's run."""
    return f"tags.trial = '{trial}' and tags.`{PARENT_RUN}` = '{parent_run_id}'"


SYSTEM_METRICS = "system/"
"""Begins the names of metrics that MLflow takes of the machine, with steps of their own."""


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


def run_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """These tags, and what MLflow says of each run: the user, the program, its commit in git."""
    return {key: str(value) for key, value in resolve_tags(dict(tags)).items()}


def dataset_fields(
    images: NDArray[Any], labels: NDArray[Any], name: str, digest: str
) -> dict[str, str]:
    """A dataset as MLflow keeps it, by the names of its fields."""
    described = from_numpy(images, targets=labels, name=name, digest=digest)
    entity = described._to_mlflow_entity()  # noqa: SLF001
    return {field: str(value) for field, value in entity if value is not None}


def dataset_input(fields: Mapping[str, str]) -> DatasetInput:
    """A dataset, of these fields, as the one that a run is trained on."""
    return DatasetInput(Dataset(**fields), [InputTag(MLFLOW_DATASET_CONTEXT, "training")])


def start_system_metrics(run_id: str, uri: str) -> SystemMetricsMonitor:
    """Log the load of this machine to a run, until `finish` of what is returned is called."""
    monitor = SystemMetricsMonitor(run_id, tracking_uri=uri)
    monitor.start()
    return monitor


def may_succeed_later(error: Exception) -> bool:
    """Whether a call failed because the store is away, and not because it refuses the call.

    What a folder of artifacts on this machine raises is final: another call would end likewise.
    """
    if isinstance(error, mlflow.MlflowException):
        status = error.get_http_status_code()
        return status in RETRIED or (status >= SERVER_ERROR and status != NOT_IMPLEMENTED)
    response = getattr(error, "response", None)  # of `requests`
    if response is not None:
        return response.status_code in RETRIED or response.status_code >= SERVER_ERROR
    if isinstance(error, OSError):
        is_of_network = isinstance(error, ConnectionError | TimeoutError)
        return is_of_network or error.errno is None  # those of `requests` have none
    return not isinstance(error, BUGS)


RETRIED = (408, 409, 425, 429, 499)
SERVER_ERROR = 500
NOT_IMPLEMENTED = 501
"""HTTP's statuses; `MlflowException` gives one for each of its codes."""

BUGS = (TypeError, ValueError, LookupError, AttributeError, AssertionError)
"""What is no store's error."""


def save_keras_model(
    folder: Path,
    model: Any,
    classes: Sequence[str],
    example: NDArray[Any],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Save a Keras model as MLflow does, with the names of its outputs and an example.

    folder: made here. example: a batch of raw images as the model takes them; the model returns
    float32 numbers (n, classes). about: what else is to be known of it. Raises OSError, and what
    Keras raises of a model that it can't save.
    """
    example = np.array(example)  # may be mapped into memory, which MLflow does not take
    signature = ModelSignature(
        inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, len(classes)))]),
    )
    folder.mkdir(parents=True)  # not made yet where MLflow writes the example
    mlflow.keras.save_model(
        model,
        path=str(folder),
        signature=signature,
        input_example=example,
        pip_requirements=REQUIREMENTS,
        metadata={"classes": list(classes), **(about or {})},
        save_exported_model=False,
    )


def needs_graph(folder: Path) -> bool:
    """Whether a model that `save_keras_model` saved has more than classes of Keras' own, so that
    MLflow's server, which imports no code of the user's, could not load it."""
    with zipfile.ZipFile(folder / MODEL_FILE) as archive:
        config = json.loads(archive.read(KERAS_CONFIG))
    return any(_not_of_keras(config))


def add_graph(folder: Path, export: Callable[[Path], None]) -> None:
    """Let MLflow's python_function, and so its server, load a graph beside a saved model's file.

    The graph is a logged model of its own within the model, as `mlflow.keras.save_model` has it by
    `save_exported_model`; the flavor `keras` stays the file. export: writes TensorFlow's SavedModel
    with an endpoint `serve` to a folder. What it raises passes, and leaves the model as it was.
    """
    graph = folder / GRAPH
    try:
        export(graph / "data" / "model")
        of_graph = Model()
        of_graph.add_flavor("keras", data="data", save_exported_model=True)
        of_graph.save(str(graph / MLMODEL_FILE_NAME))
        about = Model.load(str(folder))
        about.flavors[mlflow.pyfunc.FLAVOR_NAME][mlflow.pyfunc.DATA] = GRAPH
        about.save(str(folder / MLMODEL_FILE_NAME))
    except BaseException:
        shutil.rmtree(graph, ignore_errors=True)
        raise


class FetchedModel(NamedTuple):
    """A logged model on this machine, looked at before Keras loads it.

    custom_objects: the user's own classes that it has, by the names that Keras knows them by.
    """

    folder: str
    custom_objects: dict[str, Any]


def fetch_keras_model(uri: str, into: Path | None = None) -> FetchedModel:
    """A logged model with the user's classes, which are imported for it.

    into: a folder that takes a copy. Without, it is where MLflow keeps the model if that is on this
    machine, and MLflow adds a file to it.

    Raises ValueError where it has anything but layers of Keras' own and classes that the folder's
    pyproject.toml allows, and BadZipFile where a byte of it is not as it was written: Keras reads
    a file's parts only as far as it needs them, past their checksums.
    """
    found: dict[str, Any] = {}
    copy = str(into) if into else None
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=copy))
    flavor = Model.load(str(folder)).flavors.get("keras", {})
    if flavor.get("save_exported_model") or flavor.get("data", "data") != "data":
        raise ValueError("it is no model file of Keras")
    for file in folder.rglob("*.keras"):
        with zipfile.ZipFile(file) as archive:
            others = sorted(set(archive.namelist()) - KERAS_FILES)
            if others:
                raise ValueError(f"{file.name} holds {others[0]!r}")
            damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"{file.name} is damaged in {damaged}")
            found |= custom_objects(json.loads(archive.read(KERAS_CONFIG)))
    return FetchedModel(str(folder), found)


def custom_objects(node: Any) -> dict[str, Any]:
    """The user's own classes and functions that a model's config names, imported.

    Raises ValueError where it names anything but these, as far as the folder's pyproject.toml
    allows them, and classes of Keras' own.
    """
    found: dict[str, Any] = {}
    for named in _not_of_keras(node):
        found |= _custom_object(named)
    return found


def _not_of_keras(node: Any) -> Iterator[Mapping[str, Any]]:
    """What a model's config names beside classes of Keras' own that run no code of the file's."""
    if isinstance(node, list):
        for child in node:
            yield from _not_of_keras(child)
    if not isinstance(node, dict):
        return
    name, module = node.get("class_name"), node.get("module")
    if name is not None and not (module in KERAS_MODULES and name not in RUNNING_CODE):
        is_value = module is None and name in KERAS_VALUES
        if not is_value:
            yield node
    for child in node.values():
        yield from _not_of_keras(child)


def _custom_object(node: Mapping[str, Any]) -> dict[str, Any]:
    """A user's own class or function by the names that Keras knows it by."""
    name, module = node["class_name"], node.get("module")
    own = node.get("config") if name == "function" else name
    package = str(module).partition(".")[0]
    if package in NEVER_OWN or not isinstance(own, str):
        raise ValueError(f"it has a {name} of {module}, which may run code")
    try:
        resolved = trust.resolve(f"its {own}", f"{module}.{own}")
    except ConfigError as error:
        problem = f"it has a {name} of {module}, which may run code"
        raise ValueError(f"{problem} ({error.args[1]})") from None
    return {str(known): resolved for known in (own, node.get("registered_name")) if known}


def log_saved_model(client: mlflow.MlflowClient, run: Any, folder: Path) -> None:
    """Log a model that was saved in a folder to a run, without loading it.

    `mlflow.keras.log_model` would load the model and predict the example twice, which takes a
    second, prints Keras' progress bars, and takes the store to be there. What an earlier call has
    not finished is finished.
    """
    logged = model_id(run)
    if logged is None:
        model = client.create_logged_model(
            run.info.experiment_id,
            name=MODEL_NAME,
            source_run_id=run.info.run_id,
            params=run.data.params,
            tags=run_tags({}),
        )
        output = LoggedModelOutput(model.model_id, step=0)
        client.log_outputs(run.info.run_id, [output])
    else:
        model = client.get_logged_model(logged)
        if model.status == LoggedModelStatus.READY:
            return
    about = Model.load(str(folder))
    about.artifact_path = model.artifact_location
    about.model_uuid = about.model_id = model.model_id
    about.run_id = run.info.run_id
    about.save(str(folder / MLMODEL_FILE_NAME))
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
