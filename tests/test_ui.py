"""The user interfaces as a person sees them: real servers, and pages looked at in headless
Chromium."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from support import RealSweep, clean, run_in

from cifar_hpo import ui
from cifar_hpo.errors import StudyError
from cifar_hpo.study.storage import open_storage

CHROMIUM = shutil.which("chromium")
COMMAND = [sys.executable, "-m", "cifar_hpo.ui"]

browser = pytest.mark.browser
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def folder(real_sweep: RealSweep) -> Path:
    return real_sweep.folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[dict[str, str]]:
    """The address of each server by name; ended by one Ctrl-C, after which nothing is left."""
    with subprocess.Popen(
        COMMAND,
        cwd=folder,
        env=clean(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        said = ""
        while "Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        yield dict(
            re.findall(r"^ *(\w+)(?: real:)? +(http://127\.0\.0\.1:\d+\S*)$", said, re.MULTILINE)
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        _, left = psutil.wait_procs(children, 10)
        assert left == []


def look(url: str, picture: Path, *, dark: bool = False) -> str:
    """The page's content after its scripts ran; a picture of it is left in the test's folder."""
    assert CHROMIUM
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=1500,1400",
        "--virtual-time-budget=20000",
    ]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    command = [
        CHROMIUM,
        *options,
        f"--user-data-dir={picture.parent / 'chromium'}",
        f"--screenshot={picture}",
        "--dump-dom",
        url,
    ]
    content = subprocess.run(
        command, check=True, timeout=120, capture_output=True, text=True
    ).stdout
    assert picture.stat().st_size > 10_000
    return content


def settled(url: str, picture: Path, *wanted: str) -> str:
    """The page once it shows what is wanted; a server that was just started may take a while."""
    content = ""
    for _ in range(3):
        content = look(url, picture)
        if all(text in content for text in wanted):
            break
    return content


@browser
@needs_chromium
def test_the_report(folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    page = (folder / "mlruns/reports/real/report.html").absolute().as_uri()
    content = look(page, tmp_path / "report.png")
    assert "<h1>Study real</h1>" in content
    assert content.count("<svg") >= 7
    for heading in (
        "Leaderboard",
        "Learning curves",
        "The effect of each parameter",
        "Who trained what when",
        "What the best gets wrong",
    ):
        assert f"<h2>{heading}</h2>" in content
    look(page, tmp_path / "dark.png", dark=True)
    light = Image.open(tmp_path / "report.png").convert("L")
    dark = Image.open(tmp_path / "dark.png").convert("L")
    assert np.asarray(light)[5, 5] > 240
    assert np.asarray(dark)[5, 5] < 50


@pytest.mark.long
@browser
@needs_chromium
def test_mlflow_s_list_of_runs_and_a_run_with_its_model(
    folder: Path, served: dict[str, str], tmp_path: Path
) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("real")
    runs = client.search_runs([experiment.experiment_id])
    runs_page = settled(served["study"], tmp_path / "runs.png", "filters=6")
    assert "study real" in runs_page
    for column in ("val_accuracy", "test_accuracy", "parameters", "model.filters"):
        assert column in runs_page
    child = next(run for run in runs if run.data.tags["kind"] == "trial")
    page = settled(
        f"{served['MLflow']}/#/experiments/{experiment.experiment_id}/runs/{child.info.run_id}",
        tmp_path / "run.png",
        "test_accuracy",
    )
    assert child.info.run_name in page
    assert "model.filters" in page
    (output,) = child.outputs.model_outputs
    page = settled(
        f"{served['MLflow']}/#/experiments/{experiment.experiment_id}/models/{output.model_id}",
        tmp_path / "model.png",
        "small",
    )
    assert child.info.run_name in page
    parent = next(run for run in runs if run.data.tags["kind"] == "study")
    page = settled(
        f"{served['MLflow']}/#/experiments/{experiment.experiment_id}/runs/{parent.info.run_id}",
        tmp_path / "parent.png",
        "rank",
    )
    assert "against the best" in page
    assert "best_value" in page


@browser
@needs_chromium
def test_optuna_dashboard(served: dict[str, str], tmp_path: Path) -> None:
    assert "real" in settled(f"{served['Optuna']}/dashboard", tmp_path / "studies.png", "real")
    study = f"{served['Optuna']}/dashboard/studies/1"
    page = settled(study, tmp_path / "study.png", "val_accuracy", "model.filters")
    assert "model.filters" in page
    assert "val_accuracy" in page, "metrics have their names"


@pytest.fixture
def stores(store: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an empty MLflow store and no study."""
    monkeypatch.chdir(tmp_path)
    open_storage(None)
    return tmp_path


