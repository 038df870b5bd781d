"""What parameters explain, on grids whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from analysis.test_comparison import LOSERS
from support import Outcomes, lay_out

from cifar_hpo.analysis.comparison import Comparison, compare_study
from cifar_hpo.analysis.effects import choice_mean, importances, noncentrality


def grid(folder: Path, seeds: int, interaction: float = 0.0) -> Comparison:
    """Three of a, two of b; b = 1 adds 0.1, and to a = 2 also the interaction."""
    random = np.random.default_rng(5)
    outcomes: Outcomes = []
    for a in range(3):
        for b in range(2):
            mean = 0.5 + 0.1 * b + interaction * (a == 2) * b
            values = random.normal(mean, 0.01, seeds).tolist()
            outcomes = [*outcomes, ({"a": str(a), "b": str(b)}, values)]
    return compare_study("laid", lay_out(folder, outcomes))


def test_of_the_four_configurations_the_optimizer_explains_nearly_all(tmp_path: Path) -> None:
    explained = importances(compare_study("laid", lay_out(tmp_path, LOSERS)))
    assert explained[0].name == "optimizer"
    assert explained[0].share > 0.9
    assert explained[0].interval is not None
    assert 0.6 < explained[0].interval[0] < explained[0].share < explained[0].interval[1] < 1
    assert [one.name for one in explained][-1] == "seeds"
    assert sum(one.share for one in explained) == pytest.approx(1)
    assert all(one.share < 0.05 for one in explained[1:-1]), "filters and the interaction"


def test_the_mean_of_a_choice_has_a_sane_interval(tmp_path: Path) -> None:
    comparison = compare_study("laid", lay_out(tmp_path, LOSERS))
    adam = [one for one in comparison.finished if one.params["optimizer"] == "adam"]
    mean, limits = choice_mean(adam)
    assert mean == pytest.approx(0.3165)
    assert limits is not None
    assert 0.26 < limits[0] < mean < limits[1] < 0.37


def test_with_one_seed_each_few_configurations_tell_no_interval(tmp_path: Path) -> None:
    outcomes: Outcomes = [({"a": str(place)}, [0.5 + place / 100]) for place in range(6)]
    finished = compare_study("laid", lay_out(tmp_path, outcomes)).finished
    assert choice_mean(finished[:2])[1] is None
    assert choice_mean(finished)[1] is not None


def test_interactions_are_told_from_the_parameters(tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    together = {one.name: one for one in importances(grid(tmp_path / "with", 4, -0.15))}
    alone = {one.name: one for one in importances(grid(tmp_path / "without", 4))}
    assert together["a × b"].share > 0.2
    assert alone["a × b"].share < 0.02
    assert alone["b"].share > 0.9
    interval = alone["a"].interval
    assert interval is not None
    assert interval[0] == 0


def test_with_one_seed_each_interactions_are_left_to_what_is_not_explained(tmp_path: Path) -> None:
    explained = importances(grid(tmp_path, 1))
    assert sorted(one.name for one in explained) == ["a", "b", "seeds"]
    assert explained[0].name == "b"


def test_where_a_cell_is_missing_nothing_is_said(tmp_path: Path) -> None:
    outcomes: Outcomes = [
        ({"a": a, "b": b}, [0.5, 0.6]) for a, b in (("1", "1"), ("1", "2"), ("2", "1"))
    ]
    assert importances(compare_study("laid", lay_out(tmp_path, outcomes))) == []
    full: Outcomes = [*outcomes, ({"a": "2", "b": "2"}, "diverged")]
    assert importances(compare_study("full", lay_out(tmp_path, full, "full"))) == []


def test_values_that_do_not_vary_with_seeds_have_no_interval(tmp_path: Path) -> None:
    outcomes: Outcomes = [
        ({"a": a, "b": b}, [0.5 + 0.1 * int(a)] * 2) for a in ("1", "2") for b in ("1", "2")
    ]
    first, *_ = importances(compare_study("laid", lay_out(tmp_path, outcomes)))
    assert (first.name, first.interval) == ("a", None)
    assert first.share == pytest.approx(1)


def test_limits_of_the_noncentrality_hold_the_statistic_s_own() -> None:
    low, high = noncentrality(20.0, 2, 30)
    assert 10 < low < 36 < high < 80
    assert noncentrality(0.5, 2, 30)[0] == 0
