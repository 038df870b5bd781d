"""Optuna's pruners by their names here, with Optuna's own options and defaults.

`should_prune` asks one, `pruner_for` gives one to a trial that runs outside of our workers.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.pruners import BasePruner

from cifar_hpo.study import _optuna
from cifar_hpo.study.samplers import given_options
from cifar_hpo.study.storage import open_storage
from cifar_hpo.trial import PAUSING, Progress

PRUNERS: Mapping[str, type[BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "asha": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "patient": optuna.pruners.PatientPruner,
    "promotion": optuna.pruners.NopPruner,
    "first": optuna.pruners.NopPruner,
}
"""Of those that let trials pause Optuna knows nothing: `study.rungs` has them."""


def pruner(options: Mapping[str, Any]) -> BasePruner:
    """The pruner of that name; `patient` alone stops a trial that stands still."""
    given = given_options(options)
    if options["name"] == "patient":
        given["wrapped_pruner"] = None
    if options["name"] in PAUSING:
        given = {}
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        return PRUNERS[options["name"]](**given)


def should_prune(trial: optuna.Trial, progress: Progress) -> bool:
    """Note a trial's value after an epoch, and ask the pruner; a trial that has no value yet or is
    at its end goes on. Of an epoch that an earlier attempt came to, its value stays."""
    if progress.value is None:
        return False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The reported value is ignored")
        trial.report(progress.value, progress.epoch)
    return progress.epoch < progress.epochs and trial.should_prune()


def pruner_for(
    url: str, study: str, number: int, options: Mapping[str, Any]
) -> Callable[[Progress], bool]:
    """For a trial outside of our workers: says to the storage itself how it goes, and asks the
    pruner.

    url: the study's storage. options: of the pruner. Raises StudyError when the storage can't be
    opened, KeyError where it has no such study or trial.
    """
    storage = open_storage(url)
    loaded = optuna.load_study(study_name=study, storage=storage, pruner=pruner(options))
    return functools.partial(should_prune, _optuna.open_trial(loaded, storage, number))
