"""All of MLflow that is not its documented API: a new version that changes it fails here, and is
met in tracking/_mlflow.py alone."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow.utils import mlflow_tags

from cifar_hpo import trust
from cifar_hpo.metrics import param_name
from cifar_hpo.tracking import SWITCHES, _mlflow

MEND = "mend cifar_hpo/tracking/_mlflow.py"


@pytest.fixture
def client(uri: str) -> Any:
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("tests")
    return mlflow.MlflowClient()


@pytest.fixture(scope="module")
def ui() -> str:
    """The scripts of MLflow's UI."""
    folder = Path(mlflow.__file__).parent / "server" / "js" / "build"
    scripts = [file.read_text(encoding="utf-8") for file in folder.rglob("*.js")]
    assert scripts, f"MLflow's UI is no longer in {folder}: look where it is, and {MEND}"
    return "\n".join(scripts)


def test_tags_have_their_names() -> None:
    assert mlflow_tags.MLFLOW_PARENT_RUN_ID == _mlflow.PARENT_RUN, (
        f"MLflow has renamed the tag of a child run: {MEND}'s PARENT_RUN"
    )
    assert mlflow_tags.MLFLOW_RUN_NOTE == _mlflow.NOTE, (
        f"MLflow has renamed the tag of a run's description: {MEND}'s NOTE"
    )


def test_a_param_may_have_the_name_of_any_override_s_key(client: Any) -> None:
    run = client.create_run("0")
    for key, name in (("+experiment", "experiment"), ("db@a.b", "db_a.b"), ("a/b", "a/b")):
        assert param_name(key) == name
        client.log_param(run.info.run_id, name, 1)


def test_a_child_run_is_found_by_its_parent(client: Any) -> None:
    with mlflow.start_run() as parent:
        pass
    with mlflow.start_run(parent_run_id=parent.info.run_id) as child:
        experiments = [child.info.experiment_id]
        running = client.search_runs(experiments, _mlflow.child_runs(parent.info.run_id, "RUNNING"))
        finished = client.search_runs(
            experiments, _mlflow.child_runs(parent.info.run_id, "FINISHED")
        )
    assert [run.info.run_id for run in running] == [child.info.run_id], (
        f"MLflow no longer finds child runs by tag and status: {MEND}'s child_runs"
    )
    assert finished == []


VIEW_STATE = json.loads(
    _mlflow.view_state(["val_accuracy", "parameters"], ["x.y"], "maximize", "abc")
)


@pytest.mark.parametrize(
    "word",
    [
        _mlflow.VIEW_TAG.removesuffix(_mlflow.VIEW),
        _mlflow.VIEW_PARAMETER,
        _mlflow.EXPERIMENT_KIND,
        _mlflow.TRAINING,
        _mlflow.NOTE,
        *VIEW_STATE,
    ],
)
def test_the_ui_knows_what_is_written_for_it(word: str, ui: str) -> None:
    assert word in ui, f"MLflow's UI no longer reads {word!r}: {MEND}"


def test_the_view_has_what_varied_and_what_came_of_it_the_best_first() -> None:
    assert VIEW_STATE["selectedColumns"] == [
        "attributes.`Duration`",
        "metrics.`val_accuracy`",
        "metrics.`parameters`",
        "params.`x.y`",
    ]
    assert VIEW_STATE["orderByKey"] == "metrics.`val_accuracy`"
    assert VIEW_STATE["orderByAsc"] is False
    assert VIEW_STATE["runsExpanded"] == {"abc": True}
    assert _mlflow.view_address("7") == "#/experiments/7/runs?viewStateShareKey=cifar_hpo"


READ_SWITCHES = """
import cifar_hpo.tracking.reader
from mlflow import environment_variables
from mlflow.telemetry import get_telemetry_client

print(get_telemetry_client())
for name in {names}:
    print(getattr(environment_variables, name).get())
"""


