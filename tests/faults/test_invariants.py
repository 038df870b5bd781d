"""The checker sees each violation: a folder in which all is well is spoilt in one place."""

from __future__ import annotations

import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from filelock import FileLock
from invariants import check, violations
from mlflow import MlflowClient
from support import parse_space, study_options, wait_for

from cifar_hpo.paths import MLFLOW_DB, OUTPUTS, STUDIES_DB
from cifar_hpo.study.ranking import OUTCOME
from cifar_hpo.study.study import Study
from cifar_hpo.trial import FAILED, FINISHED, PRUNED, TrialResult

META = {"metric": "y"}
RESULTS = {
    1: TrialResult(FINISHED, {"y": 0.5}),
    2: TrialResult(PRUNED, error="after epoch 1"),
    3: TrialResult(FAILED, error="no luck"),
}
STATUS = {FINISHED: "FINISHED", PRUNED: "FINISHED", FAILED: "FAILED"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Path:
    """A study of three trials that are finished, pruned and failed, with their runs in MLflow."""
    folder = tmp_path_factory.mktemp("sound")
    shutil.copy(migrated, folder / MLFLOW_DB)
    client = MlflowClient(f"sqlite:///{folder / MLFLOW_DB}")
    options = study_options(storage=f"sqlite:///{folder / STUDIES_DB}")
    study_run = client.create_run("0", tags={"kind": "study", "study": "s"})
    with Study.open("s", parse_space("+x=1,2,3"), options, META) as study:
        study.attributes.set_folder(folder / OUTPUTS / "s")
        for spec in study.specs():
            assert spec
            result = RESULTS[spec.params["+x"]]
            run_id = finished_run(client, spec.number, result)
            study.tell(spec, TrialResult(result.state, result.metrics, result.error, run_id=run_id))
            (folder / OUTPUTS / "s" / str(spec.number) / ".hydra").mkdir(parents=True)
    client.set_terminated(study_run.info.run_id, "FAILED")
    return folder


def finished_run(client: MlflowClient, number: int, result: TrialResult) -> str:
    """A trial's run as an attempt leaves it; returns its id."""
    tags = {"kind": "trial", "study": "s", "trial": str(number)}
    if result.state == PRUNED:
        tags["pruned"] = result.error
    run_id = str(client.create_run("0", tags=tags).info.run_id)
    for name, value in result.metrics.items():
        client.log_metric(run_id, name, value)
    client.set_terminated(run_id, STATUS[result.state])
    return run_id


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """The sound folder, for one test alone."""
    copied = tmp_path / "sweep"
    shutil.copytree(sound, copied)
    with closing(sqlite3.connect(copied / STUDIES_DB)) as database, database:
        text = "update study_user_attributes set value_json = ? where key = 'folder'"
        database.execute(text, (f'"{copied / OUTPUTS / "s"}"',))
    return copied


def studies(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / STUDIES_DB)) as database, database:
        assert database.execute(statement).rowcount, "nothing was spoilt"


def runs(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / MLFLOW_DB)) as database, database:
        assert database.execute(statement).rowcount, "nothing was spoilt"


def again(returncode: int) -> Callable[[], subprocess.CompletedProcess[str]]:
    """A command that does nothing and ends with this exit code."""
    return lambda: subprocess.CompletedProcess([], returncode, "", "error: no")


def test_of_a_sound_folder_nothing_is_said(folder: Path) -> None:
    check(folder, planned=3, budget=3, returncode=1, again=again(1))
    assert violations(folder / "not there", planned=3, returncode=2) == []


TRIAL_TAG = "(select run_uuid from tags where key = 'trial' and value = '{}')"
NOTED = (
    "update trial_user_attributes set value_json = replace(value_json, {})"
    f" where key = '{OUTCOME}'"
)
STUDY_RUN = "(select run_uuid from tags where key = 'kind' and value = 'study')"

SPOILT = [
    (
        studies,
        "update trials set state = 'RUNNING' where number = 0",
        ["trial 0: RUNNING in Optuna, FINISHED as its outcome", "RUNNING without an owner"],
    ),
    (
        studies,
        "update trials set state = 'COMPLETE' where number = 2",
        ["study s, trial 2: COMPLETE in Optuna, FAILED as its outcome"],
    ),
    (studies, "update trial_values set value = 0.75", ["Optuna has [0.75], the outcome [0.5]"]),
    (
        studies,
        NOTED.format("'{\"y\": 0.5}', '{\"y\": 0.25}'"),
        ["Optuna has [0.5]", "y is 0.25 in its outcome, 0.5 in MLflow"],
    ),
    (
        studies,
        "delete from trial_user_attributes where trial_id = 1",
        ["1 of 3 configurations of study s have no outcome", "trial 0: without an outcome"],
    ),
    (
        studies,
        "update trial_params set param_value = 0.0 where trial_id = 3",
        ['counts {"+x": 1} more than once: trials 0, 2', "1 of 3 configurations"],
    ),
    (
        runs,
        f"update runs set status = 'RUNNING' where run_uuid in {STUDY_RUN}",
        ["of s (study): RUNNING, its owner is gone"],
    ),
    (
        runs,
        f"update runs set status = 'RUNNING' where run_uuid in {TRIAL_TAG.format(0)}",
        ["of s (trial): RUNNING, its owner is gone", "FINISHED are []"],
    ),
    (
        runs,
        f"update runs set status = 'FINISHED' where run_uuid in {TRIAL_TAG.format(2)}",
        ["its outcome has the runs [], FINISHED are [", "failed, and its run is FINISHED"],
    ),
    (
        runs,
        "update tags set value = '0' where key = 'trial' and value = '1'",
        ["trial 0: its outcome has the runs ['", "trial 1: its outcome has the runs ['"],
    ),
    (
        runs,
        "update latest_metrics set value = 0.4",
        ["trial 0: y is 0.5 in its outcome, 0.4 in MLflow"],
    ),
    (
        runs,
        f"update tags set key = 'study_' where key = 'study' and run_uuid in {TRIAL_TAG.format(0)}",
        ["trial 0: MLflow does not have its run"],
    ),
    (runs, "delete from tags where key = 'pruned'", ["trial 1: PRUNED, and its run's tags say"]),
    (runs, "update tags set value = 'x' where value = 'study'", ["has 0 runs of its own"]),
]


