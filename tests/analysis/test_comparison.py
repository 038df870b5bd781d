"""Comparisons of studies laid out in a real storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from support import Outcomes, finished, lay_out, parse_space, study_options

from cifar_hpo.analysis.comparison import compare_study
from cifar_hpo.analysis.looks import Looks
from cifar_hpo.analysis.separation import TOP_K
from cifar_hpo.analysis.verdict import Best, NothingComplete, OnlyOne, Tied, decide, verdict
from cifar_hpo.errors import StudyError
from cifar_hpo.study.storage import open_storage
from cifar_hpo.study.stored import FIRST_CHOICES, MEANING
from cifar_hpo.study.study import Study
from cifar_hpo.trial import PRUNED

REPLICAS_IN_CONFIG = {"config": {"training": {"seed": 0, "replicas": 5}}}
GRID = {"sampler": {"name": "grid"}}


def of_seeds(width: str, values: list[float | str]) -> Outcomes:
    """A trial for each seed: its value, or why it has none."""
    outcomes: list[tuple[dict[str, Any], list[float] | str]] = []
    for seed, value in enumerate(values):
        params = {"model.filters": width, "training.seed": seed}
        outcomes.append((params, value if isinstance(value, str) else [value]))
    return outcomes


def steady(mean: float) -> list[float | str]:
    """Five seeds that hardly differ."""
    return [mean - 0.002, mean - 0.001, mean, mean + 0.001, mean + 0.002]


def begin(storage: Any, outcomes: Outcomes, width: str, seed: int) -> None:
    """A trial of the study that runs."""
    distributions = {}
    for key in ("model.filters", "training.seed"):
        choices = sorted({str(params[key]) for params, _ in outcomes})
        distributions[key] = CategoricalDistribution(choices)
    study = optuna.load_study(study_name="laid", storage=storage)
    study.enqueue_trial({"model.filters": width, "training.seed": str(seed)})
    study.ask(distributions)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("loss", ["diverged", PRUNED])
def test_a_configuration_that_lost_seeds_is_never_the_best(loss: str, tmp_path: Path) -> None:
    lucky = of_seeds("16", [0.9, loss, 0.91, loss, loss])
    outcomes = [*lucky, *of_seeds("8", steady(0.7)), *of_seeds("4", steady(0.5))]
    comparison = compare_study("laid", lay_out(tmp_path, outcomes))
    assert [best.name for best in comparison.configurations] == [
        "filters=8",
        "filters=4",
        "filters=16",
    ]
    lost = comparison.configurations[-1]
    assert (lost.planned_seeds, lost.seeds_text, lost.p_value) == (5, "2 of 5 seeds", None)
    assert decide(comparison) == Best("filters=8", compared=2, family=2, unknown=[])
    became = "failed" if loss == "diverged" else "pruned"
    assert verdict(comparison)[-1] == (
        f"No verdict on filters=16: 2 of 5 seeds finished (3 {became}); over these val_accuracy "
        "is 0.9050."
    )


def test_of_many_incomplete_configurations_a_few_are_named(tmp_path: Path) -> None:
    outcomes = [*of_seeds("0", steady(0.5))]
    for width in range(1, 9):
        outcomes += of_seeds(str(width), [0.9, "diverged"])
    said = verdict(compare_study("laid", lay_out(tmp_path, outcomes)))
    assert len(said) == 1 + 5 + 1
    assert said[-1] == "Nor on 3 others of which some seeds are missing."


def test_replicas_that_failed_are_as_many_seeds(tmp_path: Path) -> None:
    """Five replicas in a trial; another trial, with other seeds, came to its end."""
    outcomes: Outcomes = [
        ({"a": "1", "training.seed": 0}, "diverged"),
        ({"a": "1", "training.seed": 5}, [0.9, 0.91, 0.92, 0.93, 0.94]),
        ({"a": "2", "training.seed": 0}, [0.5, 0.51, 0.52, 0.53, 0.54]),
    ]
    comparison = compare_study("laid", lay_out(tmp_path, outcomes, more_meaning=REPLICAS_IN_CONFIG))
    best, lost = comparison.configurations
    assert (best.name, best.is_complete) == ("a=2", True)
    assert (lost.seeds_text, lost.missing) == ("5 of 10 seeds", {"failed": 5})
    assert isinstance(decide(comparison), OnlyOne)


def test_without_any_complete_configuration_none_is_the_best(tmp_path: Path) -> None:
    outcomes = [*of_seeds("8", [0.9, "diverged"]), *of_seeds("4", [PRUNED, 0.5])]
    comparison = compare_study("laid", lay_out(tmp_path, outcomes))
    assert decide(comparison) == NothingComplete()
    first, second, third = verdict(comparison)
    assert first.startswith("No configuration finished with all of its seeds")
    assert second.startswith("No verdict on filters=8: 1 of 2 seeds finished (1 failed)")
    assert third.startswith("No verdict on filters=4: 1 of 2 seeds finished (1 pruned)")


def test_what_failed_for_all_seeds_is_no_configuration_to_judge(tmp_path: Path) -> None:
    outcomes = [*of_seeds("8", ["diverged"] * 5), *of_seeds("4", steady(0.5))]
    comparison = compare_study("laid", lay_out(tmp_path, outcomes))
    assert isinstance(decide(comparison), OnlyOne)
    assert comparison.configurations[1].missing == {"failed": 5}
    assert len(verdict(comparison)) == 1


def test_a_seed_that_runs_keeps_the_verdict_open(tmp_path: Path) -> None:
    outcomes = [*of_seeds("8", steady(0.7)[:4]), *of_seeds("4", steady(0.5))]
    storage = lay_out(tmp_path, outcomes)
    assert isinstance(decide(compare_study("laid", storage)), Best)
    begin(storage, outcomes, "8", 4)
    comparison = compare_study("laid", storage)
    assert isinstance(decide(comparison), OnlyOne)
    assert comparison.configurations[1].missing == {"running": 1}


def test_while_a_grid_is_under_way_all_its_seeds_are_planned(tmp_path: Path) -> None:
    """The seeds 0 to 4 are in the grid; of width 8 two were tried and one runs."""
    outcomes = [*of_seeds("8", steady(0.7)[:2]), *of_seeds("4", steady(0.5))]
    storage = lay_out(tmp_path, outcomes, more_meaning=GRID)
    begin(storage, outcomes, "8", 2)
    comparison = compare_study("laid", storage)
    assert comparison.configurations[1].missing == {"running": 1, "not begun": 2}
    assert comparison.configurations[0].is_complete


def test_a_seed_that_was_tried_again_is_one_seed(tmp_path: Path) -> None:
    outcomes = of_seeds("8", ["diverged", 0.8, 0.81])
    outcomes = [*outcomes, ({"model.filters": "8", "training.seed": 0}, [0.79])]
    (configuration,) = compare_study("laid", lay_out(tmp_path, outcomes)).configurations
    assert configuration.is_complete
    assert sorted(configuration.values) == [0, 1, 2]


def test_all_seeds_of_each_count_whichever_they_are(tmp_path: Path) -> None:
    """Over the two seeds of both the second would be ahead; by its mean it is far behind."""
    best = of_seeds("8", [0.60, 0.61, 0.9, 0.91, 0.92, 0.93])
    comparison = compare_study("laid", lay_out(tmp_path, [*best, *of_seeds("4", [0.7, 0.7101])]))
    first, second = comparison.configurations
    assert first.name == "filters=8"
    assert second.standing is not None
    assert second.standing.gap == pytest.approx(0.8117 - 0.7050, abs=1e-4)
    assert isinstance(decide(comparison), Tied)


LOSERS: Outcomes = [
    ({"optimizer": "adam", "filters": "8"}, [0.309, 0.336, 0.363]),
    ({"optimizer": "adam", "filters": "4"}, [0.297, 0.324, 0.270]),
    ({"optimizer": "sgd", "filters": "8"}, [0.163, 0.091, 0.127]),
    ({"optimizer": "sgd", "filters": "4"}, [0.119, 0.136, 0.102]),
]
"""0.336 ± 0.027, 0.297 ± 0.027, 0.127 ± 0.036 and 0.119 ± 0.017 in three seeds each."""


def test_of_four_configurations_with_three_seeds_the_two_losers_are_named(tmp_path: Path) -> None:
    comparison = compare_study("laid", lay_out(tmp_path, LOSERS))
    decision = decide(comparison)
    assert isinstance(decision, Tied)
    assert decision.tied == ["optimizer=adam, filters=4"]
    assert decision.worse == ["optimizer=sgd, filters=8", "optimizer=sgd, filters=4"]
    said = verdict(comparison)
    assert said[1] == (
        "Worse, and that is not luck: optimizer=sgd, filters=8; optimizer=sgd, filters=4."
    )
    assert any(sentence.startswith("By t-tests with variances that all") for sentence in said)


def test_a_grid_s_plan_is_the_seeds_that_it_began_with(tmp_path: Path) -> None:
    outcomes = [*of_seeds("8", steady(0.7)), *of_seeds("4", steady(0.5))]
    storage = lay_out(tmp_path, outcomes, more_meaning=GRID)
    assert compare_study("laid", storage).looks == Looks(5, 5)
    study = optuna.load_study(study_name="laid", storage=storage)
    study.set_user_attr(FIRST_CHOICES, {"model.filters": 1, "training.seed": 3})
    assert compare_study("laid", storage).looks == Looks(3, 3)


def test_what_is_still_to_come_may_be_as_good(tmp_path: Path) -> None:
    outcomes = [*of_seeds("8", [0.7, 0.71, 0.68]), *of_seeds("4", [0.58, 0.57, 0.59])]
    outcomes += of_seeds("2", [0.4, "diverged"])
    storage = lay_out(tmp_path, outcomes, more_meaning=GRID)
    before = compare_study("laid", storage)
    begin(storage, outcomes, "2", 2)
    comparison = compare_study("laid", storage)
    assert (before.to_come, comparison.to_come) == (0, 1)
    assert comparison.compared == 3
    first, second = (compared.complete[1].p_value for compared in (before, comparison))
    assert first is not None
    assert second is not None
    assert first < second < 0.05


def test_a_range_is_as_much_of_a_grid_as_its_values_in_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = []
    for name, x, seeds in (("list", "2,4,6", "0,1,2"), ("range", "range(2,8,2)", "range(0,3)")):
        space = parse_space(f"+x={x}", f"+seed={seeds}")
        meaning = {"metric": "y", **GRID}
        with Study.open(name, space, study_options(order="given"), meaning) as study:
            for spec in study.specs():
                assert spec
                if spec.number == 5:
                    break
                study.tell(spec, finished(float(spec.params["+x"]) + spec.number / 100))
        comparison = compare_study(name, open_storage(None))
        labels = [configuration.label for configuration in comparison.configurations]
        found.append((labels, comparison.to_come, comparison.looks))
    assert found[0] == found[1]
    assert found[0] == (["+x=2", "+x=4 (2 of 3 seeds)"], 2, Looks(3, 3))


def test_of_a_metric_to_minimize_the_least_is_best_and_a_flattered_one_is_not(
    tmp_path: Path,
) -> None:
    outcomes = [*of_seeds("8", steady(0.7)), *of_seeds("4", steady(0.5))]
    outcomes += of_seeds("2", [0.1, "diverged", "diverged", 0.1, PRUNED])
    storage = lay_out(tmp_path, outcomes, direction="minimize")
    comparison = compare_study("laid", storage)
    assert [configuration.name for configuration in comparison.complete] == [
        "filters=4",
        "filters=8",
    ]
    assert isinstance(decide(comparison), Best)
    assert comparison.configurations[-1].missing == {"failed": 2, "pruned": 1}


def test_seeds_that_are_no_numbers_are_told_apart(tmp_path: Path) -> None:
    outcomes: Outcomes = [
        ({"a": "1", "training.seed": "${oc.env:A}"}, [0.5]),
        ({"a": "1", "training.seed": "${oc.env:B}"}, [0.6]),
    ]
    config = {"config": {"training": {"seed": "${oc.env:A}", "replicas": "${oc.env:N}"}}}
    storage = lay_out(tmp_path, outcomes, more_meaning=config)
    (configuration,) = compare_study("laid", storage).configurations
    assert sorted(configuration.values.values()) == [0.5, 0.6]


def test_replicas_of_a_seed_that_is_an_interpolation_are_told_apart(tmp_path: Path) -> None:
    storage = lay_out(tmp_path, [({"a": "1"}, [0.5, 0.7])])
    study = optuna.load_study(study_name="laid", storage=storage)
    meaning = {**study.user_attrs[MEANING], "config": {"training": {"seed": "${oc.env:SEED}"}}}
    study.set_user_attr(MEANING, meaning)
    (configuration,) = compare_study("laid", storage).configurations
    assert list(configuration.values.values()) == [0.5, 0.7]