def test_switches_are_set_before_mlflow_reads_them() -> None:
    code = READ_SWITCHES.format(names=list(SWITCHES))
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, f"MLflow has no longer a switch: {MEND}: {ended.stderr}"
    telemetry, *values = ended.stdout.split()
    assert telemetry == "None", f"MLflow sends telemetry all the same: {MEND}"
    assert values == ["True", "False", "False", "True", "6", "1"], (
        f"MLflow reads its switches otherwise: {MEND}"
    )


def test_a_run_id_that_was_left_does_not_catch_the_next_run(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mlflow.start_run() as earlier:
        pass
    monkeypatch.setenv(_mlflow.RUN_ID_VARIABLE, earlier.info.run_id)
    _mlflow.forget_run_id()
    with mlflow.start_run() as later:
        assert later.info.run_id != earlier.info.run_id
    monkeypatch.setenv(_mlflow.RUN_ID_VARIABLE, earlier.info.run_id)
    with mlflow.start_run() as continued:
        assert continued.info.run_id == earlier.info.run_id, (
            f"MLflow no longer reads {_mlflow.RUN_ID_VARIABLE}: forget_run_id can go"
        )


def test_the_attempts_of_a_trial_are_found_below_its_study_s_run(client: Any) -> None:
    with mlflow.start_run() as parent:
        pass
    children = {}
    for trial in ("1", "11"):
        with mlflow.start_run(parent_run_id=parent.info.run_id, tags={"trial": trial}) as child:
            children[trial] = child.info.run_id
    condition = _mlflow.attempts(parent.info.run_id, 1)
    found = client.search_runs([parent.info.experiment_id], condition)
    assert [run.info.run_id for run in found] == [children["1"]], (
        f"MLflow no longer finds runs by their tags: {MEND}'s attempts"
    )


@pytest.mark.parametrize("given", [{}, {"MLFLOW_TRACKING_URI": "sqlite:///mine.db"}])
@pytest.mark.parametrize("is_called", [False, True])
def test_settings_of_the_process_are_put_back(
    uri: str, given: dict[str, str], monkeypatch: pytest.MonkeyPatch, *, is_called: bool
) -> None:
    """Whether its user has named a store by the environment, by a call, or not at all."""
    mlflow.set_tracking_uri(None)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(_mlflow.RUN_ID_VARIABLE, "0123")
    if is_called:
        mlflow.set_tracking_uri("sqlite:///called.db")
    before, environment = mlflow.get_tracking_uri(), dict(os.environ)
    with _mlflow.settings_kept():
        mlflow.set_tracking_uri(uri)
        _mlflow.forget_run_id()
        assert mlflow.get_tracking_uri() == uri
    assert mlflow.get_tracking_uri() == before, f"MLflow keeps a store that was set: {MEND}"
    assert dict(os.environ) == environment


def test_a_run_without_a_model_has_no_address_of_one(client: Any) -> None:
    with mlflow.start_run() as run:
        pass
    assert _mlflow.model_uri(client.get_run(run.info.run_id)) is None


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras
def test_a_model_is_logged_with_its_example_and_not_tried(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    tried: list[object] = []
    with monkeypatch.context() as patched:
        patched.setattr("mlflow.models.utils._validate_serving_input", tried.append)
        patched.setattr("mlflow.pyfunc.load_model", tried.append)
        image = keras.Input((4, 4, 3), dtype="uint8")
        scaled = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
        model = keras.Model(image, keras.layers.Dense(2, "softmax", dtype="float32")(scaled))
        example = np.full((1, 4, 4, 3), 7, np.uint8)
        folder = tmp_path / "model"
        _mlflow.save_keras_model(folder, model, ["cat", "dog"], example)
        with mlflow.start_run() as run:
            pass
        for _ in range(2):  # another call changes nothing
            _mlflow.log_saved_model(client, client.get_run(run.info.run_id), folder)
    assert len(client.get_run(run.info.run_id).outputs.model_outputs) == 1
    assert tried == [], f"MLflow tries a model that is logged: {MEND}'s save_keras_model"

    uri = _mlflow.model_uri(client.get_run(run.info.run_id))
    assert uri, f"MLflow's runs no longer have their models in outputs: {MEND}'s model_uri"
    logged = mlflow.models.get_model_info(uri)
    assert logged.metadata == {"classes": ["cat", "dog"]}
    assert logged.signature.inputs.inputs[0].shape == (-1, 4, 4, 3)
    assert logged.signature.outputs.inputs[0].shape == (-1, 2)
    loaded = mlflow.pyfunc.load_model(uri)
    assert np.array_equal(loaded.input_example, example), (
        f"MLflow no longer keeps the example of a model: {MEND}'s save_keras_model"
    )
    assert np.allclose(
        mlflow.keras.load_model(uri).predict(example, verbose=0), model.predict(example, verbose=0)
    )


def test_a_store_s_errors_are_raised_and_not_logged_as_well() -> None:
    source = Path(mlflow.__file__).parent / "store" / "db" / "utils.py"
    assert "SQLAlchemy database error" in source.read_text(encoding="utf-8"), (
        f"MLflow logs a database's errors elsewhere now: {MEND}'s logger"
    )
    assert not logging.getLogger("mlflow.store.db.utils").isEnabledFor(logging.ERROR)


OUR_OWN = {"class_name": "Dense", "module": "keras.layers", "config": {"units": 2}}


def write_model(folder: Path, config: object = OUR_OWN, **others: bytes) -> Path:
    """A logged model as MLflow has it, with a network that was never trained."""
    file = folder / "data" / "model.keras"
    file.parent.mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors:\n  keras: {data: data, save_exported_model: false}\n")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model.weights.h5", bytes(1000))
        archive.writestr("config.json", json.dumps(config))
        for name, content in others.items():
            archive.writestr(name, content)
    return file


def test_a_model_with_a_flipped_byte_is_not_fetched(uri: str, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(uri)
    file = write_model(tmp_path / "model")
    folder = (tmp_path / "model").as_uri()
    assert Path(_mlflow.fetch_keras_model(folder).folder, "data", "model.keras").is_file()
    content = bytearray(file.read_bytes())
    content[500] ^= 1
    file.write_bytes(content)
    with pytest.raises(zipfile.BadZipFile, match=r"model\.keras is damaged in model\.weights\.h5"):
        _mlflow.fetch_keras_model(folder)


@pytest.mark.parametrize(
    "found",
    [
        {"class_name": "Lambda", "module": "keras.layers", "config": {}},
        {"class_name": "TFSMLayer", "module": "keras.layers", "config": {"filepath": "x"}},
        {"class_name": "function", "module": "builtins", "config": "eval"},
        {"class_name": "get_file", "module": "keras.utils", "config": {}},
        {"class_name": "__lambda__", "module": None, "config": {}},
        {"class_name": "Popen", "module": "subprocess", "config": {}},
    ],
)
def test_a_model_that_may_run_code_is_not_fetched(
    uri: str, tmp_path: Path, found: dict[str, object]
) -> None:
    mlflow.set_tracking_uri(uri)
    within = {"class_name": "Functional", "module": "keras.src.models.functional"}
    write_model(tmp_path / "model", {**within, "config": {"layers": [OUR_OWN, found]}})
    with pytest.raises(ValueError, match=f"{found['class_name']} of {found['module']}"):
        _mlflow.fetch_keras_model((tmp_path / "model").as_uri())


OF_A_USER = {"class_name": "Scale", "module": "own_models", "registered_name": "own>Scale"}


def test_a_user_s_layer_is_fetched_where_it_is_allowed(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.set_tracking_uri(uri)
    within = {"class_name": "Functional", "module": "keras.src.models.functional"}
    write_model(tmp_path / "model", {**within, "config": {"layers": [OUR_OWN, OF_A_USER]}})
    folder = (tmp_path / "model").as_uri()
    monkeypatch.setattr(trust, "allowed_prefixes", lambda: ("other",))
    with pytest.raises(ValueError, match=r"it has a Scale of own_models.*put allow = \["):
        _mlflow.fetch_keras_model(folder)
    monkeypatch.setattr(trust, "allowed_prefixes", lambda: ("own_models",))
    import own_models

    wanted = {"Scale": own_models.Scale, "own>Scale": own_models.Scale}
    assert _mlflow.fetch_keras_model(folder).custom_objects == wanted


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras
def test_a_model_with_a_user_s_layer_has_a_graph_for_servers_which_is_not_what_we_load(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import own_models

    def export(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"anything")

    mlflow.set_tracking_uri(uri)
    example = np.full((1, 4, 4, 3), 7, np.uint8)
    folders = {name: tmp_path / name for name in ("dense", "scaled")}
    plain, model = own_models.dense((4, 4, 3), 2, "softmax"), own_models.scaled((4, 4, 3), 2)
    _mlflow.save_keras_model(folders["dense"], plain, ["cat", "dog"], example)
    _mlflow.save_keras_model(folders["scaled"], model, ["cat", "dog"], example)
    assert {name: _mlflow.needs_graph(folder) for name, folder in folders.items()} == {
        "dense": False,
        "scaled": True,
    }
    _mlflow.add_graph(folders["scaled"], export)
    monkeypatch.setattr(trust, "allowed_prefixes", lambda: ("own_models",))
    fetched = _mlflow.fetch_keras_model(folders["scaled"].as_uri(), tmp_path / "copy")
    loaded = mlflow.keras.load_model(fetched.folder, custom_objects=fetched.custom_objects)
    assert np.allclose(loaded.predict(example, verbose=0), model.predict(example, verbose=0))
    with pytest.raises(OSError, match=r"saved_model"):  # TensorFlow's, of what it reads there
        mlflow.pyfunc.load_model(fetched.folder)


def test_allowing_keras_allows_no_model_file_more_of_it(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.set_tracking_uri(uri)
    monkeypatch.setattr(trust, "allowed_prefixes", lambda: ("keras", "builtins"))
    for number, found in enumerate(
        [
            {"class_name": "Lambda", "module": "keras.layers"},
            {"class_name": "get_file", "module": "keras.utils"},
            {"class_name": "function", "module": "builtins", "config": "eval"},
            {"class_name": "function", "module": "keras.utils", "config": "get_file"},
        ]
    ):
        write_model(tmp_path / str(number), found)
        with pytest.raises(ValueError, match="which may run code"):
            _mlflow.fetch_keras_model((tmp_path / str(number)).as_uri())


def test_a_model_file_with_a_member_that_climbs_out_is_not_fetched(
    uri: str, tmp_path: Path
) -> None:
    mlflow.set_tracking_uri(uri)
    write_model(tmp_path / "model", **{"../../victim": b"x"})
    with pytest.raises(ValueError, match=r"holds '\.\./\.\./victim'"):
        _mlflow.fetch_keras_model((tmp_path / "model").as_uri())
    assert not list(tmp_path.rglob("victim"))


def test_an_exported_model_whose_graph_may_do_anything_is_not_fetched(
    uri: str, tmp_path: Path
) -> None:
    mlflow.set_tracking_uri(uri)
    write_model(tmp_path / "model")
    (tmp_path / "model" / "MLmodel").write_text("flavors:\n  keras: {save_exported_model: true}\n")
    with pytest.raises(ValueError, match="no model file of Keras"):
        _mlflow.fetch_keras_model((tmp_path / "model").as_uri())


def test_a_run_that_is_started_has_the_tags_that_are_given_meanwhile(client: Any) -> None:
    tags = {_mlflow.RUN_NAME: "of a trial", "kind": "app"}
    with _mlflow.runs_tagged(lambda: tags):
        with mlflow.start_run() as run:
            pass
        with mlflow.start_run(run_name="mine") as named:
            pass
    with mlflow.start_run() as later:
        pass
    hint = f"MLflow no longer asks for tags as runs start: {MEND}'s runs_tagged"
    assert client.get_run(run.info.run_id).info.run_name == "of a trial", hint
    assert client.get_run(named.info.run_id).info.run_name == "mine"
    assert client.get_run(named.info.run_id).data.tags["kind"] == "app"
    assert "kind" not in client.get_run(later.info.run_id).data.tags
