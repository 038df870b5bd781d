"""Intervals and comparisons against simulations whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cifar_hpo.analysis.statistics import (
    against_best,
    confidence_interval,
    holm,
    mean_gap,
    p_value,
    replicas_needed,
    shared_seeds,
)


@pytest.mark.parametrize("replicas", [3, 5, 10])
@pytest.mark.parametrize("images", [1000, 10000])
def test_intervals_cover_the_true_mean_of_accuracies(replicas: int, images: int) -> None:
    """Replicas differ by their seed (normal) and by the finite test set (binomial)."""
    rng = np.random.default_rng(replicas * images)
    truth, studies = 0.7, 2000
    shares = np.clip(rng.normal(truth, 0.01, (studies, replicas)), 0, 1)
    accuracies = rng.binomial(images, shares) / images
    covered = []
    for replica_accuracies in accuracies:
        limits = confidence_interval(list(replica_accuracies))
        assert limits is not None
        covered.append(limits[0] <= truth <= limits[1])
    assert 0.92 <= np.mean(covered) <= 0.98


def test_an_interval_of_one_replica_is_not_known_and_of_equal_ones_is_a_point() -> None:
    assert confidence_interval([0.5]) is None
    assert confidence_interval([]) is None
    assert confidence_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


@pytest.mark.parametrize("paired", [True, False])
def test_where_no_configuration_is_better_hardly_a_study_says_so(paired: bool) -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
        groups = []
        for place, values in enumerate(rng.normal(0.7, 0.01, (4, 5))):
            groups.append(dict(enumerate(values, start=0 if paired else 100 * place)))
        groups.sort(key=lambda group: -float(np.mean(list(group.values()))))
        p_values = [p for p in against_best(groups) if p is not None]
        wrong += min(p_values) < 0.05
    assert wrong / 300 <= 0.07


def test_the_correction_is_holm_s() -> None:
    from scipy.stats import ttest_rel
    from statsmodels.stats.multitest import multipletests

    means = [[0.70], [0.69], [0.68], [0.66]]
    drawn = np.random.default_rng(5).normal(means, 0.01, (4, 5))
    groups = [dict(enumerate(values)) for values in drawn]
    uncorrected = []
    for first, second in itertools.combinations(drawn, 2):
        uncorrected.append(ttest_rel(first, second).pvalue)
    expected = multipletests(uncorrected, method="holm")[1]
    assert holm(uncorrected) == pytest.approx(expected)
    assert against_best(groups)[1:] == pytest.approx(expected[:3])


def test_what_is_not_known_does_not_count_in_the_correction() -> None:
    assert holm([0.04, None, 0.01]) == [0.04, None, 0.02]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([None]) == [None]
    assert holm([]) == []


def test_a_large_gap_is_found_and_the_best_is_tied_with_itself() -> None:
    rng = np.random.default_rng(2)
    groups = []
    for mean in (0.70, 0.699, 0.57):
        groups.append({seed: mean + rng.normal(0, 0.003) for seed in range(5)})
    first, second, third = against_best(groups)
    assert first == 1
    assert second is not None
    assert third is not None
    assert second > 0.05 > third


def test_shared_seeds_are_compared_in_pairs() -> None:
    """A gap far below the spread over seeds is seen when each seed moves both alike."""
    rng = np.random.default_rng(3)
    luck = rng.normal(0, 0.02, 5)
    better = {seed: 0.7 + luck[seed] for seed in range(5)}
    worse = {seed: 0.695 + luck[seed] + rng.normal(0, 0.0005) for seed in range(5)}
    with_other_seeds = {seed + 10: value for seed, value in worse.items()}
    assert (p_value(better, worse) or 1) < 0.01
    assert (p_value(better, with_other_seeds) or 0) > 0.3


def test_values_that_do_not_vary_show_no_difference() -> None:
    assert p_value({0: 0.7, 1: 0.7}, {0: 0.7, 1: 0.7}) == 1.0
    assert p_value({0: 0.7, 1: 0.7}, {2: 0.7, 3: 0.7}) == 1.0


def test_a_single_replica_says_nothing() -> None:
    assert against_best([{0: 0.7}, {0: 0.5}]) == [1.0, None]
    assert against_best([{0: 0.7}]) == [1.0]
    assert against_best([]) == []


def test_the_replicas_that_are_said_to_be_needed_find_the_gap_four_times_in_five() -> None:
    needed = replicas_needed(gap=0.01, spread=0.01)
    assert needed is not None
    rng = np.random.default_rng(4)

    def share_found(replicas: int) -> float:
        found = 0
        for _ in range(500):
            better = dict(enumerate(rng.normal(0.71, 0.01, replicas)))
            worse = dict(enumerate(rng.normal(0.70, 0.01, replicas)))
            found += (p_value(better, worse) or 0) < 0.05
        return found / 500

    assert share_found(needed) >= 0.75
    assert share_found(needed - 3) < 0.8
    assert replicas_needed(gap=0.0001, spread=0.01) is None
    needed_for_all_pairs = replicas_needed(gap=0.01, spread=0.01, pairs=45)
    assert needed_for_all_pairs is not None
    assert needed_for_all_pairs > needed


def test_no_gap_needs_no_end_of_replicas_and_no_spread_two() -> None:
    assert replicas_needed(gap=0.0, spread=0.01) is None
    assert replicas_needed(gap=0.01, spread=0.0) == 2


def test_a_gap_is_over_the_seeds_of_the_test() -> None:
    first, second = {0: 0.5, 1: 0.6, 2: 0.9}, {0: 0.4, 1: 0.6}
    assert shared_seeds(first, second) == [0, 1]
    assert mean_gap(first, second) == pytest.approx(0.05)
    assert shared_seeds(first, {2: 0.9, 3: 0.1}) == []
    assert mean_gap(first, {2: 0.9, 3: 0.1}) == pytest.approx(2 / 3 - 0.5)
