"""What an earlier version left goes on under this one: studies, checkpoints, MLflow's runs.

`versions/0.1.zip` holds a folder in which version 0.1 ran the commands below, the last of which was
killed in its second trial. It was packed by `versions/pack.py`.
"""

from __future__ import annotations

import socket
import sqlite3
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support import Run
from versions.pack import DATABASES, FOLDER, HOST

SMALL = [
    "data=npz",
    "data.path=small.npz",
    "training.batch_size=50",
    "model.kernel_size=3",
    "model.depth=2",
    "model.dense_units=0",
    "model.global_pooling=average",
    "mlflow.system_metrics=false",
]
NAMED = ["model.filters=2,3", "training.replicas=2", "hydra.sweeper.study_name=named"]
UNNAMED = ["optimizer=adam,sgd"]
KILLED = ["model.filters=2,3", "hydra.launcher.n_workers=1", "hydra.sweeper.study_name=killed"]


def images(n: int, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten classes told apart by their brightness and colour, the same under every NumPy."""
    place = np.arange(first, first + n)
    labels = (place * 7 % 10).astype(np.uint8)
    level = np.stack([labels * 25, 255 - labels * 25, labels % 3 * 100], axis=-1).astype(np.int64)
    pixels = np.arange(3072).reshape(1, 32, 32, 3)
    grain = (place[:, None, None, None] * 31 + pixels * 17) % 41 - 20
    return np.clip(level[:, None, None, :] + grain, 0, 255).astype(np.uint8), labels


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The folder as version 0.1 left it."""
    with zipfile.ZipFile(Path(__file__).parent / "versions" / "0.1.zip") as archive:
        archive.extractall(tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        content = content.replace(FOLDER.encode(), str(tmp_path).encode())
        path.write_bytes(content.replace(HOST.encode(), socket.gethostname().encode()))
    for name in DATABASES:
        script = tmp_path / f"{name}.sql"
        with sqlite3.connect(tmp_path / name) as database:
            database.executescript(script.read_text(encoding="utf-8"))
        script.unlink()
    (x_train, y_train), (x_test, y_test) = images(200, 0), images(40, 1000)
    np.savez(tmp_path / "small.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return tmp_path


@pytest.mark.parametrize(
    ("study", "arguments"),
    [
        pytest.param("named", NAMED, marks=pytest.mark.long),
        ("optimizer-4d6483", UNNAMED),
    ],
)
def test_a_finished_study_is_known_and_has_nothing_to_do(
    earlier: Path, run: Run, study: str, arguments: list[str]
) -> None:
    ended = run("-m", *SMALL, "training.epochs=3", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert f"study {study}: 2 trials, 2 done before" in ended.stdout
    assert "[2/2]" not in ended.stdout  # no trial ran


@pytest.mark.long
def test_a_study_whose_grid_grows_runs_the_new_cell_alone(earlier: Path, run: Run) -> None:
    grown = ["model.filters=2,3,4", *NAMED[1:]]
    ended = run("-m", *SMALL, "training.epochs=3", *grown)
    assert ended.returncode == 0, ended.stderr
    assert "study named: 3 trials, 2 done before" in ended.stdout
    assert ended.stdout.count("[3/3] trial 2: model.filters=4") == 1


def test_a_killed_trial_goes_on_from_its_checkpoint(earlier: Path, run: Run) -> None:
    from mlflow import MlflowClient

    ended = run("-m", *SMALL, "training.epochs=60", *KILLED)
    assert ended.returncode == 0, ended.stderr
    assert "study killed: 2 trials, 1 done before" in ended.stdout
    client = MlflowClient(f"sqlite:///{earlier}/mlflow.db")
    experiment = client.get_experiment_by_name("killed")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    attempts = [one for one in runs if one.data.tags["trial"] == "1"]
    assert sorted(one.info.status for one in attempts) == ["FINISHED", "KILLED"]
    (last,) = [one for one in attempts if one.info.status == "FINISHED"]
    points = client.get_metric_history(last.info.run_id, "val_loss")
    assert len({point.step for point in points}) == 60
    assert not list(earlier.glob("mlruns/outputs/killed/*/*.checkpoint*"))


def test_its_studies_are_listed_reported_and_its_champion_predicts(earlier: Path, run: Run) -> None:
    from PIL import Image

    listed = run("list", module="cifar_hpo.studies")
    for name in ("named", "optimizer-4d6483", "killed"):
        assert name in listed.stdout
    best = run("best", "named", module="cifar_hpo.studies")
    assert "model.filters=3" in best.stdout
    reported = run("named", module="cifar_hpo.report")
    assert reported.returncode == 0, reported.stderr
    assert "page: " in reported.stdout
    page = (earlier / "mlruns" / "reports" / "named" / "report.html").read_text(encoding="utf-8")
    assert "Learning curves" in page
    assert "What the best gets wrong" in page
    Image.fromarray(images(1, 0)[0][0]).save(earlier / "one.png")
    predicted = run("one.png", module="cifar_hpo.predict")
    assert predicted.returncode == 0, predicted.stderr
    assert "by cifar_hpo-small version" in predicted.stdout
    assert "one.png" in predicted.stdout
