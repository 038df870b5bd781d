"""The report of a real sweep, its page in MLflow, and its models at work."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import RealSweep, clean, run_in

from cifar_hpo.analysis.comparison import Comparison, compare_study
from cifar_hpo.predict import main as predict
from cifar_hpo.report.__main__ import main as report
from cifar_hpo.study.attributes import RUN
from cifar_hpo.study.storage import load_study, open_storage

CHARTS = {
    "learning_curves",
    "effect_model.filters",
    "trade_off",
    "history",
    "timeline",
    "confusion_matrix",
    "per_class",
    "misclassified",
}


@pytest.fixture(scope="module")
def folder(real_sweep: RealSweep) -> Path:
    return real_sweep.folder


def comparison_in(folder: Path) -> Comparison:
    return compare_study("real", open_storage(f"sqlite:///{folder}/mlruns/studies.db"))


def test_a_sweep_s_report_has_everything_and_lies_in_mlflow(folder: Path) -> None:
    import mlflow

    reports = folder / "mlruns" / "reports" / "real"
    page = (reports / "report.html").read_text(encoding="utf-8")
    assert "not drawn" not in page
    assert "<th>on new images, 95 %</th>" in page
    pictures = {path.stem for path in reports.glob("*.png")}
    assert pictures >= CHARTS
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (parent,) = client.search_runs(experiments, "tags.kind = 'study'")
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id, "report")}
    assert artifacts == {f"report/{name}.png" for name in pictures} | {"report/report.html"}
    note = parent.data.tags["mlflow.note.content"]
    assert "| rank | model.filters | val_accuracy | 95 % | against the best |" in note
    assert re.search(r"replicas of each|is not luck", note)


def test_an_interval_is_over_the_replicas_that_mlflow_has(folder: Path) -> None:
    from cifar_hpo.tracking.reader import RunReader

    runs = RunReader(f"sqlite:///{folder}/mlflow.db")
    finished = comparison_in(folder).finished
    assert len(finished) == 2
    for configuration in finished:
        curves = runs.curves(configuration.trial.run_id, "val_accuracy")
        last_values = {replica: points[-1][1] for replica, points in curves.items()}
        assert last_values == pytest.approx(configuration.values)
        assert [epoch for epoch, _ in curves[0]] == [1, 2, 3]


def test_the_model_serves_and_takes_raw_images(folder: Path, npz: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", "models:/cifar_hpo-small@champion", "-p", str(port)]
    # As in an activated environment:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    server = subprocess.Popen(
        command,
        cwd=folder,
        env=clean() | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "PATH": path},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with np.load(npz) as arrays:
            answer = invoke(port, {"inputs": arrays["x_test"][:2].tolist()})
        assert np.array(answer["predictions"]).shape == (2, 10)
        assert np.sum(answer["predictions"], axis=1) == pytest.approx([1, 1], abs=1e-3)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def invoke(port: int, content: dict[str, Any]) -> Any:
    """What a server of this machine answers, which may take a while to start."""
    url = f"http://127.0.0.1:{port}/invocations"
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(content).encode(), headers)
    deadline = time.monotonic() + 90
    while True:
        try:
            return json.load(urllib.request.urlopen(request, timeout=10))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_a_model_with_a_flipped_byte_and_one_that_is_gone_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Image.new("RGB", (32, 32)).save("one.png")
    model = next(
        path for path in folder.rglob("model.keras") if f"/{champion_id(folder)}/" in str(path)
    )
    content = bytearray(model.read_bytes())
    for place in (len(content) // 3, len(content) // 2):
        damaged = bytearray(content)
        damaged[place] ^= 1
        model.write_bytes(damaged)
        with pytest.raises(SystemExit) as ended:
            predict(["one.png"])
        assert ended.value.code == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert re.match(r"error: cifar_hpo-small version \d, champion: its model can't be lo", said)
    model.unlink()
    with pytest.raises(SystemExit):
        predict(["one.png"])
    assert "its model can't be loaded (" in capsys.readouterr().err.splitlines()[-1]
    model.write_bytes(content)
    predict(["one.png"])
    assert "by cifar_hpo-small version" in capsys.readouterr().out


def champion_id(folder: Path) -> str:
    """The id of the model that is champion, which its folder has as a name."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    version = client.get_model_version_by_alias("cifar_hpo-small", "champion")
    return str(version.source).removeprefix("models:/")


@pytest.fixture
def alone(folder: Path, tmp_path: Path) -> Path:
    """A copy of the sweep's folder without MLflow's database, which its study had there."""
    copied = tmp_path / "alone"
    shutil.copytree(folder, copied)
    (copied / "mlflow.db").unlink()
    study = load_study(open_storage(f"sqlite:///{copied}/mlruns/studies.db"), "real")
    uri, run_id = study.user_attrs[RUN]
    study.set_user_attr(RUN, [uri.replace(str(folder), str(copied)), run_id])
    return copied


@pytest.mark.usefixtures("store")
def test_a_report_without_the_runs_says_why(
    alone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where MLflow's database was thrown away, and where another store is given."""
    monkeypatch.chdir(alone)
    report(["real"])
    said = capsys.readouterr().out
    assert "without curves and images: MLflow's store mlflow.db is not here; name another" in said
    report(["real", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"])
    said = capsys.readouterr().out
    assert "without curves and images: MLflow's store has no run " in said
    assert said.endswith("page: mlruns/reports/real/report.html\n")


@pytest.mark.long
def test_a_study_whose_mlflow_store_is_another_one_is_known_and_done(
    alone: Path, migrated: Path, real_sweep: RealSweep
) -> None:
    shutil.copy(migrated, alone / "mlflow.db")
    again = run_in(alone, *real_sweep.arguments)
    assert again.returncode == 0, again.stderr
    assert "2 done before" in again.stdout
    assert "Traceback" not in again.stderr
