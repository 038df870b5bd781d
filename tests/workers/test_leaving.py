"""A task function that leaves its results on disk, and asks the pruner where nobody else does."""

from __future__ import annotations

from typing import Any

import pytest

from cifar_hpo import trial
from cifar_hpo.trial import Context, Progress, Pruned
from cifar_hpo.workers.leaving import pruned_by_storage


def test_the_pruner_is_asked_through_the_storage_where_nobody_else_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Any, ...]] = []

    def pruner_for(*given: Any) -> Any:
        asked.append(given)
        return lambda _: True

    monkeypatch.setattr("cifar_hpo.study.pruners.pruner_for", pruner_for)
    pruner = {"name": "median"}
    context = Context("s", pruner=pruner, storage="sqlite:///x.db")
    monkeypatch.setenv(trial.CONTEXT, context.to_environment()[trial.CONTEXT])
    with pruned_by_storage(context, 4), pytest.raises(Pruned, match="after epoch 1 of 2 by median"):
        trial.report(Progress(1, 2, 0.5))
    assert asked == [("sqlite:///x.db", "s", 4, pruner)]
    assert not trial.has_reporter()


def test_a_worker_that_reports_to_its_parent_goes_on_doing_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[Progress] = []

    def hear(progress: Progress) -> bool:
        heard.append(progress)
        return False

    trial.set_reporter(hear)
    try:
        with pruned_by_storage(Context("s", pruner={"name": "median"}), 4):
            trial.report(Progress(1, 2, 0.5))
    finally:
        trial.set_reporter(None)
    assert heard == [Progress(1, 2, 0.5)]
