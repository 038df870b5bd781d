"""Comparisons of studies laid out in a real storage."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import lay_out

from cifar_hpo.analysis.comparison import TOP_K, compare_study
from cifar_hpo.errors import StudyError


def test_trials_that_differ_in_their_seed_are_one_configuration(tmp_path: Path) -> None:
    outcomes = []
    for width, value in (("4", 0.5), ("8", 0.7)):
        for seed in range(3):
            params = {"model.filters": width, "training.seed": seed}
            outcomes.append((params, [value + seed / 1000]))
    comparison = compare_study("laid", lay_out(tmp_path, outcomes))
    best, second = comparison.configurations
    assert best.params == {"model.filters": "8"}
    assert second.params == {"model.filters": "4"}
    assert best.values == {0: 0.7, 1: 0.701, 2: 0.702}
    assert best.test_accuracies == pytest.approx({0: 0.69, 1: 0.691, 2: 0.692})
    assert best.trial.number == 5, "its best trial stands for it"
    assert best.seconds == 24
    assert best.confidence_interval is not None
    assert comparison.keys == ["model.filters"]


def test_replicas_have_the_seeds_from_the_first_on(tmp_path: Path) -> None:
    outcomes = [({"training.seed": 7, "model.filters": "4"}, [0.5, 0.6])]
    (configuration,) = compare_study("laid", lay_out(tmp_path, outcomes)).configurations
    assert configuration.values == {7: 0.5, 8: 0.6}
    assert configuration.value == pytest.approx(0.55)
    assert configuration.name == "filters=4"


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    """A task of the user's own may return NaN: the trial finished, but has no value."""
    storage = lay_out(tmp_path, [({"a": "1"}, [0.5]), ({"a": "2"}, "")])
    comparison = compare_study("laid", storage)
    finished, lost = comparison.configurations
    assert finished.value == 0.5
    assert lost.value is None
    assert comparison.finished == [finished]


def test_the_first_are_compared_with_the_best_and_no_others(tmp_path: Path) -> None:
    outcomes: list[tuple[dict[str, str], list[float] | str]] = []
    for place in range(TOP_K + 2):
        mean = 0.5 + place / 100
        outcomes.append(({"a": str(place)}, [mean - 0.001, mean, mean + 0.001]))
    outcomes.append(({"a": "lost"}, "diverged"))
    configurations = compare_study("laid", lay_out(tmp_path, outcomes)).configurations
    p_values = [configuration.p_value for configuration in configurations]
    assert p_values[0] == 1
    assert all(p_value is not None for p_value in p_values[:TOP_K])
    assert p_values[TOP_K:] == [None, None, None]
    assert configurations[0].is_tied
    assert not configurations[1].is_tied
    assert configurations[-1].values == {}


def test_too_many_parameters_for_a_name_give_the_number_of_the_trial(tmp_path: Path) -> None:
    params = {f"+fixed_{place}": 1 for place in range(7)}
    (configuration,) = compare_study("laid", lay_out(tmp_path, [(params, [0.5])])).configurations
    assert configuration.name == "trial 0"


def test_what_varies_in_nothing_is_the_base(tmp_path: Path) -> None:
    (configuration,) = compare_study("laid", lay_out(tmp_path, [({}, [0.5])])).configurations
    assert configuration.name == "base"


def test_failed_trials_are_kept_apart_from_configurations(tmp_path: Path) -> None:
    storage = lay_out(tmp_path, [({"a": "1"}, "diverged"), ({"a": "2"}, [0.6])])
    comparison = compare_study("laid", storage)
    assert [trial.error for trial in comparison.failed_trials] == ["diverged"]
    assert len(comparison.trials) == 2
    assert not comparison.is_validated_on_test


def test_without_a_name_it_is_the_study_that_was_worked_on_last(tmp_path: Path) -> None:
    lay_out(tmp_path, [({"a": "1"}, [0.5])], "first")
    lay_out(tmp_path, [({"a": "1"}, [0.5])], "second")
    storage = lay_out(tmp_path, [], "empty")
    assert compare_study(None, storage).name == "second"


def test_a_study_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    storage = lay_out(tmp_path, [], "b")
    lay_out(tmp_path, [], "a")
    with pytest.raises(StudyError, match=r"^there is no study other; there are: a, b$"):
        compare_study("other", storage)
