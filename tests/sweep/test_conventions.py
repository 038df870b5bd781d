"""Sweeps as experts of Hydra and Optuna begin them: experiments, listed cells, callbacks, logs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from support import STUB_SWEEP, run_command

from cifar_hpo.study.ranking import OUTCOME
from cifar_hpo.study.storage import load_study, open_storage

APP = """
import logging
from pathlib import Path

import hydra
from cifar_hpo.trial import FINISHED, TrialResult

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def task(config):
    logging.getLogger("app").info("at work")
    if config.model.size == 0:
        raise ValueError("no size")
    value = config.model.size + config.lr
    metrics = {"y": value, "cost": 2 * value, "cost_std": 0.1, "replica_0/cost": 2.0}
    return TrialResult(FINISHED, metrics, seconds=0.1)

if __name__ == "__main__":
    task()
"""

CONFIGS = {
    "conf/config.yaml": "defaults: [model: small, _self_]\nlr: 0.5\n",
    "conf/model/small.yaml": "size: 1\n",
    "conf/model/large.yaml": "size: 4\n",
    "more/experiment/a.yaml": "# @package _global_\nlr: 0.1\n",
    "more/experiment/b.yaml": (
        "# @package _global_\ndefaults: [override /model: large, _self_]\nlr: 0.2\n"
    ),
    "more/experiment/c.yaml": "# @package _global_\nlr: 0.3\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An app with configs of its own, and experiments beside them."""
    (tmp_path / "app.py").write_text(APP)
    for name, text in CONFIGS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(folder, [sys.executable, *STUB_SWEEP, *arguments])


def stored(folder: Path) -> optuna.Study:
    return load_study(open_storage(f"sqlite:///{folder}/mlruns/studies.db"), "s")


def tried(folder: Path) -> dict[str, float]:
    """The value of each trial by what varied."""
    values = {}
    for trial in stored(folder).get_trials():
        params = " ".join(f"{key}={value}" for key, value in trial.params.items())
        values[params] = round(trial.values[0], 6)
    return values


def test_experiments_are_swept_resumed_and_held_to_what_they_were(folder: Path) -> None:
    here = "hydra.searchpath=[file://more]"
    shown = sweep(folder, here, "+experiment=a,b", "hydra.sweeper.constraints=['lr < 0.25']")
    assert shown.returncode == 0, shown.stderr
    assert tried(folder) == {"+experiment=a": 1.1, "+experiment=b": 4.2}
    more = (here, "+experiment=b,c,a", "hydra.sweeper.constraints=['lr < 0.25']")
    shown = sweep(folder, *more)
    assert "2 trials, 2 done before" in shown.stdout, "c breaks the constraint"
    (folder / "more/experiment/b.yaml").write_text("# @package _global_\nlr: 0.02\n")
    shown = sweep(folder, *more)
    assert shown.returncode != 0
    assert "choices.+experiment.b.lr 0.2 → 0.02" in shown.stderr
    assert "choices.+experiment.b.model.size 4 → None" in shown.stderr


def test_listed_cells_are_tried_with_what_is_swept_and_may_become_more(folder: Path) -> None:
    cells = "{},{model: large},{model: large, lr: 1}"
    swept = ("+x=1,2", "hydra.sweeper.order=given")
    shown = sweep(folder, f"hydra.sweeper.cells=[{cells}]", *swept)
    assert shown.returncode == 0, shown.stderr
    assert list(tried(folder).items()) == [
        ("+x=1", 1.5),
        ("+x=2", 1.5),
        ("model=large +x=1", 4.5),
        ("model=large +x=2", 4.5),
        ("model=large lr=1 +x=1", 5.0),
        ("model=large lr=1 +x=2", 5.0),
    ]
    shown = sweep(folder, f"hydra.sweeper.cells=[{{+z: 3}},{cells}]", *swept)
    assert "8 trials, 6 done before" in shown.stdout
    assert tried(folder)["+z=3 +x=2"] == 1.5


