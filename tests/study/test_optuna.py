"""What study/_optuna.py expects of Optuna beyond its documentation.

A failure here says what a new version of Optuna changed; study/_optuna.py is the file to mend.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from cifar_hpo.study import _optuna

RELU: dict[str, BaseDistribution] = {"+x": CategoricalDistribution(["relu", "elu"])}


@contextlib.contextmanager
def expects(what: str) -> Iterator[None]:
    """Fail with a sentence that says what Optuna does not do any more."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  whatever it is, Optuna changed
        version = optuna.__version__
        pytest.fail(f"Optuna {version}: {what} ({error!r}); mend study/_optuna.py", pytrace=False)


@pytest.fixture(params=["sqlite:///studies.db", "memory"])
def storage(request: pytest.FixtureRequest) -> BaseStorage:
    with expects("RDBStorage takes a URL and engine_kwargs, InMemoryStorage nothing"):
        if request.param == "memory":
            return _optuna.memory()
        return _optuna.connect(request.param, {"connect_args": {"timeout": 60}})


@pytest.fixture
def study(storage: BaseStorage) -> optuna.Study:
    """With three trials of +x: the first finished, the second and the third running."""
    study = optuna.create_study(study_name="s", storage=storage)
    study.add_trial(optuna.trial.create_trial(params={"+x": "relu"}, distributions=RELU, value=1.0))
    _optuna.create_running_trial(study, storage, {"+x": "elu"}, RELU)
    study.ask(RELU)
    return study


def test_a_storage_knows_the_url_that_opened_it() -> None:
    with expects("RDBStorage.url is the URL that it was opened with"):
        storage = _optuna.connect("sqlite:///studies.db", {})
        assert _optuna.url_of(storage) == "sqlite:///studies.db"
        assert _optuna.url_of(_optuna.memory()) is None


def test_a_database_gets_its_tables_and_is_let_go() -> None:
    with expects("RDBStorage makes its tables, among them `studies`, and `engine` can be closed"):
        _optuna.create_tables("sqlite:///new.db")
        with contextlib.closing(sqlite3.connect("new.db")) as database:
            tables = database.execute("SELECT name FROM sqlite_master").fetchall()
        assert ("studies",) in tables


def test_what_is_raised_by_a_database_s_content_is_told_from_other_errors() -> None:
    storage = _optuna.connect("sqlite:///studies.db", {})
    optuna.create_study(study_name="s", storage=storage).set_user_attr("a", 1)
    with contextlib.closing(sqlite3.connect("studies.db")) as database:
        database.execute("UPDATE study_user_attributes SET value_json = '{'")
        database.commit()
    with expects("texts that are no JSON are met in optuna/storages/_rdb"):
        with pytest.raises(json.JSONDecodeError) as of_storage:
            optuna.load_study(study_name="s", storage=storage).user_attrs  # noqa: B018
        assert _optuna.is_of_storage(of_storage.value)
    with pytest.raises(json.JSONDecodeError) as of_ours:
        json.loads("{")
    assert not _optuna.is_of_storage(of_ours.value)


def test_trials_are_counted(storage: BaseStorage, study: optuna.Study) -> None:
    with expects("a storage's get_n_trials counts trials of all states"):
        assert _optuna.count_trials(storage, "s") == 3


def test_the_start_of_the_last_trial_is_read_alone(
    storage: BaseStorage, study: optuna.Study
) -> None:
    with expects("get_trial has the moment in which a trial began"):
        (*_, last) = study.get_trials()
        assert last.datetime_start
        assert _optuna.last_start(storage, "s") == last.datetime_start.timestamp()
        optuna.create_study(study_name="empty", storage=storage)
        assert _optuna.last_start(storage, "empty") == 0.0


def test_a_trial_has_an_id_by_its_number(storage: BaseStorage, study: optuna.Study) -> None:
    with expects("get_trial_id_from_study_id_trial_number finds a trial's id"):
        for number in range(3):
            found = storage.get_trial(_optuna.trial_id(storage, "s", number))
            assert found.number == number


def test_a_trial_of_a_number_is_opened(storage: BaseStorage, study: optuna.Study) -> None:
    with expects("optuna.Trial(study, id) reports values of a trial that is there already"):
        trial = _optuna.open_trial(study, storage, 1)
        trial.report(0.5, 1)
        assert not trial.should_prune()
        assert study.trials[1].intermediate_values == {1: 0.5}
        assert len(study.trials) == 3


def test_a_running_trial_is_created_with_its_parameters(
    storage: BaseStorage, study: optuna.Study
) -> None:
    with expects("create_new_trial takes a running trial as its template, past the sampler"):
        trial = _optuna.create_running_trial(study, storage, {"+x": "relu"}, RELU)
        stored = study.trials[trial.number]
        assert (trial.number, stored.state) == (3, TrialState.RUNNING)
        assert (trial.params, stored.params) == ({"+x": "relu"}, {"+x": "relu"})
        assert stored.datetime_start is not None


def test_the_state_of_an_unfinished_trial_is_set(storage: BaseStorage, study: optuna.Study) -> None:
    with expects("set_trial_state_values lets a running trial wait, go on and end"):
        for state in (TrialState.WAITING, TrialState.RUNNING, TrialState.PRUNED):
            _optuna.set_state(storage, "s", 1, state)
            assert study.trials[1].state is state
        _optuna.set_state(storage, "s", 2, TrialState.COMPLETE, [0.25])
        assert study.trials[2].values == [0.25]


