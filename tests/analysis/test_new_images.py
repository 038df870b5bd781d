"""Intervals for new images and other seeds, beside a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from cifar_hpo.analysis.new_images import new_images_interval
from cifar_hpo.analysis.variances import moderated


@pytest.mark.parametrize(("images", "seed_std"), [(200, 0.0), (200, 0.03), (2000, 0.03)])
def test_intervals_hold_the_accuracy_on_all_images(images: int, seed_std: float) -> None:
    """Images are of three kinds, easy, middling and hard, in equal numbers of all images; seeds are
    better or worse on all alike."""
    random = np.random.default_rng(images)
    kinds = np.array([0.95, 0.7, 0.35])
    held, width = [], []
    for _ in range(300):
        of_image = random.choice(kinds, images)
        of_seed = random.normal(0, seed_std, 4)
        chances = np.clip(of_image[None, :] + of_seed[:, None], 0, 1)
        correct = random.random((4, images)) < chances
        group = dict(enumerate(correct.mean(axis=1).tolist()))
        (variance,) = moderated([group])
        assert variance is not None
        low, high = new_images_interval(correct, variance)
        held.append(low <= kinds.mean() <= high)
        width.append(high - low)
    assert 0.91 <= np.mean(held) <= 0.99
    assert np.mean(width) < 0.3


def test_answers_that_are_all_right_leave_nothing_open() -> None:
    (variance,) = moderated([{0: 1.0, 1: 1.0}])
    assert variance is not None
    assert new_images_interval(np.ones((2, 10), bool), variance) == (1, 1)
