"""Intervals and comparisons against simulations whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cifar_hpo.analysis.statistics import against_best, confidence_interval, replicas_needed


@pytest.mark.parametrize("replicas", [3, 5, 10])
@pytest.mark.parametrize("images", [1000, 10000])
def test_intervals_cover_the_true_mean_of_accuracies(replicas: int, images: int) -> None:
    """Replicas differ by their seed (normal) and by the finite test set (binomial)."""
    rng = np.random.default_rng(replicas * images)
    truth, studies = 0.7, 2000
    accuracies = (
        rng.binomial(images, np.clip(rng.normal(truth, 0.01, (studies, replicas)), 0, 1)) / images
    )
    covered = [
        low <= truth <= high
        for low, high in (confidence_interval(list(row)) or (1, 0) for row in accuracies)
    ]
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
        groups = [
            dict(enumerate(values, start=0 if paired else 100 * place))
            for place, values in enumerate(rng.normal(0.7, 0.01, (4, 5)))
        ]
        groups.sort(key=lambda group: -np.mean(list(group.values())))
        wrong += any(chance is not None and chance < 0.05 for chance in against_best(groups))
    assert wrong / 300 <= 0.07


def test_the_correction_is_holm_s() -> None:
    from scipy.stats import ttest_rel
    from statsmodels.stats.multitest import multipletests

    groups = [
        dict(enumerate(values))
        for values in np.random.default_rng(5).normal(
            [[0.70], [0.69], [0.68], [0.66]], 0.01, (4, 5)
        )
    ]
    pairs = list(itertools.combinations(groups, 2))
    alone = [ttest_rel(list(one.values()), list(other.values())).pvalue for one, other in pairs]
    assert against_best(groups)[1:] == pytest.approx(multipletests(alone, method="holm")[1][:3])


def test_a_large_gap_is_found_and_the_best_is_tied_with_itself() -> None:
    rng = np.random.default_rng(2)
    good, near, bad = (
        {seed: mean + rng.normal(0, 0.003) for seed in range(5)} for mean in (0.70, 0.699, 0.57)
    )
    first, second, third = against_best([good, near, bad])
    assert first == 1
    assert second is not None
    assert third is not None
    assert second > 0.05 > third


def test_shared_seeds_are_compared_in_pairs() -> None:
    """A gap far below the spread over seeds is seen when each seed moves both alike."""
    rng = np.random.default_rng(3)
    luck = rng.normal(0, 0.02, 5)
    one = {seed: 0.7 + luck[seed] for seed in range(5)}
    other = {seed: 0.695 + luck[seed] + rng.normal(0, 0.0005) for seed in range(5)}
    apart = {seed + 10: value for seed, value in other.items()}
    assert (against_best([one, other])[1] or 1) < 0.01
    assert (against_best([one, apart])[1] or 0) > 0.3


def test_a_single_replica_says_nothing() -> None:
    assert against_best([{0: 0.7}, {0: 0.5}]) == [1.0, None]
    assert against_best([{0: 0.7}]) == [1.0]
    assert against_best([]) == []


def test_the_replicas_that_are_said_to_be_needed_find_the_gap_four_times_in_five() -> None:
    needed = replicas_needed(gap=0.01, spread=0.01)
    assert needed is not None
    rng = np.random.default_rng(4)

    def found(replicas: int) -> float:
        pairs = [
            (
                dict(enumerate(rng.normal(0.71, 0.01, replicas))),
                dict(enumerate(rng.normal(0.70, 0.01, replicas))),
            )
            for _ in range(500)
        ]
        return float(np.mean([(against_best(list(pair))[1] or 0) < 0.05 for pair in pairs]))

    assert found(needed) >= 0.75
    assert found(needed - 3) < 0.8
    assert replicas_needed(gap=0.0001, spread=0.01) is None
    assert replicas_needed(gap=0.01, spread=0.01, pairs=45) > needed
