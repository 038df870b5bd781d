"""A study that goes on with more choices than it began with: its trials are copied, each with the
new choices.

Optuna holds the choices of a parameter with each of its trials, and refuses a trial with others
("CategoricalDistribution does not support dynamic value space"). Tried instead of copying:

- Places in a list of the study's own, as whole numbers: grows freely, but charts and dashboards
  show places where a reader wants `adam`, and samplers take the places for an order.
- Choices that no cell has yet, kept in reserve: samplers propose them.
- The new choices for new trials alone: Optuna's public calls refuse them; past these, samplers and
  charts find no search space that all trials share.
- An update of Optuna's tables: fast, but they are Optuna's.

Copying is Optuna's public API throughout. Trials keep their order and so their numbers, states,
values, dates and attributes. It takes some 0.05 s a trial with 20 reported values (SQLite, two busy
cores, November 2026), twice, and only when a grid gets a value that it did not have.

Optuna can't rename a study, so there are two copies: one aside, marked when it is complete, and
after the study was deleted one under its name. Whenever this is interrupted, the study or the
marked copy holds everything, and `restore` puts it back.
"""

from __future__ import annotations

from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage

from cifar_hpo.study import _optuna

COMPLETE = "copy_complete"
"""The attribute of a copy that holds everything."""


def extend_choices(
    storage: BaseStorage, study: str, distributions: Mapping[str, BaseDistribution]
) -> None:
    """Give these distributions to all trials of a study that have the parameters.

    distributions: by key, each with the choices of before at their old places. The study must be
    locked by this process; objects of Optuna that it has of this study are of no use afterwards.
    """
    copy = copy_name(study)
    _copy(storage, study, copy, {})
    optuna.load_study(study_name=copy, storage=storage).set_user_attr(COMPLETE, value=True)
    optuna.delete_study(study_name=study, storage=storage)
    _copy(storage, copy, study, distributions)
    optuna.delete_study(study_name=copy, storage=storage)


def restore(storage: BaseStorage, study: str) -> None:
    """Undo what an interrupted `extend_choices` did; the study must be locked by this process."""
    names = optuna.get_all_study_names(storage)
    copy = copy_name(study)
    if copy not in names:
        return
    attributes = optuna.load_study(study_name=copy, storage=storage).user_attrs
    if attributes.get(COMPLETE):
        if study in names:
            optuna.delete_study(study_name=study, storage=storage)
        _copy(storage, copy, study, {})
    optuna.delete_study(study_name=copy, storage=storage)


def copy_name(study: str) -> str:
    """No study of a user's has such a name, since names have no spaces."""
    return f"{study} (copy)"


def _copy(
    storage: BaseStorage,
    source: str,
    target: str,
    distributions: Mapping[str, BaseDistribution],
) -> None:
    """A new study with all attributes and trials of another one, the mark of a copy excepted."""
    original = optuna.load_study(study_name=source, storage=storage)
    copied = optuna.create_study(study_name=target, storage=storage, directions=original.directions)
    _optuna.copy_system_attributes(storage, source, target)
    for key, value in original.user_attrs.items():
        if key != COMPLETE:
            copied.set_user_attr(key, value)
    for trial in original.get_trials():
        for key in trial.params:
            if key in distributions:
                trial.distributions[key] = distributions[key]
        copied.add_trial(trial)
