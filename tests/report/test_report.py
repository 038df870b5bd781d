"""The report, from studies laid out in a real storage and from a real sweep, on the terminal, as a
page, and in MLflow."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import clean, lay_out, run_in

from cifar_hpo.analysis.comparison import find
from cifar_hpo.study.storage import open_storage

PRUNED_APP = """
import hydra
from cifar_hpo import trial

@hydra.main(version_base="1.3", config_path=None)
def app(config):
    for epoch in (1, 2, 3):
        trial.report(trial.Progress(epoch, 3, config.x * epoch))
    return config.x * 3

if __name__ == "__main__":
    app()
"""


def say(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_in(folder, *arguments, module="cifar_hpo.report")


def test_ties_are_told_from_differences(tmp_path: Path) -> None:
    jitter = np.random.default_rng(0).normal(0, 0.003, (3, 5))
    jitter -= jitter.mean(axis=1, keepdims=True)
    levels = {"4": 0.57, "8": 0.699, "16": 0.70}
    lay_out(
        tmp_path,
        [
            ({"model.filters": width}, list(level + jitter[place]))
            for place, (width, level) in enumerate(levels.items())
        ],
    )
    shown = say(tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^1 +16 .* best ", shown.stdout, re.MULTILINE)
    assert re.search(r"^2 +8 .* tied ", shown.stdout, re.MULTILINE)
    assert re.search(r"^3 +4 .* worse, p = ", shown.stdout, re.MULTILINE)
    assert (
        "Tied with filters=16, as far as these replicas can tell: filters=8 (95 %, Holm over 3 "
        "pairs)." in shown.stdout
    )
    assert re.search(
        r"To tell the best from the next .* (\d+ replicas of each would tell|more than 200)",
        shown.stdout,
    )
    page = (tmp_path / "mlruns/reports/laid/report.html").read_text()
    assert not re.search(
        r"""(src|href)=["']?(https?:)?//|url\(["']?http|<script|<link|@import""", page
    )  # nothing from the network
    assert "prefers-color-scheme: dark" in page
    assert 'id="effect_model.filters"' in page
    assert 'id="timeline"' in page
    assert "currentColor" in page
    assert "not drawn" not in page
    assert {path.stem for path in (tmp_path / "mlruns/reports/laid").glob("*.png")} == {
        "effect_model.filters",
        "timeline",
        "history",
        "trade_off",
    }


def test_a_study_of_many_parameters_calls_its_trials_by_number_and_draws_what_varies(
    tmp_path: Path,
) -> None:
    fixed = {f"+fixed_{place}": 1 for place in range(6)}
    lay_out(
        tmp_path,
        [
            ({**fixed, "model.filters": width}, [value])
            for width, value in (("4", 0.6), ("8", 0.61))
        ],
    )
    shown = say(tmp_path)
    assert re.search(r"^rank +trial +configuration +val_accuracy", shown.stdout)
    assert re.search(r"^2 +0 +… filters=4 +0\.6000 ", shown.stdout, re.MULTILINE)
    assert "trial 1 is ahead of trial 0 by 0.0100" in shown.stdout
    assert {path.stem for path in (tmp_path / "mlruns/reports/laid").glob("*.png")} == {
        "effect_model.filters",
        "timeline",
        "history",
        "trade_off",
    }


def test_with_one_replica_it_says_that_it_cannot_know(tmp_path: Path) -> None:
    lay_out(
        tmp_path,
        [
            ({"model.filters": width}, [value])
            for width, value in (("4", 0.6), ("8", 0.61), ("16", 0.65))
        ],
    )
    shown = say(tmp_path)
    assert "cannot be known whether that is luck" in shown.stdout
    assert re.search(
        r"If seeds spread results by 0\.01, \d+ replicas of each would tell", shown.stdout
    )
    assert shown.stdout.count("one replica") >= 3


def test_what_was_not_compared_is_not_said_to_be_worse(tmp_path: Path) -> None:
    jitter = np.random.default_rng(0).normal(0, 0.003, 5)
    lay_out(
        tmp_path,
        [
            ({"model.filters": "4"}, list(0.6 + jitter)),
            ({"model.filters": "8"}, list(0.7 + jitter)),
            ({"model.filters": "16"}, [0.7]),
        ],
    )
    shown = say(tmp_path).stdout
    assert re.search(r"^1 +(8|16) .*\n2 +(8|16) .* unknown ", shown, re.MULTILINE)
    lay_out(
        tmp_path,
        [({"model.filters": "4"}, list(0.6 + jitter)), ({"model.filters": "8"}, [0.7])],
        "alone",
    )
    assert (
        "cannot be known whether that is luck: filters=8 was trained with one seed."
        in say(tmp_path, "alone").stdout
    )
    lay_out(
        tmp_path,
        [({"model.filters": w}, list(v + jitter)) for w, v in (("4", 0.6), ("8", 0.7))]
        + [({"model.filters": "16"}, [0.65])],
        "some",
    )
    shown = say(tmp_path, "some").stdout
    assert (
        "filters=8 is the best of these 2, and that is not luck (95 %, Holm over 3 pairs).\n"
        in shown
    )
    assert "Nobody knows of filters=16, trained with one seed.\n" in shown


