"""What a task may call while it runs: `cifar_hpo.report` and `cifar_hpo.folder`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cifar_hpo
from cifar_hpo import reporting, trial
from cifar_hpo.trial import Context, Progress


class Log:
    run_id = "run"

    def __init__(self) -> None:
        self.logged: list[tuple[int, Mapping[str, float]]] = []

    def log_metrics(self, epochs: int, metrics: Mapping[str, float]) -> None:
        self.logged.append((epochs, metrics))


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Progress]]:
    """The progress of a trial of a study by `score`, which is its second attempt; ended at 3."""
    context = Context(study="s", metric="score", attempt=1, pruner={"name": "asha"})
    monkeypatch.setenv(trial.CONTEXT, context.to_environment()[trial.CONTEXT])
    heard: list[Progress] = []

    def hear(progress: Progress) -> bool:
        heard.append(progress)
        return progress.epoch == 3

    trial.set_reporter(hear)
    yield heard
    trial.set_reporter(None)
    reporting.begin()


def test_progress_is_heard_and_logged_and_a_trial_that_is_ended_raises(
    heard: list[Progress],
) -> None:
    log = Log()
    reporting.begin(log)
    cifar_hpo.report(2, 10, np.float32(0.5), loss=np.array(1.5))  # type: ignore[arg-type]
    assert heard == [Progress(2, 10, 0.5, "run", restored=1)]
    assert log.logged == [(2, {"loss": 1.5, "score": 0.5})]
    with pytest.raises(cifar_hpo.Pruned, match=r"after epoch 3 of 10 by asha, at 0\.2500"):
        cifar_hpo.report(3, 10, 0.25)


def test_outside_of_a_study_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(trial.CONTEXT, raising=False)
    monkeypatch.chdir(tmp_path)
    cifar_hpo.report(1, 10, 0.5, loss=1)
    assert cifar_hpo.folder() == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("epoch", "value", "metrics", "error"),
    [
        (0, 0.5, {}, ValueError),
        (11, 0.5, {}, ValueError),
        (1, "0.5", {}, TypeError),
        (1, None, {}, TypeError),
        (1, 0.5, {"loss": [1.0]}, TypeError),
        (1, np.zeros(2), {}, TypeError),
    ],
)
def test_what_is_no_progress_is_told(
    epoch: int, value: Any, metrics: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        cifar_hpo.report(epoch, 10, value, **metrics)


def test_the_report_of_a_study_which_has_the_same_name_can_be_called_too(
    heard: list[Progress],
) -> None:
    module: Any = importlib.import_module("cifar_hpo.report")
    module(1, 10, 0.5)
    assert [progress.epoch for progress in heard] == [1]