def test_a_grid_cut_short_is_drawn_at_random_and_dashboards_know_names_and_metrics(
    folder: Path,
) -> None:
    options = ("hydra/sweeper/sampler=grid", "hydra.sweeper.n_trials=3")
    shown = sweep(folder, "model.size=range(1,100)", *options)
    assert shown.returncode == 0, shown.stderr
    drawn = "3 trials, drawn at random from 99 configurations (hydra.sweeper.sampler.seed=0)"
    assert drawn in shown.stdout
    study = stored(folder)
    sizes = [trial.params["model.size"] for trial in study.get_trials()]
    assert len(sizes) == 3
    assert sizes == sorted(sizes), "no costs are known, so as they are given"
    assert sizes != [1, 2, 3], "not the first"
    assert study.metric_names == ["y"]
    best = study.best_trial
    assert best.user_attrs.keys() == {OUTCOME, "cost"}
    assert best.user_attrs["cost"] == 2 * best.values[0]
    dashboard = pytest.importorskip("optuna_dashboard")
    note = dashboard.get_note(study)
    assert "| 1 " in note
    assert "`python -m cifar_hpo.report s`" in note


def test_where_configurations_have_several_seeds_the_dashboard_has_the_verdict(
    folder: Path,
) -> None:
    shown = sweep(folder, "model.size=1,2,4", "+seed=0,1")
    assert shown.returncode == 0, shown.stderr
    dashboard = pytest.importorskip("optuna_dashboard")
    note = dashboard.get_note(stored(folder))
    assert "| 1 " in note
    assert "\n\nsize=4 is the best of these 3, and that is not luck" in note


CALLBACK = """
import os
from hydra.experimental.callback import Callback

class Note(Callback):
    def __init__(self, file):
        self.file = os.path.abspath(file)

    def on_multirun_start(self, config, **_):
        self.note("multirun_start")

    def on_multirun_end(self, config, **_):
        self.note("multirun_end")

    def on_job_start(self, config, **_):
        self.note(f"job_start {config.hydra.job.num}")

    def on_job_end(self, config, job_return, **_):
        self.note(f"job_end {job_return.status.name}")

    def note(self, what):
        with open(self.file, "a") as file:
            file.write(f"{what} {os.getpid()}\\n")

class Locked(Note):
    def __init__(self, file):
        super().__init__(file)
        self.open = open(self.file, "a")
"""


def test_callbacks_are_called_here_and_in_the_workers(folder: Path) -> None:
    (folder / "callbacks.py").write_text(CALLBACK)
    note = "+hydra.callbacks.note={_target_: callbacks.Note, file: seen}"
    shown = sweep(folder, note, "model.size=1,0")
    assert shown.returncode == 1, "one failed"
    lines = [line.rpartition(" ") for line in (folder / "seen").read_text().splitlines()]
    assert [what for what, _, _ in lines] == [
        "multirun_start",
        "job_start 0",
        "job_end COMPLETED",
        "job_start 1",
        "job_end FAILED",
        "multirun_end",
    ]
    processes = [process for _, _, process in lines]
    assert processes[0] == processes[5] != processes[1] == processes[2]
    (folder / "seen").unlink()
    shown = sweep(folder, note.replace("Note", "Locked"), "model.size=2,3")
    assert shown.returncode != 0
    assert "hydra.callbacks: can't be sent to workers (" in shown.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_colorlog") is None,
    reason="hydra-colorlog is not installed",
)
def test_the_logs_of_jobs_are_coloured_where_the_plugin_is_installed(folder: Path) -> None:
    colours = ("hydra/job_logging=colorlog", "hydra/hydra_logging=colorlog")
    shown = sweep(folder, *colours, "model.size=1,2")
    assert shown.returncode == 0, shown.stderr
    (log,) = folder.glob("**/worker_0.log")
    assert "\x1b[34mapp\x1b[0m" in log.read_text()