@pytest.fixture
def free_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui, "free_port", lambda chosen, usual, option: chosen or usual)


def options(*, storage: str | None = None, tracking_uri: str | None = None) -> argparse.Namespace:
    return argparse.Namespace(
        storage=storage, tracking_uri=tracking_uri, mlflow_port=None, optuna_port=4321
    )


def test_each_server_has_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_ports: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow, dashboard = ui.configure_servers(options())
    assert (mlflow.title, mlflow.address) == ("MLflow", "http://127.0.0.1:5000")
    assert mlflow.url == f"sqlite:///{tmp_path}/mlflow.db"
    assert dashboard.address == "http://127.0.0.1:4321"
    assert dashboard.url == "sqlite:///mlruns/studies.db"


def test_without_optuna_dashboard_there_is_mlflow_and_a_hint(
    monkeypatch: pytest.MonkeyPatch, free_ports: None, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    servers = ui.configure_servers(options(storage="postgresql://a", tracking_uri="http://b"))
    assert [server.title for server in servers] == ["MLflow"]
    assert capsys.readouterr().out == "Optuna  not installed; pip install 'cifar_hpo[ui]'\n"


def test_a_store_that_is_not_here_or_damaged_is_told_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(StudyError, match=r"^mlruns/studies\.db is not here; go to the folder"):
        ui.check_stores(options())
    with pytest.raises(StudyError, match=r"^/elsewhere/x\.db is not here"):
        ui.check_stores(options(storage="sqlite:////elsewhere/x.db"))
    open_storage(None)
    with pytest.raises(StudyError, match=r"^MLflow's store mlflow\.db is not here; name another"):
        ui.check_stores(options())
    Path("mlflow.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(StudyError, match=r"^MLflow's store mlflow\.db is damaged; restore"):
        ui.check_stores(options())


def test_a_usual_port_that_is_taken_gives_way_to_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        usual = taken.getsockname()[1]
        port = ui.free_port(None, usual, "--mlflow-port")
        assert port not in (0, usual)
    assert ui.free_port(port, usual, "--mlflow-port") == port
    with pytest.raises(StudyError, match="--mlflow-port: 70000 is taken or no port"):
        ui.free_port(70_000, usual, "--mlflow-port")


@pytest.mark.long
def test_a_taken_port_and_an_empty_folder_are_said_on_one_line(
    folder: Path, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        shown = run_in(folder, "--mlflow-port", str(port), module="cifar_hpo.ui")
        assert shown.returncode == 2
        assert (
            shown.stderr
            == f"error: --mlflow-port: {port} is taken or no port; leave it out for a free one\n"
        )
    shown = run_in(tmp_path, module="cifar_hpo.ui")
    assert shown.returncode == 2
    assert re.fullmatch(r"error: mlruns/studies\.db is not here; .*\n", shown.stderr)


ENDS = {
    "its terminal closes": [signal.SIGHUP],
    "SIGTERM": [signal.SIGTERM],
    "Ctrl-C twice": [signal.SIGINT, signal.SIGINT],
    "kill -9": [signal.SIGKILL],
}


@pytest.mark.long
@pytest.mark.parametrize("signals", ENDS.values(), ids=ENDS)
def test_servers_end_with_ui_and_have_no_url_among_their_arguments(
    stores: Path, signals: list[signal.Signals]
) -> None:
    with subprocess.Popen(
        COMMAND,
        cwd=stores,
        env=clean(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout
            assert "http://127.0.0.1:" in process.stdout.readline()
            servers = running_children(process.pid)
            assert len(servers) >= 2
            arguments = " ".join(" ".join(arguments) for arguments in servers.values())
            assert "sqlite:" not in arguments, "a URL may hold a password"
            for number in signals:
                process.send_signal(number)
            assert process.wait(20) == (-signal.SIGKILL if signal.SIGKILL in signals else 0)
        finally:
            process.kill()
    _, left = psutil.wait_procs(list(servers), 10)
    assert left == []


def running_children(pid: int) -> dict[psutil.Process, list[str]]:
    """All processes below one, with their arguments; those that end meanwhile are left out."""
    running = {}
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            running[child] = child.cmdline()
    return running
