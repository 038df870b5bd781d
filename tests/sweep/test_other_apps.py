"""Hydra apps of others: what they return and report, their runs in MLflow, errors, resume."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import optuna
import pytest
from mlflow.entities import Run as MlflowRun
from support import call_in, clean, run_in, wait_for

from cifar_hpo.report.__main__ import main as report_command

PLUGINS = ("-m", "hydra/sweeper=study", "hydra.sweeper.study_name=s")
WORKERS = (*PLUGINS, "hydra/launcher=workers")

TRAINING = """
import json, time
from pathlib import Path
import hydra, cifar_hpo
from nets import step

@hydra.main(version_base="1.3", config_path=None)
def train(config):
    checkpoint = cifar_hpo.folder() / "state.json"
    done, loss = json.loads(checkpoint.read_text()) if checkpoint.exists() else (0, 1.0)
    for epoch in range(done + 1, 5):
        loss = step(loss, config.rate)
        checkpoint.write_text(json.dumps([epoch, loss]))
        with Path("seen.txt").open("a") as seen:
            seen.write(f"{config.rate} {epoch}\\n")
        BODY
        cifar_hpo.report(epoch, 4, loss, half=loss / 2)
    return {"loss": loss, "epochs": 4}

if __name__ == "__main__":
    train()
"""


def write_app(folder: Path, body: str = "", text: str = TRAINING) -> None:
    body = body.replace("\n", "\n        ")
    (folder / "train.py").write_text(text.replace("BODY", body))
    (folder / "nets.py").write_text("def step(loss, rate):\n    return loss * (1 - rate)\n")


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=folder,
        env={name: value for name, value in clean().items() if name != "HYDRA_FULL_ERROR"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_app(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=200)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def runs(folder: Path, kind: str) -> list[MlflowRun]:
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    return [run for run in found if run.data.tags.get("kind") == kind]


OWN_RUNS = """
if epoch == 4:
    import mlflow
    mlflow.log_metric("mine", loss)
    if config.rate == 0.2:
        mlflow.end_run()
        mlflow.set_experiment("mine")
        with mlflow.start_run(run_name="called"):
            mlflow.log_param("a", 1)
    if config.rate == 0.3:
        raise OSError("no luck with sqlite://me:SECRET@host")
