"""Augmentation changes pixels as its names say, and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from cifar_hpo.training.augmentation import augment, resized
from cifar_hpo.training.fitting import batch_of

IMAGES: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)


def augmented(*changes: str, seed: tuple[int, int] = (0, 1)) -> NDArray[np.uint8]:
    changed: NDArray[np.uint8] = augment(IMAGES, changes, tf.constant(seed)).numpy()
    return changed


@pytest.mark.parametrize("changes", [["flip"], ["shift"], ["cutout"], ["flip", "shift", "cutout"]])
def test_augmentation_changes_some_pixels_and_only_as_named(changes: list[str]) -> None:
    changed = augmented(*changes)
    assert changed.shape == IMAGES.shape
    assert changed.dtype == np.uint8
    assert (changed != IMAGES).any()
    assert np.array_equal(changed, augmented(*changes)), "the same seed changes them alike"
    assert not np.array_equal(changed, augmented(*changes, seed=(0, 2)))


def test_a_flip_turns_about_half_of_the_images_left_to_right() -> None:
    changed = augmented("flip")
    is_flipped = (changed != IMAGES).any(axis=(1, 2, 3))
    assert np.array_equal(changed[is_flipped], IMAGES[is_flipped][:, :, ::-1])
    assert 10 < is_flipped.sum() < 54


def test_an_alternating_flip_shows_each_image_both_ways_in_two_epochs() -> None:
    order = np.random.default_rng(1).permutation(len(IMAGES))
    shown = []
    for epoch in range(4):
        chosen = order[::-1] if epoch == 2 else order
        batch = batch_of(IMAGES, chosen, ["alternating_flip"], epoch, step=epoch).numpy()
        images = np.empty_like(batch)
        images[chosen] = batch
        shown.append(images)
    is_flipped = (shown[0] != IMAGES).any(axis=(1, 2, 3))
    assert 16 < is_flipped.sum() < 48
    expected = np.where(is_flipped[:, None, None, None], IMAGES[:, :, ::-1], IMAGES)
    assert np.array_equal(shown[0], expected)
    assert np.array_equal(shown[1], expected[:, :, ::-1])
    assert np.array_equal(shown[2], shown[0]), "whatever the order"
    assert np.array_equal(shown[3], shown[1])


def test_a_cutout_is_one_grey_square_of_eight_pixels() -> None:
    changed = augmented("cutout")
    is_changed = changed != IMAGES
    assert (changed[is_changed] == 128).all()
    assert is_changed.mean() < 0.06
    is_grey = (changed == 128).all(axis=3)
    heights, widths = is_grey.sum(axis=1).max(axis=1), is_grey.sum(axis=2).max(axis=1)
    largest = max(zip(heights, widths, strict=True))
    assert largest == (8, 8), "whole ones, where they do not pass the edge"


def test_a_shift_is_up_to_four_pixels_each_way_with_mirrored_edges() -> None:
    edges = ((0, 0), (4, 4), (4, 4), (0, 0))
    padded = np.pad(IMAGES, edges, mode="reflect")
    shifts = set()
    for image, original in zip(augmented("shift"), padded, strict=True):
        offsets = offsets_of(image, original)
        assert len(offsets) == 1
        shifts.add(offsets[0])
    assert len(shifts) > 30


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_smaller_images_have_the_same_dtype_and_the_means_of_their_pixels(dtype: type) -> None:
    images = tf.constant(IMAGES.astype(dtype))
    assert resized(images, (32, 32)) is images
    smaller = resized(images, (16, 16)).numpy()
    assert (smaller.dtype, smaller.shape) == (dtype, (64, 16, 16, 3))
    assert smaller.mean() == pytest.approx(IMAGES.mean(), abs=1)
    flat = tf.fill((1, 32, 32, 3), tf.constant(201, dtype))
    np.testing.assert_allclose(resized(flat, (20, 24)), 201, rtol=1e-6)


def offsets_of(image: NDArray[Any], padded: NDArray[Any]) -> list[tuple[int, int]]:
    """Where in a padded image an image lies."""
    offsets = []
    for y in range(9):
        for x in range(9):
            if np.array_equal(image, padded[y : y + 32, x : x + 32]):
                offsets.append((y, x))
    return offsets