@pytest.mark.parametrize(("store", "statement", "sentences"), SPOILT)
def test_what_is_wrong_in_a_store_is_said(
    store: Callable[[Path, str], None], statement: str, sentences: list[str], folder: Path
) -> None:
    store(folder, statement)
    found = violations(folder, planned=3, budget=3, returncode=1)
    for sentence in sentences:
        assert any(sentence in said for said in found), found


def test_what_nobody_could_close_after_a_kill_is_no_violation(folder: Path) -> None:
    studies(folder, "update trials set state = 'RUNNING' where number = 2")
    studies(folder, f"delete from trial_user_attributes where key = '{OUTCOME}' and trial_id = 3")
    owner = f"{socket.gethostname()}:1:0.00"
    runs(folder, f"update runs set status = 'RUNNING' where run_uuid in {TRIAL_TAG.format(2)}")
    runs(folder, f"insert into tags select 'cifar_hpo.owner', '{owner}', run_uuid from runs")
    assert violations(folder, planned=3, returncode=-signal.SIGKILL) == []
    found = violations(folder, planned=3, returncode=128 + signal.SIGTERM)
    assert len(found) == 2, found


@pytest.mark.parametrize(
    ("planned", "budget", "returncode", "sentence"),
    [
        (4, 4, 1, "1 of 4 configurations of study s have no outcome"),
        (2, 3, 1, "study s counts 3 configurations, planned are 2"),
        (3, 2, 1, "study s counts 3 configurations, its budget is 2"),
        (3, 3, 0, "exit code 0, and the outcomes of study s are ['FINISHED', 'PRUNED', 'FAILED']"),
        (3, 3, 7, "exit code 7, which tells nothing"),
    ],
)
def test_a_count_or_an_exit_code_that_is_not_true_is_said(
    planned: int, budget: int, returncode: int, sentence: str, folder: Path
) -> None:
    (said,) = violations(folder, planned=planned, budget=budget, returncode=returncode)
    assert sentence in said


def test_an_exit_code_of_failure_without_a_failed_trial_is_said(folder: Path) -> None:
    studies(folder, NOTED.format("'FAILED', 'PRUNED'"))
    studies(folder, "update trials set state = 'PRUNED' where number = 2")
    found = violations(folder, planned=3, returncode=1)
    assert any(said.startswith("exit code 1, and the outcomes") for said in found), found


def test_a_study_that_is_not_done_is_not_finished(folder: Path) -> None:
    runs(folder, f"update runs set status = 'FINISHED' where run_uuid in {STUDY_RUN}")
    (said,) = violations(folder, planned=4, returncode=128 + signal.SIGINT)
    assert said == "study s: FINISHED in MLflow with 3 of 4 outcomes"


@pytest.mark.parametrize("name", ["replica_0.checkpoint", "replica_0.checkpoint.draft", "result"])
def test_a_file_that_a_counted_trial_left_is_said(name: str, folder: Path) -> None:
    (folder / OUTPUTS / "s" / "1" / name).touch()
    (said,) = violations(folder)
    assert said == f"study s, trial 1: counted, and {name} is left in its folder"


def test_a_process_of_the_sweep_and_its_lock_are_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invariants.SECONDS_TO_END", 0.1)
    program = "import sys; print(flush=True); sys.stdin.read()"
    sleepers = []
    for arguments, cwd in (([], folder), ([str(folder / "config")], folder.parent)):
        sleepers.append(
            subprocess.Popen(
                [sys.executable, "-c", program, *arguments],
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
    for sleeper in sleepers:
        assert sleeper.stdout
        sleeper.stdout.readline()
    try:
        (folder / "mlruns" / ".studies.db-s.holder").unlink(missing_ok=True)
        with FileLock(folder / "mlruns" / ".studies.db-s.lock"):
            found = violations(folder)
    finally:
        for sleeper in sleepers:
            sleeper.communicate()
    wait_for(lambda: all(sleeper.poll() == 0 for sleeper in sleepers))
    assert [said.split(":")[0] for said in found] == [
        *(f"process {sleeper.pid} is left" for sleeper in sleepers),
        ".studies.db-s.lock is held by a process",
    ]


def test_the_same_command_again_changes_nothing(folder: Path) -> None:
    def one_more() -> subprocess.CompletedProcess[str]:
        study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder / STUDIES_DB}")
        study.add_trial(optuna.trial.create_trial(value=1.0))
        return subprocess.CompletedProcess([], 1, "", "")

    (said,) = violations(folder, again=again(0))
    assert said == "the same command again ends with exit code 0: error: no"
    (said,) = violations(folder, again=one_more)
    assert said.startswith("the same command again changed s 3: nothing → COMPLETE")


def test_check_fails_with_every_sentence(folder: Path) -> None:
    with pytest.raises(AssertionError, match=r"its budget is 1\n.*, planned are 2"):
        check(folder, planned=2, budget=1)