"""


SOURCE = "http://me:SECRET@host/images"


@pytest.fixture(scope="module")
def folder(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("app")
    shutil.copy(migrated, folder)
    return folder


@pytest.fixture(scope="module")
def swept(folder: Path) -> subprocess.CompletedProcess[str]:
    """A tracked app of which one trial raises."""
    write_app(folder, OWN_RUNS)
    options = ("hydra.sweeper.track=true", "hydra.sweeper.metric=loss", "hydra.sweep.dir=out")
    return run_app(folder, *WORKERS, *options, f"+from={SOURCE}", "+rate=0.1,0.2,0.3")


def test_a_trial_that_raises_is_told_on_one_line_with_the_place_of_its_traceback(
    swept: subprocess.CompletedProcess[str], folder: Path
) -> None:
    assert swept.returncode == 1
    (line,) = swept.stderr.splitlines()
    assert line.startswith("1 of 3 trials failed; the first: OSError: no luck with sqlite://me:***")
    assert line.endswith("; see out/2/traceback.log")
    written = (folder / "out/2/traceback.log").read_text()
    assert 'raise OSError("no luck with' in written, "the line of the program's file"
    assert "SECRET" not in written
    assert "leaving.py" not in written
    again = "again:  python train.py '+from=http://me:***@host/images' +rate=0.2\n"
    assert again in swept.stdout


@pytest.mark.usefixtures("swept")
def test_the_best_trial_of_an_app_is_run_again_by_that_app(folder: Path) -> None:
    listed = run_in(folder, "list", "--json", module="cifar_hpo.studies")
    (study,) = json.loads(listed.stdout)["studies"]
    shown = run_in(folder, "best", study["study"], module="cifar_hpo.studies")
    assert shown.stderr == ""
    assert shown.stdout == "python train.py '+from=http://me:***@host/images' +rate=0.2\n"
    refused = run_in(
        folder, "best", study["study"], "--config", "b.yaml", module="cifar_hpo.studies"
    )
    assert refused.returncode == 2
    assert "is of another app, python train.py; without it" in refused.stderr
    assert not (folder / "b.yaml").exists()


def test_each_attempt_has_a_run_with_overrides_curves_and_a_true_status(
    swept: object, folder: Path
) -> None:
    (study,) = runs(folder, "study")
    trials = {run.data.tags["trial"]: run for run in runs(folder, "trial")}
    assert {run.info.status for number, run in trials.items() if number != "2"} == {"FINISHED"}
    assert trials["2"].info.status == "FAILED"
    assert {run.data.tags["mlflow.parentRunId"] for run in trials.values()} == {study.info.run_id}
    assert trials["0"].data.params == {"rate": "0.1", "from": "http://me:***@host/images"}
    assert trials["0"].info.run_name == "rate=0.1"
    assert trials["0"].data.metrics == pytest.approx(
        {"loss": 0.9**4, "half": 0.9**4 / 2, "epochs": 4}
    )
    client = mlflow.MlflowClient()
    curve = client.get_metric_history(trials["1"].info.run_id, "loss")
    assert [point.step for point in curve][:4] == [1, 2, 3, 4]
    files = {file.path for file in client.list_artifacts(trials["2"].info.run_id)}
    assert files == {"config.yaml", "overrides.json", "traceback.txt"}
    for name in files:
        logged = mlflow.artifacts.load_text(f"runs:/{trials['2'].info.run_id}/{name}")
        assert "SECRET" not in logged
        assert "me:***@host" in logged
    best = mlflow.artifacts.load_text(f"runs:/{study.info.run_id}/best.json")
    assert "me:***@host" in best


def test_what_the_app_logs_by_itself_lies_below_its_attempt_with_a_true_status(
    swept: object, folder: Path
) -> None:
    trials = {run.data.tags["trial"]: run.info.run_id for run in runs(folder, "trial")}
    own = runs(folder, "app")
    for run in own:
        assert run.data.tags["mlflow.parentRunId"] == trials[run.data.tags["trial"]]
    told = {(run.data.tags["trial"], run.info.run_name, run.info.status) for run in own}
    assert told == {
        ("0", "rate=0.1", "FINISHED"),
        ("1", "rate=0.2", "FINISHED"),
        ("1", "called", "FINISHED"),
        ("2", "rate=0.3", "FAILED"),
    }
    (study,) = runs(folder, "study")
    in_study = [run for run in own if run.info.experiment_id == study.info.experiment_id]
    assert len(in_study) == 3, "unless the app names an experiment"


def test_the_report_of_such_a_study_has_its_curves(swept: object, folder: Path) -> None:
    shown = call_in(folder, report_command, "s")
    assert shown.returncode == 0
    assert "+rate=0.2" in shown.stdout
    assert "training.replicas" not in shown.stdout
    page = (folder / "mlruns/reports/s/report.html").read_text()
    assert 'id="learning_curves"' in page
    assert "not drawn" not in page


def test_an_interrupted_app_goes_on_from_its_own_checkpoint_and_changed_code_is_told(
    tmp_path: Path,
) -> None:
    """In the folder that it had, though Hydra's default names another at each moment."""
    write_app(tmp_path, "if epoch == 3 and not Path('go').exists(): time.sleep(60)")
    sweep = (*WORKERS, "hydra.sweeper.metric=loss", "hydra.launcher.n_workers=2")
    arguments = (*sweep, "+rate=0.1,0.2")
    process = start(tmp_path, *arguments)
    seen = tmp_path / "seen.txt"
    wait_for(lambda: seen.exists() and seen.read_text().count(" 3\n") == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "interrupted; the same command goes on from here\n")
    assert sorted(path.name for path in tmp_path.glob("multirun/*/*/*/state.json")) != []

    (tmp_path / "go").touch()
    assert run_app(tmp_path, *arguments).returncode == 0
    assert sorted(seen.read_text().split()[1::2]) == ["1", "1", "2", "2", "3", "3", "4", "4"]
    assert len(list(tmp_path.glob("multirun/*/*"))) == 1

    with (tmp_path / "nets.py").open("a") as nets:
        nets.write("# changed\n")
    again = run_app(tmp_path, *sweep, "+rate=0.1,0.2,0.3")
    assert again.returncode == 0, again.stderr
    told = "code changed since this study began: nets.py; 2 trials are of the earlier code"
    assert told in again.stdout
    assert "cifar_hpo changed" not in again.stdout


UNGUARDED = """
import hydra

@hydra.main(version_base="1.3", config_path=None)
def train(config):
    return 1.0

train()
"""


