"""The synthetic images: as many as are asked for, and the same each time."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from cifar_hpo.data import synthetic as module
from cifar_hpo.data.synthetic import VERSION, synthetic

DIGESTS = {"5": "a2b3e82d1da99ec9"}
"""Of the default images and labels, by VERSION: other images need another version."""


def test_the_synthetic_set_is_the_same_each_time() -> None:
    (x, y), (test, _) = synthetic(300, 100)
    assert x.shape == (300, 32, 32, 3)
    assert test.shape == (100, 32, 32, 3)
    assert x.dtype == y.dtype == np.uint8
    assert np.array_equal(x, synthetic(300, 100)[0][0])
    assert set(y) == set(range(10))


def test_another_seed_gives_other_images() -> None:
    assert not np.array_equal(synthetic(10, 5)[0][0], synthetic(10, 5, seed=1)[0][0])


def test_the_default_set_is_what_its_version_names() -> None:
    digest = hashlib.sha256()
    for images, labels in synthetic():
        digest.update(images.tobytes())
        digest.update(labels.tobytes())
    assert digest.hexdigest()[:16] == DIGESTS[VERSION]


def test_images_are_drawn_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IMAGES_AT_ONCE", 30)
    (images, labels), (test, _) = synthetic(80, 20)
    assert (len(images), len(labels), len(test)) == (80, 80, 20)