def test_trials_that_differ_in_their_seed_are_one_configuration(tmp_path: Path) -> None:
    outcomes = [
        ({"model.filters": w, "training.seed": s}, [v + s / 1000])
        for w, v in (("4", 0.5), ("8", 0.7))
        for s in range(3)
    ]
    found = find("laid", lay_out(tmp_path, outcomes))
    assert [one.params for one in found.configurations] == [
        {"model.filters": "8"},
        {"model.filters": "4"},
    ]
    assert found.configurations[0].values == {0: 0.7, 1: 0.701, 2: 0.702}
    assert found.configurations[0].confidence_interval is not None
    assert found.keys == ["model.filters"]


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ([], "No trial has finished"),
        (
            [({"a": "1"}, [0.5])],
            "One configuration finished: a=1, val_accuracy 0.5000 (with one replica, nobody knows",
        ),
        (
            [({"a": "1"}, [0.5, 0.52, 0.51])],
            "One configuration finished: a=1, val_accuracy 0.5100 (0.4852 to 0.5348 at 95 %)",
        ),
        ([({"a": "1"}, [0.5]), ({"a": "2"}, [0.6])], "a=2 is ahead of a=1 by 0.1000"),
        (
            [
                ({"a": "1"}, "diverged: loss nan, val_loss nan"),
                ({"a": "2"}, "<b>worker killed</b>"),
            ],
            "No trial has finished",
        ),
        (
            [({"a": "1"}, "diverged: loss nan, val_loss nan"), ({"a": "2"}, [0.6, 0.6])],
            "One configuration finished: a=2",
        ),
    ],
)
def test_studies_with_few_trials_or_only_failures(tmp_path: Path, outcomes: Any, said: str) -> None:
    lay_out(tmp_path, outcomes)
    shown = say(tmp_path, "laid")
    assert shown.returncode == 0, shown.stderr
    assert said in shown.stdout
    page = (tmp_path / "mlruns/reports/laid/report.html").read_text()
    assert ("diverged: loss nan" in page) == any(
        "diverged" in str(values) for _, values in outcomes
    )
    assert "<b>worker" not in page
    assert "not drawn" not in page