@pytest.mark.parametrize(
    ("text", "arguments", "told"),
    [
        (
            TRAINING,
            ("+rate=0.1",),
            "error: hydra.sweeper.metric: trial 0 returned loss, epochs and no value; name one of",
        ),
        (
            TRAINING,
            ("hydra.sweeper.n_jobs=2", "+rate=0.1"),
            "error: hydra.sweeper.n_jobs: there is no such option; hydra/launcher=workers",
        ),
        (
            TRAINING,
            ("hydra.sweeper.sampler._target_=optuna.samplers.TPESampler", "+rate=0.1"),
            "error: hydra.sweeper.sampler._target_: there is no such option; choose one by",
        ),
        (
            TRAINING,
            ("+mlflow.tags={study: mine}", "+rate=0.1"),
            "error: mlflow.tags.study: a tag that sweeps use; give it another name",
        ),
        (
            TRAINING,
            ("+mlflow.tags=[vision]", "hydra.sweeper.track=true", "+rate=0.1"),
            "error: mlflow.tags: ['vision'] is no mapping; write {team: vision}",
        ),
        (
            TRAINING,
            ("+mlflow.note={a: 1}", "+rate=0.1"),
            "error: mlflow.note: {'a': 1} is no text",
        ),
        (
            TRAINING,
            ("+mlflow.tags.team=${oc.env:NOBODY_SET_IT}", "+rate=0.1"),
            "error: mlflow.tags.team: KeyError raised while resolving interpolation: ",
        ),
        (UNGUARDED, ("+x=1",), "error: train.py, line 8: train() runs whenever the file is impor"),
    ],
)
def test_what_the_user_can_mend_is_one_line_in_other_apps_too(
    tmp_path: Path, text: str, arguments: tuple[str, ...], told: str
) -> None:
    write_app(tmp_path, "", text)
    shown = run_app(tmp_path, *WORKERS, *arguments)
    (line,) = shown.stderr.splitlines()
    assert line.startswith(told)
    assert shown.returncode == 2


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "more",
    [
        pytest.param((), marks=pytest.mark.long),
        ("hydra.job.chdir=true", "+mlflow.tracking_uri=sqlite:///mlflow.db"),
    ],
)
def test_under_another_launcher_trials_are_tracked_and_pruned_too(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    """In whichever folder they run, with the study's own databases."""
    write_app(tmp_path)
    options = ("hydra.sweeper.track=true", "hydra.sweeper.metric=loss", "hydra.sweep.dir=out")
    pruner = ("hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=1")
    shown = run_app(tmp_path, *PLUGINS, *options, *pruner, *more, "+rate=0.5,0.1")
    assert shown.returncode == 0, shown.stderr
    assert "PRUNED after epoch 1 of 4 by median" in shown.stdout
    assert "runs:   experiment s in mlflow.db\nbrowse: mlflow ui\n" in shown.stdout
    databases = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.db")}
    assert databases == {"mlflow.db", "mlruns/studies.db"}
    assert (tmp_path / "out/0/seen.txt").exists() == ("hydra.job.chdir=true" in more)
    finished, pruned = sorted(runs(tmp_path, "trial"), key=lambda run: run.data.tags["trial"])
    assert {finished.info.status, pruned.info.status} == {"FINISHED"}
    assert "pruned" in pruned.data.tags
    assert finished.data.metrics["loss"] == pytest.approx(0.5**4)
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/mlruns/studies.db")
    assert study.trials[0].user_attrs["outcome"]["run_id"] == finished.info.run_id


SPHERE = """
import hydra

@hydra.main(version_base=None, config_path=".", config_name="config")
def sphere(config):
    if config.get("offset") is not None:  # an end that depends on another parameter
        config.z = config.x + config.offset
    return config.x**2 + config.y**2 + config.z**2

if __name__ == "__main__":
    sphere()
"""

TWO_VALUES = """
import hydra

@hydra.main(version_base=None, config_path=".", config_name="config")
def binh_and_korn(config):
    return 4 * config.x**2 + 4 * config.y**2, (config.x - 5) ** 2 + (config.y - 5) ** 2

if __name__ == "__main__":
    binh_and_korn()
"""

CONFIG = """
defaults:
  - override hydra/sweeper: study
  - override hydra/sweeper/sampler: {sampler}

hydra:
  sweeper:
    direction: {direction}
    study_name: s
    storage: null
    n_trials: {n_trials}
    sampler:
      seed: 123
    params:
      x: {x}
      y: {y}
{more}

x: 1
y: 1
z: 0
offset: null
"""


@pytest.mark.parametrize(
    ("text", "config", "best"),
    [
        (
            SPHERE,
            {"sampler": "grid", "n_trials": 66, "x": "range(-1, 1.5, step=0.5)"},
            ["0.0", "0", "value"],
        ),
        (SPHERE, {"more": "      offset: interval(-0.5, 0.5)"}, ["offset", "value"]),
        (
            TWO_VALUES,
            {"sampler": "nsgaii", "direction": "[minimize, minimize]", "y": "range(0, 3, 0.5)"},
            ["value_0", "value_1", "Pareto front"],
        ),
    ],
    ids=["sphere", "custom search space", "several objectives"],
)
def test_the_apps_of_another_optuna_sweeper_run(
    tmp_path: Path, text: str, config: dict[str, str], best: list[str]
) -> None:
    """The searches of hydra-optuna-sweeper's own examples, with their options."""
    given = {"sampler": "tpe", "direction": "minimize", "n_trials": "8", "more": ""}
    given |= {"x": "range(-5.5, 5.5, 0.5)", "y": "choice(-5 ,0 ,5)"} | config
    (tmp_path / "train.py").write_text(text)
    (tmp_path / "config.yaml").write_text(CONFIG.format(**given))
    shown = run_app(tmp_path, "-m")
    assert shown.returncode == 0, shown.stderr
    for word in best:
        assert word in shown.stdout.partition("rank")[2]


def test_a_current_folder_whose_name_is_an_interpolation_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a${x}b"
    folder.mkdir()
    write_app(folder)
    refused = run_app(folder, *WORKERS, "rate=0.1,0.2")
    assert refused.returncode == 2
    assert "Hydra takes ${ in the name of the current folder for an interpolation" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a${x}b"]
