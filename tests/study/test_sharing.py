"""One study in a PostgreSQL server, which several commands work on: no configuration is tried
twice, and none is lost with whoever tried it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from optuna.trial import TrialState
from support import clean, finished, study_options, wait_for
from support_postgres import PostgresServer

from cifar_hpo.errors import StudyError
from cifar_hpo.owner import owner
from cifar_hpo.study import _optuna, sharing, storage, turns
from cifar_hpo.study import study as study_module
from cifar_hpo.study.space import Space
from cifar_hpo.study.storage import load_study, open_storage, server, study_lock
from cifar_hpo.study.study import Study
from cifar_hpo.study.turns import Turn, TurnLost
from cifar_hpo.trial import FAILED, Progress, TrialResult, TrialSpec

TESTS = Path(__file__).parents[1]

Open = Callable[..., Study]


@pytest.fixture
def open_study(database: str, space: Callable[..., Space]) -> Open:
    """Opens the study `s` of that server, as each of several commands would."""

    def opened(*overrides: str, sampler: str = "grid", name: str = "s", **options: Any) -> Study:
        wanted = study_options(sampler, storage=database, **options)
        return Study.open(name, space(*(overrides or ("+x=1,2,3,4",))), wanted, {"a": 1})

    return opened


def take(specs: Iterator[TrialSpec | None]) -> TrialSpec:
    spec = next(specs)
    assert spec
    return spec


def test_two_commands_share_the_cells_of_a_grid(open_study: Open) -> None:
    with open_study() as one, open_study() as two:
        of_one, of_two = one.specs(), two.specs()
        specs = [take(of_one), take(of_two), take(of_one), take(of_two)]
        assert [spec.number for spec in specs] == [0, 1, 2, 3]
        assert sorted(spec.params["+x"] for spec in specs) == [1, 2, 3, 4]
        assert next(of_one) is None, "others still run"
        for study, spec in zip((one, two, one, two), specs, strict=True):
            assert study.tell(spec, finished(spec.params["+x"] / 10))
        assert list(of_one) == list(of_two) == []
        for study in (one, two):
            assert [trial.number for trial in study.ranking()] == [3, 2, 1, 0]
            assert study.elsewhere() == {}
        assert {trial.number for trial in one.counted_elsewhere()} == {1, 3}


def test_what_others_do_counts_for_budget_patience_and_target(open_study: Open) -> None:
    with (
        open_study(sampler="random", n_trials=3) as one,
        open_study(sampler="random", n_trials=3) as two,
    ):
        of_one, of_two = one.specs(), two.specs()
        first, second, third = take(of_one), take(of_two), take(of_two)
        assert next(of_one) is None, "three have begun, and one of them may fail"
        for study, spec in ((one, first), (two, second), (two, third)):
            study.tell(spec, finished(0.5))
        assert list(of_one) == []
    aim = {"sampler": "random", "n_trials": 9, "target": 0.9, "fresh": True}
    with open_study("+x=interval(0,1)", **aim) as one:
        with open_study("+x=interval(0,1)", **aim | {"fresh": False}, name=one.name) as two:
            two.tell(take(two.specs()), finished(0.95))
        assert list(one.specs()) == []


def test_samplers_of_two_commands_with_one_seed_differ(open_study: Open) -> None:
    interval = "+x=interval(0,1)"
    options = {"sampler": "random", "n_trials": 20}
    with open_study(interval, **options) as one, open_study(interval, **options) as two:
        specs = (one.specs(), two.specs())
        values = [take(of_one).params["+x"] for _ in range(4) for of_one in specs]
    assert len(set(values)) == 8


def test_what_an_interrupted_command_leaves_is_taken_by_the_other(open_study: Open) -> None:
    with open_study() as one:
        with open_study() as two:
            left = take(two.specs())
        again = take(one.specs())
    assert (again.number, again.params, again.attempt) == (left.number, left.params, 1)


def test_the_trial_of_a_host_that_dies_is_given_to_another_and_its_late_result_dropped(
    open_study: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is a second here, and the holder's host another, so that nobody sees its end."""
    monkeypatch.setattr(sharing, "RENEWAL", 0.2)
    monkeypatch.setattr(sharing, "SECOND_LOOK", 0.5)
    monkeypatch.setattr(storage, "LEASE", 1)
    one = open_study("+x=1")
    monkeypatch.setattr(sharing, "owner", lambda: "elsewhere:1:2.0")
    two = open_study("+x=1")
    with one, two:
        lost = take(two.specs())
        assert next(one.specs()) is None
        assert one.elsewhere() == {0: "elsewhere"}
        time.sleep(2.5)
        assert next(one.specs()) is None, "its lease is renewed"
        monkeypatch.setattr(_optuna, "renew_lease", lambda *_: None)
        specs = one.specs()
        started = time.monotonic()
        spec = next(specs)
        while spec is None and time.monotonic() - started < 20:
            time.sleep(0.2)
            spec = next(specs)
        assert spec
        assert (spec.number, spec.attempt) == (lost.number, 1)
        assert one.tell(spec, finished(0.7))
        two.look()
        assert two.lost() == [lost.number], "whoever runs it there is to end"
        assert two.running == {}
        assert two.should_prune(lost, Progress(1, 3, 0.5))
        assert [trial.values for trial in two.ranking()] == [[0.7]]
        assert not two.tell(lost, finished(0.1)), "it was superseded"
        assert [trial.values for trial in one.ranking()] == [[0.7]]
    two_again = open_study("+x=1")
    with two_again:
        assert [trial.values for trial in two_again.ranking()] == [[0.7]]


