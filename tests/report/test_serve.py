"""The page of a study, live: `--serve` as users have it."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from support import call_in, clean, lay_out, wait_for

from cifar_hpo.report.__main__ import main
from cifar_hpo.study.ranking import OUTCOME


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of the page of a study whose first trials have ended."""
    lay_out(tmp_path, [({"model.filters": "4"}, [0.5]), ({"model.filters": "8"}, "diverged")])
    with subprocess.Popen(
        [sys.executable, "-m", "cifar_hpo.report", "--serve"],
        cwd=tmp_path,
        env=clean(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("page: http://127.0.0.1:")
        yield line.split()[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def get(address: str, path: str = "", **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(address + path, headers=headers)) as answer:
        text: str = answer.read().decode()
        return text


def state(address: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(address, "state"))
    return found


def test_the_page_is_renewed_as_trials_end_also_where_the_storage_is_locked_for_a_while(
    address: str, tmp_path: Path
) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(address, Host="elsewhere.example")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(address, "studies.db")
    assert "1 configurations finished, 1 trials failed" in get(address)
    before = state(address)
    file = tmp_path / "mlruns" / "studies.db"
    study = optuna.load_study(study_name="laid", storage=f"sqlite:///{file}")
    (first, _) = study.trials
    outcome = first.user_attrs[OUTCOME] | {"values": [0.75], "metrics": {"val_accuracy": 0.75}}
    again = optuna.trial.create_trial(
        value=0.75,
        params={"model.filters": "8"},
        distributions=first.distributions,
        user_attrs={OUTCOME: outcome},
    )
    study.add_trial(again)
    running = study.ask({key: first.distributions[key] for key in first.params})
    wait_for(lambda: state(address)["version"] > before["version"])
    assert "2 configurations finished, 0 trials failed" in get(address)
    assert "0.7500" in get(address)
    wait_for(lambda: f"trial {running.number}: " in state(address)["running"])

    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    assert state(address)["version"] > before["version"]
    study_after = get(address)
    connection.execute("ROLLBACK")
    connection.close()
    assert "0.7500" in study_after
    status = state(address)["status"]
    wait_for(lambda: state(address)["status"] != status)


def test_a_port_that_is_taken_is_refused_on_one_line(tmp_path: Path) -> None:
    lay_out(tmp_path, [({"model.filters": "4"}, [0.5])])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = call_in(tmp_path, main, "--serve", "--port", port)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: --port {port}: can't be had (")
    assert refused.stderr.endswith("; leave it out for one that is free\n")
