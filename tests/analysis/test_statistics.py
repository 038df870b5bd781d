"""Intervals, corrections and needed replicas against simulations whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from cifar_hpo.analysis.looks import Looks
from cifar_hpo.analysis.separation import separate
from cifar_hpo.analysis.statistics import confidence_interval, holm, replicas_needed


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


def test_the_correction_is_holm_s() -> None:
    from statsmodels.stats.multitest import multipletests

    p_values = [0.03, 0.001, 0.2, 0.011]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_what_is_not_known_does_not_count_in_the_correction() -> None:
    assert holm([0.04, None, 0.01]) == [0.04, None, 0.02]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([None]) == [None]
    assert holm([]) == []


def test_the_replicas_that_are_said_to_be_needed_find_the_gap_four_times_in_five() -> None:
    needed = replicas_needed(gap=0.01, spread=0.01)
    assert needed is not None
    rng = np.random.default_rng(4)

    def share_found(replicas: int) -> float:
        found = 0
        for _ in range(300):
            groups = [dict(enumerate(rng.normal(mean, 0.01, replicas))) for mean in (0.71, 0.7)]
            standing = separate(groups, looks=Looks(replicas, replicas)).standings[1]
            found += standing.is_separated
        return found / 300

    assert 0.75 <= share_found(needed) <= 0.87
    assert share_found(needed - 4) < 0.78
    assert replicas_needed(gap=0.0001, spread=0.01) is None
    needed_among_ten = replicas_needed(gap=0.01, spread=0.01, compared=10)
    assert needed_among_ten is not None
    assert needed_among_ten > needed


def test_beside_a_plan_more_replicas_are_needed() -> None:
    planned = replicas_needed(gap=0.01, spread=0.01, present=5)
    beside = replicas_needed(gap=0.01, spread=0.01, looks=Looks(5, 5), present=5)
    assert planned is not None
    assert beside is not None
    assert beside > planned > 5


def test_no_gap_needs_no_end_of_replicas_and_no_spread_one_more() -> None:
    assert replicas_needed(gap=0.0, spread=0.01) is None
    assert replicas_needed(gap=0.01, spread=0.0) == 2
