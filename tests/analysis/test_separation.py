"""Which configurations are separated from the best, from values by seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import studentized_range

from cifar_hpo.analysis.looks import ERROR, Looks
from cifar_hpo.analysis.separation import between, separate, step_down
from cifar_hpo.analysis.studentized import range_p_value
from cifar_hpo.analysis.variances import seed_effect, shared_variances


def test_the_studentized_range_is_scipy_s() -> None:
    for means, degrees, size in itertools.product((2, 4, 20), (1, 4.3, 40), (1.0, 4.5, 30.0)):
        expected = studentized_range.sf(size, means, degrees)
        assert range_p_value(size, means, degrees) == pytest.approx(expected, rel=1e-3, abs=1e-7)


def drawn(means: list[float], seeds: int, std: float = 0.01) -> list[dict[int, float]]:
    random = np.random.default_rng(7)
    return [dict(enumerate(random.normal(mean, std, seeds).tolist())) for mean in means]


def test_a_large_gap_is_found_and_the_best_is_not_separated_from_itself() -> None:
    separation = separate(drawn([0.5, 0.7, 0.699], 5))
    assert separation.best in (1, 2)
    assert separation.standings[0].is_separated
    assert sorted(separation.unseparated) == [1, 2]
    assert separation.unseparated[0] == separation.best
    standing = separation.standings[0]
    assert standing.interval is not None
    assert standing.interval[0] < standing.gap < standing.interval[1]


def test_of_what_is_to_be_minimized_the_least_is_best() -> None:
    groups = drawn([0.5, 0.7], 5)
    assert separate(groups, "minimize").best == 0
    least, most = separate(groups, "minimize"), separate(groups)
    assert least.standings[1].p_value == pytest.approx(most.standings[0].p_value)


def test_with_one_value_nothing_is_known_and_the_others_still_allow_for_it() -> None:
    lone = separate([{0: 0.9}, {0: 0.1, 1: 0.11}])
    assert lone.standings[1].p_value is None
    assert lone.unseparated == [0, 1]
    groups = drawn([0.7, 0.68], 3)
    alone = separate(groups).standings[1].p_value
    beside = separate([*groups, {0: 0.1}]).standings[1].p_value
    assert alone is not None
    assert beside is not None
    assert beside > alone


def test_values_that_do_not_vary_differ_exactly_or_not_at_all() -> None:
    same, other = {0: 0.7, 1: 0.7}, {0: 0.6, 1: 0.6}
    assert separate([same, same]).standings[1].p_value == 1
    assert separate([same, other]).standings[1].p_value == 0
    some = separate([same, {0: 0.69, 1: 0.71}])
    assert some.standings[1].p_value == 1, "a mean of the same"


def test_what_was_once_shown_stays_shown() -> None:
    """Three seeds of each, as planned, then more of the best that tell little."""
    groups = drawn([0.7, 0.6], 3)
    looks = Looks(3, 3)
    first = separate(groups, looks=looks).standings[1].p_value
    more = {**groups[0], 3: 0.2, 4: 1.2}
    later = separate([more, groups[1]], looks=looks)
    assert first is not None
    assert first <= ERROR
    assert later.best == 0
    assert later.standings[1].p_value == pytest.approx(first)
    assert later.standings[1].interval is not None
    assert later.standings[1].interval[0] < 0, "the interval is of all seeds that there are"


def test_a_pair_is_judged_at_all_looks_of_the_plan() -> None:
    """As planned; then with more seeds, which tell little or show the contrary."""
    groups = drawn([0.7, 0.6], 3)
    planned = Looks(3, 3)
    at_plan = between(groups, 0, 1, planned)[1].p_value
    assert at_plan == separate(groups, looks=planned).standings[1].p_value, "the only pair"
    more = [{**groups[0], 3: 0.2, 4: 1.2}, groups[1]]
    assert between(more, 0, 1, planned)[1].p_value == pytest.approx(at_plan)
    contrary = [{**groups[0], 3: 0.1, 4: 0.1}, groups[1]]
    gap, standing = between(contrary, 0, 1, planned)
    assert gap < 0
    assert not standing.is_separated
    growing = between(groups, 0, 1, Looks(2, 16))[1].p_value
    assert growing
    assert growing > (at_plan or 1)


def test_more_looks_have_less_error_each() -> None:
    fixed, growing = Looks(5, 5), Looks(2, 16)
    assert fixed.level(5) == pytest.approx(0.04)
    assert growing.level(2) == growing.level(16) < fixed.level(5)
    assert fixed.level(10) < fixed.level(6) < growing.level(16)
    assert fixed.level(4) < growing.level(16)
    assert Looks.covering([growing, fixed, Looks(1, 20)]) == Looks(1, 20)
    assert Looks.covering([fixed]) == fixed


def test_pairing_helps_only_where_seeds_move_all_alike() -> None:
    """A gap far below the spread over seeds is seen when each seed moves both alike."""
    random = np.random.default_rng(3)
    luck = random.normal(0, 0.02, 5)
    better = {seed: 0.7 + luck[seed] for seed in range(5)}
    worse = {seed: 0.695 + luck[seed] + random.normal(0, 0.0005) for seed in range(5)}
    with_other_seeds = {seed + 10: value for seed, value in worse.items()}
    assert (seed_effect([better, worse]) or 0) < 0.01
    assert seed_effect([better, with_other_seeds]) is None
    paired, apart = separate([better, worse]), separate([better, with_other_seeds])
    assert (paired.is_paired, apart.is_paired) == (True, False)
    assert (paired.standings[1].p_value or 1) < 0.05 < (apart.standings[1].p_value or 0)
    assert between([better, with_other_seeds], 0, 1, Looks(5, 5))[0] == pytest.approx(
        0.005, abs=1e-3
    )


def test_a_variance_is_drawn_towards_that_of_all() -> None:
    groups = [dict(enumerate(values)) for values in ([1.0, 1.2, 1.4], [0.0, 2.0, 4.0], [1, 1, 1])]
    variances = shared_variances(groups)
    quiet, loud, still = (variance.value for variance in variances.by_group if variance)
    assert 0.04 < quiet < 4.04 / 3 < loud < 4
    assert 0 < still < quiet
    assert variances.total_degrees == 6
    assert all(variance and 2 < variance.degrees <= 6 for variance in variances.by_group)


def test_sets_are_judged_step_by_step() -> None:
    """Of three, the last is behind by Tukey's value for three; the second by that of a pair, since
    every set of it and the best shows a difference."""
    ranges, degrees = np.array([4.0, 6.0]), np.array([30.0, 30.0])
    second, last = step_down(ranges, degrees, 3)
    assert last == pytest.approx(float(range_p_value(6.0, 3, 30.0)), rel=1e-6)
    alone = float(range_p_value(4.0, 2, 30.0))
    at_once = float(range_p_value(4.0, 3, 30.0))
    assert alone <= second < at_once or second == pytest.approx(at_once)
    among_five = step_down(ranges, degrees, 5)
    assert (among_five > np.array([second, last])).all()
