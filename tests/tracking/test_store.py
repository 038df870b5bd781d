"""MLflow's store as it should not be: told on one line, soon, and with what mends it."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from support import clean, garble, no_space_beyond

from cifar_hpo.errors import StudyError
from cifar_hpo.tracking import store as store_module
from cifar_hpo.tracking.reader import RunReader
from cifar_hpo.tracking.runs import StudyRun
from cifar_hpo.tracking.store import (
    connect,
    experiment,
    experiment_name,
    open_store,
    wants_system_metrics,
)

DB = Path("mlflow.db")


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    monkeypatch.setattr(store_module, "CONNECT_TIMEOUT", 0.3)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def problem(uri: str) -> str:
    """What is said of a store, the same for a sweep and for who reads."""
    connect(uri)
    messages = []
    started = time.monotonic()
    for will_write in (True, False):
        with pytest.raises(StudyError) as refused:
            open_store(uri, will_write=will_write)
        messages.append(str(refused.value))
    assert time.monotonic() - started < 15
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]
    return messages[0]


URIS = {
    "a folder": ("folder", "folder is none that MLflow 3 takes; give sqlite:///FILE, "),
    "a file: URI": ("file:///tmp/x", "file:///tmp/x is none that MLflow 3 takes; give sqlite:"),
    "a typo": ("sqllite:///mlflow.db", "sqllite:///mlflow.db is none that MLflow 3 takes; give"),
    "a folder for a file": ("sqlite:///folder", "folder is a folder; name a file by mlflow.track"),
    "no file": ("sqlite://", "sqlite:// is no file; give sqlite:///FILE, "),
    "a missing driver": ("mysql://me:pw@host/x", "mysql://me:***@host/x needs the package mysqlc"),
    "a dead server": ("http://127.0.0.1:9", "http://127.0.0.1:9 does not answer ("),
    "a password": ("http://me:pw@127.0.0.1:9", "http://me:***@127.0.0.1:9 does not answer ("),
    "no port": ("http://127.0.0.1:x", "http://127.0.0.1:x does not answer ("),
}


@pytest.mark.parametrize(("tracking_uri", "said"), URIS.values(), ids=URIS)
def test_a_uri_that_names_no_store_is_told(uri: str, tracking_uri: str, said: str) -> None:
    Path("folder").mkdir()
    assert problem(tracking_uri).startswith(f"MLflow's store {said}")
    assert list(Path("folder").iterdir()) == []


def test_a_server_that_hangs_is_told(uri: str, silent_server: str) -> None:
    assert "does not answer (timed out); start it, or name another" in problem(silent_server)


def test_a_damaged_store_is_told_and_stays_as_it_is(uri: str) -> None:
    whole = DB.read_bytes()
    for damaged in (b"garbage!" * 1000, whole[:-50_000], whole[:500_000]):
        DB.write_bytes(damaged)
        assert problem(uri).startswith("MLflow's store mlflow.db is damaged; restore a copy")
        assert DB.read_bytes() == damaged
    DB.write_bytes(whole)
    garble(DB, 100_000)
    assert problem(uri).startswith("MLflow's store mlflow.db is damaged; restore a copy")
    DB.write_bytes(b"")
    assert problem(uri).startswith("MLflow's store mlflow.db is empty; remove it")


def test_a_database_of_something_else_is_told_and_gets_no_tables_of_mlflow_s(uri: str) -> None:
    DB.unlink()
    with sqlite3.connect(DB) as database:
        database.execute("CREATE TABLE studies (name TEXT)")
    database.close()
    assert "mlflow.db has no table experiments: it is a database of something" in problem(uri)


def test_a_store_of_another_mlflow_is_told_with_the_command_that_mends_it(uri: str) -> None:
    with sqlite3.connect(DB) as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    database.close()
    assert problem(uri).endswith(f"keep a copy of it, then: mlflow db upgrade {uri}")


def test_a_store_without_room_is_told_and_whole_when_there_is_some(uri: str) -> None:
    connect(uri)

    def fill() -> None:
        for number in range(100):
            experiment(f"e{number}" + "x" * 200)

    with no_space_beyond(DB.stat().st_size), pytest.raises(StudyError, match="make room, or see"):
        fill()
    assert experiment("after")


def test_an_experiment_that_was_deleted_is_told_with_what_restores_it(uri: str) -> None:
    connect(uri)
    number = experiment("gone")
    mlflow.MlflowClient().delete_experiment(number)
    with pytest.raises(StudyError) as refused:
        StudyRun(uri, "gone", "s")
    restore = f"mlflow experiments restore --experiment-id {number}"
    assert str(refused.value).startswith("mlflow.experiment: gone was deleted in MLflow's store; ")
    assert str(refused.value).endswith(f"MLFLOW_TRACKING_URI={uri} {restore}")


def test_an_experiment_s_name_may_be_a_number(uri: str) -> None:
    connect(uri)
    number: object = 2024
    assert experiment(number) == experiment("2024")  # type: ignore[arg-type]


def test_a_run_of_another_store_is_told(uri: str) -> None:
    with pytest.raises(StudyError, match="MLflow's store has no run abc: it was deleted, or is in"):
        RunReader(uri).check_run("abc")
    run_id = StudyRun(uri, "e", "s").run_id
    RunReader(uri).check_run(run_id)


def test_a_report_that_can_t_be_attached_is_told(uri: str, tmp_path: Path) -> None:
    study = StudyRun(uri, "e", "s")
    page = tmp_path / "page"
    page.mkdir()
    (page / "report.html").write_text("x")
    folder = Path(mlflow.get_run(study.run_id).info.artifact_uri.removeprefix("file://"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file where artifacts should be")
    with pytest.raises(StudyError):
        RunReader(uri).attach(study.run_id, page, "note")


STARTED_AT_ONCE = """
import os, sys, time
from pathlib import Path
import numpy as np
from cifar_hpo.tracking import attempts
from cifar_hpo.tracking.attempts import AttemptRecord, DatasetRecord, attempt_run

attempts.PATIENCE = attempts.PATIENCE_ALONE = 100.0  # a busy machine is not what is tried here
children = []
for number in range(8):
    child = os.fork()
    if child == 0:
        while not Path("go").exists():
            time.sleep(0.01)
        dataset = DatasetRecord("four", "0123", np.zeros((1, 2, 2, 3)), np.zeros(1))
        record = AttemptRecord(None, "e", (f"x={number}",), {}, "", dataset, number=number)
        with attempt_run(record) as run:
            arrived = run.wait()
        os._exit(0 if arrived else 1)
    children.append(child)
Path("go").touch()
codes = [os.waitpid(child, 0)[1] for child in children]
sys.exit(any(codes))
"""


@pytest.mark.long
def test_eight_workers_may_begin_with_an_empty_store_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTED_AT_ONCE]
    started = subprocess.run(
        command, cwd=tmp_path, env=clean(), capture_output=True, text=True, check=False
    )
    assert started.returncode == 0, started.stderr
    runs = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert [run.info.status for run in runs] == ["FINISHED"] * 8


def test_mlflow_s_own_variables_count_where_the_config_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.delenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", raising=False)
    assert experiment_name(None, "study") == "study"
    assert wants_system_metrics(None) is False
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "team")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "True")
    assert experiment_name(None, "study") == "team"
    assert experiment_name("given", "study") == "given"
    assert wants_system_metrics(None) is True
    assert wants_system_metrics(given=False) is False
