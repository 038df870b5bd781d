"""All of Optuna that its documentation does not promise: calls of its storages and their contents.

Each function is a single step on a storage, a study or a trial. tests/study/test_optuna.py has a
test for each, which fails where a new Optuna does that step differently.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.storages._rdb.models import TrialModel, TrialUserAttributeModel
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState

from cifar_hpo.study.space import Value

RDB_FOLDER = Path(sys.modules[RDBStorage.__module__].__file__ or "").parent
"""Where Optuna's code lies that reads a database."""

NOTE_VERSION = "dashboard:note_ver"
NOTE_PART = "dashboard:note_str:{place}"
MAX_NOTE_PART = 2045
"""A study's note as optuna-dashboard's `save_note` keeps it, in parts of so many characters."""

optuna.logging.set_verbosity(optuna.logging.ERROR)


def connect(
    url: str, engine_options: dict[str, Any], lease: tuple[int, int] | None = None
) -> BaseStorage:
    """A database's storage; raises what SQLAlchemy or the database's driver raise.

    lease: after how many seconds a lease of a trial is renewed, and after how many it expires; None
    where nobody asks.
    """
    renewal, expiry = lease or (None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return RDBStorage(
            url, engine_kwargs=engine_options, heartbeat_interval=renewal, grace_period=expiry
        )


def renew_lease(storage: BaseStorage, trial_id: int) -> None:
    """Let a trial's lease begin anew, by the database's clock."""
    assert isinstance(storage, RDBStorage)
    storage.record_heartbeat(trial_id)


def expired_leases(storage: BaseStorage, study: str) -> set[int]:
    """The numbers of running trials whose lease has expired, by the database's clock."""
    assert isinstance(storage, RDBStorage)
    stale = storage._get_stale_trial_ids(storage.get_study_id_from_name(study))  # noqa: SLF001
    return {storage.get_trial(trial_id).number for trial_id in stale}


def changed_trials(
    storage: BaseStorage, study: str, unfinished: set[int], last: int
) -> dict[int, FrozenTrial]:
    """A study's trials by id: those that were unfinished, and those that are new.

    unfinished: ids. last: the highest id that is known, -1 for none.
    """
    assert isinstance(storage, RDBStorage)
    study_id = storage.get_study_id_from_name(study)
    trials = storage._get_trials(study_id, None, unfinished, last)  # noqa: SLF001
    return {trial._trial_id: trial for trial in trials}  # noqa: SLF001


def states(
    storage: BaseStorage, trial_ids: set[int], attribute: str
) -> dict[int, tuple[TrialState, Any]]:
    """The state of trials and one of their users' attributes, None where they have it not.

    Read without all else that trials have, which takes a millisecond for each.
    """
    assert isinstance(storage, RDBStorage)
    of_trial = TrialUserAttributeModel.trial_id == TrialModel.trial_id
    is_wanted = TrialUserAttributeModel.key == attribute
    columns = (TrialModel.trial_id, TrialModel.state, TrialUserAttributeModel.value_json)
    found: dict[int, tuple[TrialState, Any]] = {}
    if not trial_ids:
        return found
    with _create_scoped_session(storage.scoped_session) as session:
        query = session.query(*columns).outerjoin(
            TrialUserAttributeModel, sqlalchemy.and_(of_trial, is_wanted)
        )
        for trial_id, state, value in query.filter(TrialModel.trial_id.in_(trial_ids)):
            found[trial_id] = (state, None if value is None else json.loads(value))
    return found


def id_of(trial: optuna.Trial | FrozenTrial) -> int:
    """The storage's own id of a trial."""
    return trial._trial_id  # noqa: SLF001


def disconnect(storage: BaseStorage) -> None:
    """Close the connections of a database's storage; whoever uses it again opens others."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


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


def ask(study: optuna.Study, storage: BaseStorage, *, but: str) -> optuna.Trial:
    """A trial that the sampler fills in as it is asked for parameters: one that waits, else a new
    one. but: the attribute of those that wait for something else."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    others = [trial for trial in waiting if not trial.user_attrs.get(but)]
    if len(others) < len(waiting):  # of which Optuna would take any
        # As it does, so that the sampler sees all trials.
        study._thread_local.cached_all_trials = None  # noqa: SLF001
        if others:
            set_state(storage, study.study_name, others[0].number, TrialState.RUNNING)
            return open_trial(study, storage, others[0].number)
        new = storage.create_new_trial(storage.get_study_id_from_name(study.study_name))
        study.get_trials(deepcopy=False)  # its own cache of the storage knows the trial from here
        return optuna.Trial(study, new)
    with warnings.catch_warnings():
        # Leases are renewed by whoever runs the trial, as `Study.optimize` would.
        warnings.filterwarnings("ignore", message="Heartbeat of storage", category=UserWarning)
        return study.ask()


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


def set_metric_names(study: optuna.Study, names: Sequence[str]) -> None:
    """Let a study's values have names, which dashboards and data frames show."""
    if study.metric_names != list(names):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(names))


def set_user_attributes(
    storage: BaseStorage, trial: optuna.Trial, attributes: Mapping[str, Any]
) -> None:
    """Note several of an unfinished trial's attributes; in a database in one transaction and one
    insertion, since each takes a disk or a network some milliseconds."""
    number = id_of(trial)
    if not isinstance(storage, RDBStorage):
        for key, value in attributes.items():
            storage.set_trial_user_attr(number, key, value)
        return
    with _create_scoped_session(storage.scoped_session, True) as session:
        trial_model: Any = TrialModel.find_or_raise_by_id(number, session)
        storage.check_trial_is_updatable(number, trial_model.state)
        noted: list[Any] = TrialUserAttributeModel.where_trial_id(number, session)
        known = {attribute.key: attribute for attribute in noted}
        for key, value in attributes.items():
            text = json.dumps(value)
            if key in known:
                known[key].value_json = text
            else:
                new = TrialUserAttributeModel(trial_id=number, key=key, value_json=text)
                session.add(new)


def note(storage: BaseStorage, study: str) -> str:
    """A study's note in optuna-dashboard, Markdown; empty where it has none."""
    attributes = storage.get_study_system_attrs(storage.get_study_id_from_name(study))
    parts: list[str] = []
    while NOTE_PART.format(place=len(parts)) in attributes:
        parts.append(attributes[NOTE_PART.format(place=len(parts))])
    return "".join(parts)


def set_note(storage: BaseStorage, study: str, text: str) -> None:
    """Give a study a note; parts of a longer one before are emptied."""
    study_id = storage.get_study_id_from_name(study)
    attributes = storage.get_study_system_attrs(study_id)
    storage.set_study_system_attr(study_id, NOTE_VERSION, attributes.get(NOTE_VERSION, 0) + 1)
    place = 0
    while text or NOTE_PART.format(place=place) in attributes:
        part, text = text[:MAX_NOTE_PART], text[MAX_NOTE_PART:]
        storage.set_study_system_attr(study_id, NOTE_PART.format(place=place), part)
        place += 1