def test_what_was_pruned_when(tmp_path: Path) -> None:
    """A real study with a pruner, of a task that is not ours."""
    app = tmp_path / "app.py"
    app.write_text(PRUNED_APP)
    command = [
        sys.executable,
        "app.py",
        "-m",
        "hydra/sweeper=study",
        "hydra/launcher=workers",
        "hydra/sweeper/pruner=median",
    ]
    command += [
        "hydra.sweeper.metric=y",
        "hydra.sweeper.pruner.n_startup_trials=1",
        "hydra.launcher.n_workers=1",
        "+x=3,2,1,0",
    ]
    swept = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert swept.returncode == 0, swept.stderr
    shown = say(tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert len(re.findall(r" PRUNED after epoch 1 of 3 by median", shown.stdout)) == 3
    page = (
        tmp_path
        / "mlruns/reports"
        / find(None, open_storage(f"sqlite:///{tmp_path}/mlruns/studies.db")).name
        / "report.html"
    ).read_text()
    assert 'id="pruning"' in page
    assert "not drawn" not in page


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    """A task of the user's own may return NaN: the trial finished, but has no value."""
    storage = lay_out(tmp_path, [({"a": "1"}, [0.5]), ({"a": "2"}, "")])
    (finished, lost) = find("laid", storage).configurations
    assert finished.value == 0.5
    assert lost.value is None
    assert say(tmp_path).returncode == 0


def test_a_study_of_500_trials_in_ten_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    outcomes = [
        ({"a": str(a), "b": str(b), "c": str(c)}, list(0.5 + a / 100 + rng.normal(0, 0.01, 3)))
        for a in range(10)
        for b in range(10)
        for c in range(5)
    ]
    lay_out(tmp_path, outcomes)
    shown = say(tmp_path)
    assert shown.returncode == 0, shown.stderr
    page = (tmp_path / "mlruns/reports/laid/report.html").read_text()
    assert page.count("<tr>") >= 500
    assert {'id="importance"', 'id="parallel_coordinates"'} <= set(re.findall(r'id="\w+"', page))
    assert "not drawn" not in page


def test_what_is_not_there_is_said_on_one_line(tmp_path: Path) -> None:
    shown = say(tmp_path)
    assert shown.returncode == 2
    assert shown.stderr.startswith("error: mlruns/studies.db is not here")
    lay_out(tmp_path, [])
    shown = say(tmp_path, "other")
    assert shown.returncode == 2
    assert shown.stderr == "error: there is no study other; there are: laid\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def swept(folder: Path, small: list[str]) -> str:
    """A real sweep of two configurations with three replicas, and one that diverges; what its
    report said."""
    overrides = [
        *small,
        "training.replicas=3",
        "training.epochs=3",
        "model.filters=2,6",
        "hydra.sweeper.study_name=real",
    ]
    swept = run_in(folder, "-m", *overrides)
    assert swept.returncode == 0, swept.stderr
    assert "report: python -m cifar_hpo.report real\n" in swept.stdout
    shown = say(folder)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def test_a_sweep_s_report_has_everything_and_lies_in_mlflow(swept: str, folder: Path) -> None:
    import mlflow

    page = (folder / "mlruns/reports/real/report.html").read_text()
    assert "not drawn" not in page
    pictures = {path.stem for path in (folder / "mlruns/reports/real").glob("*.png")}
    assert {
        "learning_curves",
        "effect_model.filters",
        "trade_off",
        "history",
        "timeline",
        "confusion_matrix",
        "per_class",
    } <= pictures
    assert "misclassified" in pictures
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (parent,) = client.search_runs(
        [one.experiment_id for one in client.search_experiments()], "tags.kind = 'study'"
    )
    assert {f"report/{name}.png" for name in pictures} | {"report/report.html"} == {
        item.path for item in client.list_artifacts(parent.info.run_id, "report")
    }
    note = parent.data.tags["mlflow.note.content"]
    assert "| rank | model.filters | val_accuracy | 95 % | against the best |" in note
    assert re.search(r"replicas of each|is not luck", note)


def test_an_interval_is_over_the_replicas_that_mlflow_has(swept: str, folder: Path) -> None:
    from cifar_hpo.tracking.reader import Records

    found = find("real", open_storage(f"sqlite:///{folder}/mlruns/studies.db"))
    assert len(found.finished) == 2
    for one in found.finished:
        curves = Records(f"sqlite:///{folder}/mlflow.db").curves(one.told.run_id, "val_accuracy")
        assert {replica: points[-1][1] for replica, points in curves.items()} == pytest.approx(
            one.values
        )
        assert [epoch for epoch, _ in curves[0]] == [1, 2, 3]


def test_watch_follows_until_interrupted(swept: str, folder: Path) -> None:
    terminal, theirs = pty.openpty()
    watching = subprocess.Popen(
        [sys.executable, "-m", "cifar_hpo.report", "--watch"],
        cwd=folder,
        env=clean() | {"COLUMNS": "150"},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = ""
    while "against the best" not in shown:
        shown += os.read(terminal, 4096).decode(errors="replace")
    time.sleep(3)
    watching.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # its end of the terminal is closed
        while os.read(terminal, 4096):
            pass
    os.close(terminal)
    assert watching.wait(20) == 0
    assert "study real: 2 trials done" in shown


def test_prediction_by_the_champion_and_by_a_run(swept: str, folder: Path, npz: Path) -> None:
    from PIL import Image

    with np.load(npz) as arrays:
        Image.fromarray(arrays["x_test"][0]).resize((64, 64)).save(folder / "one.png")

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_in(folder, *arguments, module="cifar_hpo.predict")

    shown = ask("one.png")
    assert shown.returncode == 0, shown.stderr
    assert "cifar_hpo-small version 1, champion" in shown.stdout
    assert re.search(r"one\.png +\w+ 0\.\d{3} +\w+ 0\.\d{3} +\w+ 0\.\d{3}", shown.stdout)
    assert ask("two.png").stderr == "error: two.png does not exist\n"
    found = find("real", open_storage(f"sqlite:///{folder}/mlruns/studies.db"))
    assert (
        "filters=2"
        in ask(
            "one.png",
            "--run",
            next(
                one.told.run_id for one in found.finished if str(one.params["model.filters"]) == "2"
            ),
        ).stdout
    )
    assert ask("one.png", "--run", "nothing").stderr == "error: there is no run nothing\n"


def test_the_model_serves_and_takes_raw_images(swept: str, folder: Path, npz: Path) -> None:
    import socket
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        "models:/cifar_hpo-small@champion",
        "--env-manager",
        "local",
        "-p",
        str(port),
    ]
    # As in an activated environment:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = clean() | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "PATH": path}
    server = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with np.load(npz) as arrays:
            content = json.dumps({"inputs": arrays["x_test"][:2].tolist()}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", content, {"Content-Type": "application/json"}
        )
        until = time.monotonic() + 90
        while True:
            try:
                answer = json.load(urllib.request.urlopen(request, timeout=10))
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.5)
        assert np.array(answer["predictions"]).shape == (2, 10)
        assert np.sum(answer["predictions"], axis=1) == pytest.approx([1, 1], abs=1e-3)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


@pytest.mark.parametrize("module", ["cifar_hpo.studies", "cifar_hpo.report"])
def test_a_list_of_words_is_shown_as_it_is(tmp_path: Path, module: str) -> None:
    lay_out(tmp_path, [({"data.augment": "[flip,shift]"}, [0.5]), ({"data.augment": "[]"}, [0.4])])
    shown = run_in(
        tmp_path, *(["show"] if module == "cifar_hpo.studies" else []), "laid", module=module
    )
    assert shown.returncode == 0, shown.stderr
    (row,) = re.findall(r"^1 .*", shown.stdout, re.MULTILINE)
    assert "[flip,shift]" in row
