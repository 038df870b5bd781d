"""Pruners: each of them stops what will not win; no training, real SQLite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from support import finished, study_options

from cifar_hpo.config import sweep as schema
from cifar_hpo.study.pruners import pruner_for, should_prune
from cifar_hpo.study.space import Space
from cifar_hpo.study.study import Study
from cifar_hpo.trial import PRUNED, Progress, TrialResult, TrialSpec


@pytest.mark.parametrize(
    ("pruner", "given"),
    [
        ("median", {"n_startup_trials": 2}),
        ("asha", {"min_resource": 1}),
        ("hyperband", {"max_resource": 8}),
        ("patient", {"patience": 1}),
    ],
)
def test_every_pruner_stops_the_bad_and_lets_the_good_end(
    pruner: str, given: dict[str, Any], space: Callable[..., Space]
) -> None:
    chosen = vars(schema.PRUNER_SCHEMAS[pruner](name=pruner)) | given
    epochs: dict[int, int] = {}

    def objective(study: Study, spec: TrialSpec) -> TrialResult:
        quality = int(spec.params["+x"])
        for epoch in range(1, 9):
            value = quality * (epoch if pruner != "patient" or quality > 5 else 9 - epoch)
            epochs[quality] = epoch
            if study.should_prune(spec, Progress(epoch, 8, float(value))):
                return TrialResult(PRUNED)
        return finished(float(quality))

    with Study.open("s", space("+x=9,8,7,2,1,3,0,4"), study_options(pruner=chosen), {}) as study:
        for spec in study.specs():
            assert spec
            study.tell(spec, objective(study, spec))
        ranking = study.ranking()
    assert ranking[0].params == {"+x": 9}
    assert epochs[9] == 8
    assert sum(epochs.values()) < 8 * 8


def test_a_trial_without_a_value_yet_or_at_its_end_goes_on() -> None:
    pruner = optuna.pruners.ThresholdPruner(lower=0.5)
    trial = optuna.create_study(direction="maximize", pruner=pruner).ask()
    assert not should_prune(trial, Progress(0, 3))
    assert should_prune(trial, Progress(1, 3, 0.1))
    assert not should_prune(trial, Progress(3, 3, 0.1))


def test_a_trial_elsewhere_asks_through_the_storage(
    tmp_path: Path, space: Callable[..., Space]
) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    options: dict[str, Any] = {"name": "patient", "patience": 0}
    given = study_options(pruner=options, storage=url)
    with Study.open("s", space("+x=1,2"), given, {}) as study:
        spec = next(study.specs())
        assert spec
        ask = pruner_for(url, "s", spec.number, options)
        assert not ask(Progress(1, 9, 0.5))
        assert ask(Progress(2, 9, 0.1))
        assert not ask(Progress(3, 9, 0.6))
    (trial, *_) = optuna.load_study(study_name="s", storage=url).trials
    assert trial.intermediate_values == {1: 0.5, 2: 0.1, 3: 0.6}
