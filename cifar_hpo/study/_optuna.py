"""All of Optuna that its documentation does not promise: calls of its storages and their contents.

Each function is a single step on a storage, a study or a trial. tests/study/test_optuna.py has a
test for each, which fails where a new Optuna does that step differently.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.storages._rdb.models import TrialModel
from optuna.trial import FrozenTrial, TrialState

from cifar_hpo.study.space import Value

RDB_FOLDER = Path(sys.modules[RDBStorage.__module__].__file__ or "").parent
"""Where Optuna's code lies that reads a database."""

optuna.logging.set_verbosity(optuna.logging.ERROR)


def connect(url: str, engine_options: dict[str, Any]) -> BaseStorage:
    """A database's storage; raises what SQLAlchemy or the database's driver raise."""
    return RDBStorage(url, engine_kwargs=engine_options)


def create_tables(url: str) -> None:
    """Make a database that has Optuna's tables and no study."""
    storage = RDBStorage(url)
    storage.engine.dispose()


def is_of_storage(error: BaseException) -> bool:
    """Whether it was raised while a database's content was read: of a damaged one Optuna finds
    texts that are no JSON, or states that there are not."""
    is_content = isinstance(error, json.JSONDecodeError | UnicodeDecodeError | LookupError)
    is_schema = isinstance(error, RuntimeError) and "table schema" in str(error)
    if not is_content and not is_schema:
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).parent == RDB_FOLDER for frame in frames)


def memory() -> BaseStorage:
    """A storage that ends with this process."""
    return InMemoryStorage()


def url_of(storage: BaseStorage) -> str | None:
    """The URL with which a storage was opened; None for one in memory."""
    return storage.url if isinstance(storage, RDBStorage) else None


def count_trials(storage: BaseStorage, study: str) -> int:
    """How many trials a study has, in whichever state; of a database, which would read them all to
    count them, its own count."""
    study_id = storage.get_study_id_from_name(study)
    if not isinstance(storage, RDBStorage):
        return storage.get_n_trials(study_id)
    with storage.scoped_session() as session:
        count: int = session.query(TrialModel).filter(TrialModel.study_id == study_id).count()
    return count


def last_start(storage: BaseStorage, study: str) -> float:
    """When a study's last trial began, in seconds since 1970; 0 where it has none.

    Read without all the others, of which a storage may hold many thousands.
    """
    count = count_trials(storage, study)
    if not count:
        return 0.0
    start = storage.get_trial(trial_id(storage, study, count - 1)).datetime_start
    return start.timestamp() if start else 0.0


def trial_id(storage: BaseStorage, study: str, number: int) -> int:
    """The storage's own id of a trial."""
    study_id = storage.get_study_id_from_name(study)
    return storage.get_trial_id_from_study_id_trial_number(study_id, number)


def open_trial(study: optuna.Study, storage: BaseStorage, number: int) -> optuna.Trial:
    """A trial that is there already, to report values to and to ask whether to prune it."""
    return optuna.Trial(study, trial_id(storage, study.study_name, number))


def create_running_trial(
    study: optuna.Study,
    storage: BaseStorage,
    params: Mapping[str, Value],
    distributions: dict[str, BaseDistribution],
) -> optuna.Trial:
    """A new trial of a given configuration, in one transaction and past the sampler."""
    template = optuna.trial.create_trial(
        state=TrialState.RUNNING, params=dict(params), distributions=distributions
    )
    study_id = storage.get_study_id_from_name(study.study_name)
    return optuna.Trial(study, storage.create_new_trial(study_id, template))


def set_state(
    storage: BaseStorage,
    study: str,
    number: int,
    state: TrialState,
    values: Sequence[float] | None = None,
) -> None:
    """Change an unfinished trial's state, to WAITING as well, which `Study.tell` does not do.

    Raises UpdateFinishedTrialError for a finished trial.
    """
    storage.set_trial_state_values(trial_id(storage, study, number), state, values)


def is_enqueued(trial: FrozenTrial) -> bool:
    """Whether a trial was made by `Study.enqueue_trial`."""
    return "fixed_params" in trial.system_attrs


def copy_system_attributes(storage: BaseStorage, source: str, target: str) -> None:
    """Give a study what samplers noted of another one."""
    target_id = storage.get_study_id_from_name(target)
    attributes = storage.get_study_system_attrs(storage.get_study_id_from_name(source))
    for key, value in attributes.items():
        storage.set_study_system_attr(target_id, key, value)