def test_a_process_that_died_on_this_host_loses_its_trials_at_once(
    open_study: Open, database: str
) -> None:
    code = f"""if True:
        import os, sys
        sys.path.insert(0, {str(TESTS)!r})
        from support import parse_space, study_options
        from cifar_hpo.study.study import Study
        options = study_options("grid", storage={database!r})
        study = Study.open("s", parse_space("+x=1,2,3,4"), options, {{"a": 1}})
        next(study.specs())
        os._exit(9)
    """
    died = subprocess.run([sys.executable, "-c", code], env=clean(), check=False)
    assert died.returncode == 9
    with open_study() as study:
        spec = take(study.specs())
        assert (spec.number, spec.attempt) == (0, 1)


def test_a_process_that_died_in_its_turn_leaves_a_trial_that_nobody_holds(
    open_study: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = open_study(), open_study()
    with one, two:
        with monkeypatch.context() as patch:
            patch.setattr(sharing.Shared, "hold", dies_here)
            with pytest.raises(SystemExit):
                take(one.specs())
        spec = take(two.specs())
        assert (spec.number, spec.attempt) == (0, 1)


def dies_here(shared: object, trial: object) -> None:
    raise SystemExit


END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def two_turns(database: str) -> tuple[Turn, Turn]:
    """The same of two processes."""
    opened = server(database)
    assert opened
    return Turn(opened, "s"), Turn(opened, "s")


def test_a_turn_lasts_longer_than_its_connection_may_be_silent(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MAX_SILENCE", 1)
    monkeypatch.setattr(turns, "SIGN_OF_LIFE", 0.2)
    mine, others = two_turns(database)
    taken: list[float] = []

    def take_turn() -> None:
        with others:
            taken.append(time.monotonic())

    other = threading.Thread(target=take_turn)
    with mine:
        other.start()
        time.sleep(2.5)
        mine.check()
        assert not taken
        ended = time.monotonic()
    other.join(20)
    assert taken[0] >= ended
    mine.close()
    others.close()


def test_a_turn_of_a_process_that_stood_still_is_another_s(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MAX_SILENCE", 1)
    monkeypatch.setattr(turns, "SIGN_OF_LIFE", 60)
    mine, others = two_turns(database)
    with mine:
        with others:  # comes though the first has not ended
            pass
        with pytest.raises(TurnLost):
            mine.check()
    with mine:
        mine.check()
    mine.close()
    others.close()


def test_a_command_that_lost_its_turn_tries_nothing_before_it_has_another(
    open_study: Open, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_study() as one, open_study() as two:
        look = Study.look

        def look_and_stand_still(study: Study) -> None:
            look(study)
            monkeypatch.setattr(Study, "look", look)
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute(END_OTHERS)
            assert take(two.specs()).number == 0

        monkeypatch.setattr(Study, "look", look_and_stand_still)
        spec = take(one.specs())
        assert (spec.number, spec.params["+x"]) == (1, 2)


def test_a_trial_with_which_one_process_after_the_other_dies_fails(
    open_study: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "MAX_LOST", 3)
    this_host, _, _ = owner().rsplit(":", 2)
    numbers = []
    for _ in range(3):
        with monkeypatch.context() as patch:
            ended = subprocess.Popen(["true"])
            ended.wait()
            gone = f"{this_host}:{ended.pid}:1.00"
            patch.setattr(sharing, "owner", lambda gone=gone: gone)
            lost = open_study("+x=1")
            spec = take(lost.specs())
            numbers.append((spec.number, spec.attempt))
            lost._sharing.close()  # noqa: SLF001  it has died, and releases nothing
    assert numbers == [(0, 0), (0, 1), (0, 2)]
    with open_study("+x=1") as study:
        assert not any(study.specs())
        (failed,) = study.ranking()
        assert failed.state == FAILED
        assert failed.error == "its process died, 3 times"


def test_many_threads_of_commands_try_each_configuration_once(
    open_study: Open, database: str
) -> None:
    """Four commands, as fast as they can."""
    tried: list[int] = []

    def work() -> None:
        with open_study("+x=range(40)") as study:
            for spec in study.specs():
                if spec is None:
                    time.sleep(0.02)
                    continue
                tried.append(spec.params["+x"])
                assert study.tell(spec, finished(0.5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(tried) == list(range(40))
    with open_study("+x=range(40)") as study:
        assert len(study.ranking()) == 40
    opened = open_storage(database)
    trials = load_study(opened, "s").trials
    _optuna.disconnect(opened)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 40


def test_a_study_that_others_work_on_is_neither_copied_nor_deleted(
    open_study: Open, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sharing, "owner", lambda: "host-b:1:2.0")
        one = open_study()
    with one:
        take(one.specs())
        with pytest.raises(StudyError, match=r"^study s: trial 0 runs on host-b; wait for its end"):
            open_study("+x=1,2,3,4,5")
        with (
            pytest.raises(StudyError, match="runs on host-b"),
            study_lock(open_storage(database), "s"),
        ):
            pass
    with open_study("+x=1,2,3,4,5") as grown:
        assert grown.planned() == 5


def test_a_lost_connection_does_not_end_a_study(open_study: Open, database: str) -> None:
    """A server that was started anew has closed all connections."""

    with open_study() as study:
        first = take(study.specs())
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(END_OTHERS)
        assert study.tell(first, finished(0.4))
        assert take(study.specs()).number == 1


def test_a_server_that_is_started_anew_is_waited_for(
    open_study: Open, postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    with open_study() as study:
        first = take(study.specs())
        postgres.stop()
        study.look_around()
        back = threading.Timer(2, postgres.start)
        back.start()
        assert study.tell(first, finished(0.4))
        back.join()
    (told,) = caplog.messages
    assert re.fullmatch(r"Optuna's storage postgresql://\S+ is away; it is waited for", told)


def test_what_failed_is_tried_again_once_by_whichever_command(open_study: Open) -> None:
    with open_study("+x=1,2,3") as study:
        for spec in study.specs():
            assert spec
            study.tell(spec, TrialResult(FAILED, error="no luck"))
    with (
        open_study("+x=1,2,3", retry_failed=True) as one,
        open_study("+x=1,2,3", retry_failed=True) as two,
    ):
        of_one, of_two = one.specs(), two.specs()
        again = [(one, take(of_one)), (two, take(of_two)), (one, take(of_one))]
        assert next(of_two) is None
        assert sorted(spec.params["+x"] for _, spec in again) == [1, 2, 3]
        for study, spec in again:
            study.tell(spec, finished(0.5))
        assert list(of_one) == list(of_two) == []
        assert [trial.values for trial in two.ranking()] == [[0.5]] * 3


def test_nothing_is_left_of_a_study_that_was_closed(open_study: Open) -> None:
    before = threading.active_count()
    with open_study() as study:
        take(study.specs())
        assert threading.active_count() == before + 2, "leases are renewed, and turns kept"
    wait_for(lambda: threading.active_count() == before, 10)


def test_a_trial_that_another_command_has_finished_is_to_stop(open_study: Open) -> None:
    with open_study("+x=1") as one:
        spec = take(one.specs())
        opened = open_storage(one.options["storage"])
        _optuna.set_state(opened, "s", spec.number, TrialState.FAIL)
        _optuna.disconnect(opened)
        assert one.should_prune(spec, Progress(1, 3, 0.5))