def test_the_state_of_a_finished_trial_stays(storage: BaseStorage, study: optuna.Study) -> None:
    with expects("set_trial_state_values raises UpdateFinishedTrialError for a finished trial"):
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            _optuna.set_state(storage, "s", 0, TrialState.FAIL)
        assert study.trials[0].state is TrialState.COMPLETE


def test_an_enqueued_trial_is_known(study: optuna.Study) -> None:
    study.enqueue_trial({"+x": "elu"})
    with expects("enqueue_trial notes fixed_params among a trial's system attributes"):
        known = [_optuna.is_enqueued(trial) for trial in study.trials]
        assert known == [False, False, False, True]


def test_what_samplers_noted_is_copied(storage: BaseStorage, study: optuna.Study) -> None:
    with expects("a storage has get_study_system_attrs and set_study_system_attr"):
        study_id = storage.get_study_id_from_name("s")
        storage.set_study_system_attr(study_id, "noted", [1, 2])
        optuna.create_study(study_name="t", storage=storage)
        _optuna.copy_system_attributes(storage, "s", "t")
        target = storage.get_study_id_from_name("t")
        assert storage.get_study_system_attrs(target) == {"noted": [1, 2]}


def test_optuna_takes_no_new_choices(storage: BaseStorage, study: optuna.Study) -> None:
    """The reason for study/migration.py, which may go when this test fails."""
    wider: dict[str, BaseDistribution] = {"+x": CategoricalDistribution(["relu", "elu", "tanh"])}
    if _optuna.url_of(storage) is None:
        return
    with pytest.raises(ValueError, match="does not support dynamic value space"):
        _optuna.create_running_trial(study, storage, {"+x": "tanh"}, wider)


def test_trials_of_a_database_are_counted_without_reading_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = _optuna.connect("sqlite:///studies.db", {})
    study = optuna.create_study(storage=storage, study_name="s")
    optuna.create_study(storage=storage, study_name="other").ask()
    study.ask()
    study.tell(study.ask(), 1.0)
    monkeypatch.setattr(type(storage), "get_all_trials", None)
    assert _optuna.count_trials(storage, "s") == 2
    assert _optuna.last_start(storage, "s") > 0


def test_values_have_names_without_a_warning(study: optuna.Study) -> None:
    with expects("Study.set_metric_names keeps the names that Study.metric_names gives"):
        _optuna.set_metric_names(study, ["accuracy"])
        assert study.metric_names == ["accuracy"]


def test_several_attributes_of_a_trial_are_noted(study: optuna.Study, storage: BaseStorage) -> None:
    with expects("the tables of RDBStorage have a row for each attribute of a trial"):
        trial = _optuna.open_trial(study, storage, 1)
        trial.set_user_attr("a", 0)
        _optuna.set_user_attributes(storage, trial, {"a": 1.5, "b": {"c": [1]}})
        assert study.get_trials()[1].user_attrs == {"a": 1.5, "b": {"c": [1]}}


@pytest.mark.parametrize("length", [5000, 3, 0])
def test_a_note_is_what_the_dashboard_shows(
    length: int, study: optuna.Study, storage: BaseStorage
) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    with expects("optuna-dashboard keeps a study's note in numbered parts, and a version"):
        _optuna.set_note(storage, "s", "a longer one " * 600)
        _optuna.set_note(storage, "s", "x" * length)
        assert dashboard.get_note(study) == _optuna.note(storage, "s") == "x" * length
        dashboard.save_note(study, "y" * 3000)
        assert _optuna.note(storage, "s") == "y" * 3000


def test_what_waits_for_something_else_is_not_given_to_who_asks() -> None:
    with expects("Study.ask takes any trial that waits, and drops what the study has cached"):
        storage = _optuna.connect("sqlite:///studies.db", {})
        study = optuna.create_study(study_name="s", storage=storage)
        paused = _optuna.ask(study, storage, but="paused")
        paused.set_user_attr("paused", {"state": "PRUNED"})
        _optuna.set_state(storage, "s", paused.number, TrialState.WAITING)
        study.enqueue_trial({"x": 1})
        asked = [_optuna.ask(study, storage, but="paused").number for _ in range(2)]
        assert asked == [1, 2]
        _optuna.open_trial(study, storage, paused.number).set_user_attr("paused", None)
        assert _optuna.ask(study, storage, but="paused").number == paused.number


def test_a_lease_is_renewed_and_expires_by_the_clock_of_the_database() -> None:
    with expects("heartbeats of RDBStorage are leases, and its _get_trials reads what changed"):
        storage = _optuna.connect("sqlite:///studies.db", {}, lease=(1, 1))
        study = optuna.create_study(study_name="s", storage=storage)
        trials = [_optuna.ask(study, storage, but="paused") for _ in range(2)]
        ids = [_optuna.id_of(trial) for trial in trials]
        for trial_id in ids:
            _optuna.renew_lease(storage, trial_id)
        assert _optuna.expired_leases(storage, "s") == set()
        time.sleep(3)
        _optuna.renew_lease(storage, ids[1])
        assert _optuna.expired_leases(storage, "s") == {0}
        assert list(_optuna.changed_trials(storage, "s", set(), -1)) == ids
        _optuna.set_state(storage, "s", 0, TrialState.FAIL)
        (changed,) = _optuna.changed_trials(storage, "s", {ids[0]}, ids[1]).values()
        assert changed.state is TrialState.FAIL
        _optuna.disconnect(storage)
        assert storage.get_all_studies()
