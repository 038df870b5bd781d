"""A whole sweep from the command line to MLflow, with TensorFlow, on small data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import optuna
import pytest
from hydra.core.utils import JobReturn, JobStatus
from mlflow.entities import Run as MlflowRun
from omegaconf import OmegaConf
from support import Run, run_in

from cifar_hpo.processor import fused_below
from cifar_hpo.sweep import loop
from cifar_hpo.trial import TrialSpec

FINISHED = "FINISHED"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def swept(folder: Path, small: list[str]) -> subprocess.CompletedProcess[str]:
    """A grid of two by two, run once for this module."""
    shown = run_in(folder, "-m", *small, "model.filters=2,4", "optimizer=adam,sgd")
    assert shown.returncode == 0, shown.stderr
    return shown


def runs(folder: Path) -> list[MlflowRun]:
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    return list(mlflow.search_runs(search_all_experiments=True, output_format="list"))


def children(folder: Path) -> list[MlflowRun]:
    return [run for run in runs(folder) if run.data.tags.get("kind") == "trial"]


def test_a_plain_line_for_each_trial_then_the_ranking_and_the_way_on(
    swept: subprocess.CompletedProcess[str],
) -> None:
    assert (
        len(
            re.findall(
                r"^\[\d/4\] trial \d: model\.filters=\d, optimizer=\w+: val_accuracy 0\.\d{4} in",
                swept.stdout,
                re.MULTILINE,
            )
        )
        == 4
    )
    ranking = re.findall(
        r"^(\d) +\d +[24] +(?:adam|sgd) +(0\.\d{4}) +0\.\d{4} +[\d,]+ +[\d.]+ +FINISHED",
        swept.stdout,
        re.MULTILINE,
    )
    values = [float(value) for _, value in ranking]
    assert len(values) == 4
    assert values == sorted(values, reverse=True)
    assert "browse: mlflow ui\n" in swept.stdout
    assert "again:  python -m cifar_hpo" in swept.stdout
    assert swept.stderr == ""


def test_one_experiment_with_a_parent_run_and_a_child_for_each_trial(
    swept: object, folder: Path
) -> None:
    parents = [run for run in runs(folder) if run.data.tags.get("kind") == "study"]
    assert len(parents) == 1
    assert {run.info.status for run in runs(folder)} == {FINISHED}
    assert {run.info.experiment_id for run in runs(folder)} == {parents[0].info.experiment_id}
    assert {run.data.tags["mlflow.parentRunId"] for run in children(folder)} == {
        parents[0].info.run_id
    }
    assert {run.info.run_name for run in children(folder)} == {
        f"filters={n}, optimizer={name}" for n in (2, 4) for name in ("adam", "sgd")
    }
    best = max(run.data.metrics["val_accuracy"] for run in children(folder))
    assert parents[0].data.metrics["best_value"] == pytest.approx(best)
    client = mlflow.MlflowClient()
    curve = client.get_metric_history(parents[0].info.run_id, "best_value")
    assert [point.step for point in curve] == [1, 2, 3, 4]
    assert json.loads(
        Path(client.download_artifacts(parents[0].info.run_id, "best.json")).read_text()
    )["value"] == pytest.approx(best)


def test_a_child_holds_its_params_curves_dataset_and_config(
    swept: object, folder: Path, npz: Path
) -> None:
    found = children(folder)
    client = mlflow.MlflowClient()
    assert len(found) == 4
    for run in found:
        assert run.data.params["training.batch_size"] == "50"
        assert run.data.params["model.filters"] in "24"
        assert run.data.params["data.path"] == str(npz)
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert [point.step for point in client.get_metric_history(run.info.run_id, name)][
                :2
            ] == [1, 2]
        for name in (
            "test_accuracy",
            "test_loss",
            "parameters",
            "train_seconds",
            "test_accuracy/class 0",
        ):
            assert name in run.data.metrics
        (dataset,) = run.inputs.dataset_inputs
        assert dataset.dataset.name == "small"
        artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert {"config.yaml", "overrides.json", "confusion_matrix.json"} <= artifacts
        confusion = json.loads(
            Path(client.download_artifacts(run.info.run_id, "confusion_matrix.json")).read_text()
        )
        counts = np.array(confusion["rows are true, columns predicted"])
        assert counts.sum() == 100
        assert np.trace(counts) / 100 == pytest.approx(run.data.metrics["test_accuracy"])


def test_the_model_loads_and_gives_what_was_logged(swept: object, folder: Path, npz: Path) -> None:
    run = max(children(folder), key=lambda run: run.data.metrics["val_accuracy"])
    (output,) = run.outputs.model_outputs
    model = mlflow.keras.load_model(f"models:/{output.model_id}")
    with np.load(npz) as arrays:
        predicted = model.predict(arrays["x_test"], verbose=0).argmax(axis=1)
        assert (predicted == arrays["y_test"]).mean() == pytest.approx(
            run.data.metrics["test_accuracy"]
        )
    info = mlflow.models.get_model_info(f"models:/{output.model_id}")
    assert float(model.optimizer.learning_rate) == pytest.approx(
        float(run.data.params["optimizer.learning_rate"])
    )
    assert info.signature.inputs.inputs[0].shape == (-1, 32, 32, 3)
    assert str(info.signature.inputs.inputs[0].type) == "uint8"


def test_the_model_has_an_example_that_runs_and_knows_its_classes(
    swept: object, folder: Path, npz: Path
) -> None:
    (output,) = children(folder)[0].outputs.model_outputs
    model = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    with np.load(npz) as arrays:
        assert np.array_equal(model.input_example, arrays["x_test"][:1])
    assert model.predict(model.input_example).shape == (1, 10)
    assert model.metadata.metadata["classes"][:2] == ["class 0", "class 1"]


def test_the_best_model_is_registered_as_champion(swept: object, folder: Path) -> None:
    best = max(children(folder), key=lambda run: run.data.metrics["val_accuracy"])
    champion = mlflow.MlflowClient().get_model_version_by_alias("cifar_hpo-small", "champion")
    assert float(champion.tags["value"]) == best.data.metrics["val_accuracy"]
    assert (
        mlflow.keras.load_model("models:/cifar_hpo-small@champion").count_params()
        == best.data.metrics["parameters"]
    )


@pytest.mark.long
def test_the_model_is_served_by_mlflows_own_command(swept: object, folder: Path, npz: Path) -> None:
    (output,) = children(folder)[0].outputs.model_outputs
    with np.load(npz) as arrays:
        (folder / "input.json").write_text(json.dumps({"inputs": arrays["x_test"][:2].tolist()}))
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "predict",
        "-m",
        f"models:/{output.model_id}",
        "-i",
        "input.json",
    ]
    shown = subprocess.run(
        [*command, "-t", "json", "--env-manager", "local", "-o", "output.json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    predictions = np.array(json.loads((folder / "output.json").read_text())["predictions"])
    assert predictions.shape == (2, 10)
    assert predictions.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_optuna_opens_the_storage_and_shows_the_same(swept: object, folder: Path) -> None:
    storage = f"sqlite:///{folder}/mlruns/studies.db"
    (summary,) = optuna.get_all_study_summaries(storage)
    study = optuna.load_study(study_name=summary.study_name, storage=storage)
    logged = {
        int(run.data.tags["trial"]): run.data.metrics["val_accuracy"] for run in children(folder)
    }
    assert {trial.number: trial.value for trial in study.trials} == pytest.approx(logged)
    folders = {
        item.name
        for item in (folder / "mlruns" / "outputs" / summary.study_name).iterdir()
        if item.is_dir()
    }
    assert folders == {"0", "1", "2", "3"}


@pytest.mark.long
def test_the_same_command_again_does_nothing(swept: object, folder: Path, small: list[str]) -> None:
    before = len(runs(folder))
    shown = run_in(folder, "-m", *small, "model.filters=2,4", "optimizer=adam,sgd")
    assert shown.returncode == 0
    assert "4 done before" in shown.stdout
    assert "[" not in shown.stdout.split("rank")[0].splitlines()[-1]
    assert len(runs(folder)) == before


@pytest.mark.long
def test_the_command_that_trains_the_best_again_gives_the_same_result(
    swept: subprocess.CompletedProcess[str], folder: Path
) -> None:
    again = re.search(r"again:  python -m cifar_hpo (.*)", swept.stdout)
    assert again
    shown = run_in(folder, *again[1].split())
    assert shown.returncode == 0, shown.stderr
    best = max(children(folder), key=lambda run: run.data.metrics["val_accuracy"])
    single = next(run for run in runs(folder) if "kind" not in run.data.tags)
    assert single.info.status == FINISHED
    for name in ("val_loss", "test_loss", "loss"):
        assert single.data.metrics[name] == best.data.metrics[name]


@pytest.mark.long
@pytest.mark.usefixtures("store")
def test_a_diverging_trial_is_failed_says_so_and_is_never_best(
    run: Run, small: list[str], tmp_path: Path
) -> None:
    shown = run(
        "-m", *small, "optimizer=sgd", "optimizer.learning_rate=0.01,1e38", "training.epochs=1"
    )
    assert shown.returncode == 1
    assert "diverged: loss" in shown.stdout
    assert shown.stderr.startswith("1 of 2 trials failed; the first: diverged")
    status = {
        run.data.params["optimizer.learning_rate"]: run.info.status for run in children(tmp_path)
    }
    assert status == {"0.01": FINISHED, "1e+38": "FAILED"}
    failed = next(run for run in children(tmp_path) if run.info.status == "FAILED")
    assert (
        "TrialError"
        in Path(
            mlflow.MlflowClient().download_artifacts(failed.info.run_id, "traceback.txt")
        ).read_text()
    )


@pytest.mark.usefixtures("store")
@pytest.mark.long
def test_a_grid_beside_the_earlier_one_ends_well_when_the_best_trial_is_of_that(
    run: Run, small: list[str], store: None
) -> None:
    for rate, counted in (("0.003", "[1/1]"), ("1e-9", "[2/2]")):
        shown = run(
            "-m",
            *small,
            "training.epochs=4",
            f"optimizer.learning_rate=choice({rate})",
            "hydra.sweeper.study_name=grown",
        )
        assert shown.returncode == 0, shown.stderr
        assert counted in shown.stdout
        assert "optimizer.learning_rate=0.003 training.threads=" in shown.stdout, (
            "the way to the best"
        )


@pytest.mark.usefixtures("store")
@pytest.mark.long
def test_with_early_stopping_curves_end_where_the_training_did_beside_the_system_s(
    run: Run, small: list[str], tmp_path: Path
) -> None:
    options = ["training.epochs=40", "training.early_stopping=1", "optimizer=sgd"]
    options += ["optimizer.learning_rate=1.5", "mlflow.system_metrics=true"]
    shown = run(*small, *options, MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL="0.2")
    assert shown.returncode == 0, shown.stderr
    (found,) = runs(tmp_path)
    points = mlflow.MlflowClient().get_metric_history(found.info.run_id, "val_loss")
    done = int(found.data.metrics["epochs"])
    assert done < 40
    assert sorted({point.step for point in points}) == list(range(1, done + 1))
    assert "system/cpu_utilization_percentage" in found.data.metrics


@pytest.mark.usefixtures("store")
@pytest.mark.processors
@pytest.mark.long
def test_replicas_give_mean_and_spread(run: Run, small: list[str], tmp_path: Path) -> None:
    shown = run(*small, "training.replicas=3", "training.epochs=1")
    assert shown.returncode == 0, shown.stderr
    (found,) = runs(tmp_path)
    each = [found.data.metrics[f"replica_{n}/val_accuracy"] for n in range(3)]
    assert len(set(each)) > 1
    assert found.data.metrics["val_accuracy"] == pytest.approx(np.mean(each))
    assert found.data.metrics["val_accuracy_std"] == pytest.approx(np.std(each, ddof=1))


@pytest.mark.usefixtures("store")
@pytest.mark.long
def test_several_metrics_end_in_their_pareto_front(run: Run, small: list[str]) -> None:
    metrics = [
        "hydra.sweeper.metric=[val_accuracy,parameters]",
        "hydra.sweeper.direction=[maximize,minimize]",
    ]
    shown = run(
        "-m",
        *small,
        "model.filters=1,8",
        "training.epochs=1",
        "hydra.sweeper.constraints=['parameters <= 20000']",
        *metrics,
    )
    assert shown.returncode == 0, shown.stderr
    (row,) = re.findall(r"^1 .*", shown.stdout, re.MULTILINE)
    assert "FINISHED, Pareto front" in row
    assert "4,406" in row
    assert not re.findall(r"^2 .*", shown.stdout, re.MULTILINE), "the other breaks the constraint"


@pytest.mark.long
@pytest.mark.usefixtures("store")
def test_auto_falls_back_to_synthetic_images_and_says_it_everywhere(
    run: Run, tmp_path: Path
) -> None:
    offline = {"https_proxy": "http://127.0.0.1:9", "KERAS_HOME": str(tmp_path / "keras")}
    arguments = (
        "-m",
        "data.train_size=100",
        "training.epochs=1",
        "model.filters=1",
        "model.kernel_size=3",
    )
    shown = run(*arguments, **offline)
    assert shown.returncode == 0, shown.stderr
    assert (shown.stdout + shown.stderr).count("SYNTHETIC images") >= 2
    assert len(children(tmp_path)) == 1
    for found in children(tmp_path):
        assert "SYNTHETIC" in found.info.run_name
        assert found.data.tags["synthetic"] == "true"
        assert "SYNTHETIC" in found.inputs.dataset_inputs[0].dataset.name


@pytest.mark.usefixtures("store")
@pytest.mark.long
def test_a_sweep_says_once_which_replicas_train_one_after_the_other(
    run: Run, small: list[str]
) -> None:
    shown = run("-m", *small, "training.replicas=2", "training.epochs=1", "model.filters=1,16,17")
    assert shown.returncode == 0, shown.stderr
    assert (shown.stdout + shown.stderr).count(
        f"with {fused_below()} neurons or more in the first layer they train one after the other"
    ) == 1


def test_of_very_many_trials_hydra_is_given_the_results_and_the_configs_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "MAX_KEPT_CONFIGS", 2)
    nothing: Any = SimpleNamespace(options={"max_batch_size": None})
    study: Any = SimpleNamespace(inbox=lambda: None)
    sweep = loop.Sweep(nothing, study, nothing, nothing, nothing, pool=None)
    for number in range(4):
        overrides = [f"x={number}"]
        config: Any = OmegaConf.create({"x": number})
        returned = JobReturn(overrides, config, config, "folder", "app", JobStatus.COMPLETED)
        returned.return_value = number
        sweep.keep(TrialSpec(number, tuple(overrides)), returned)
    (batch,) = sweep.batches()
    assert [job.return_value for job in batch] == [0, 1, 2, 3]
    assert [job.overrides for job in batch] == [["x=0"], ["x=1"], ["x=2"], ["x=3"]]
    assert [job.cfg is None for job in batch] == [False, False, True, True]
    assert [job.hydra_cfg is None for job in batch] == [False, False, True, True]
    assert {job.working_dir for job in batch} == {"folder"}


MEASURED = """
import re, resource
from pathlib import Path
import hydra

@hydra.main(version_base="1.3", config_path=None)
def app(config):
    return config.x

if __name__ == "__main__":
    app()
    # Unlike ru_maxrss it begins anew with a program.
    (kibibytes,) = re.findall(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())
    print("used", int(kibibytes) // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_utime)
"""


def test_a_grid_of_sixteen_million_cells_has_its_first_trial_at_once(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(MEASURED)
    command = [sys.executable, "app.py", "-m", "hydra/sweeper=study", "hydra/launcher=workers"]
    command += ["hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=1", "hydra.sweeper.metric=x"]
    done = subprocess.run(
        [*command, "+x=range(0,4000)", "+y=range(0,4000)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert re.search(r"^\[1/1\] trial 0: \+x=(\d+), \+y=\d+: x \1\.0000", done.stdout, re.MULTILINE)
    assert "drawn at random from 16,000,000 configurations" in done.stdout
    mebibytes, seconds = re.findall(r"^used (\d+) ([\d.]+)$", done.stdout, re.MULTILINE)[0]
    assert int(mebibytes) < 500
    assert float(seconds) < 10, "of the processor, which a busy machine changes little"
