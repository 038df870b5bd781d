"""Random changes of training images: `augment` flips, shifts and cuts out, all by one lookup."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from cifar_hpo.config.app import SHIFT, Size

CUTOUT = 8
"""Side of the square that is cut out, pixels."""

ALTERNATING_SEED = (0, 0)
"""Draws which images are flipped in the first epoch and every other one."""

GREY = 128

DRAWS = 5
"""Random numbers of an image: shift down, shift across, flip, square down, square across."""


def flipped_in(epoch: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Which of so many training images an alternating flip turns in an epoch: (count,).

    Half of them, drawn once, in even epochs and the others in odd ones, so that two epochs show
    each image both ways (Jordan 2024, arXiv 2404.00498).
    """
    first = tf.random.stateless_uniform((count,), ALTERNATING_SEED, 0, 2, tf.int32)
    return (first + epoch) % 2 == 0


def augment(
    images: tf.Tensor, changes: Sequence[str], seed: tf.Tensor, flips: tf.Tensor | None = None
) -> tf.Tensor:
    """Randomly changed images (n, h, w, colours).

    changes: any of flip (left to right, half of the images), shift (up to 4 pixels each way, the
    edges mirrored, for which images have more than 4 each way) and cutout (a grey 8×8 square;
    DeVries and Taylor 2017, arXiv 1708.04552). Grey is 128 of uint8, else the mean of these images'
    pixels. seed: two whole numbers; the same seed changes the images in the same way. flips: (n,),
    which of them to flip, for alternating_flip (see `flipped_in`).

    All are one lookup of pixels, grey being one more of them, which costs a third of padding and
    cutting.
    """
    n = tf.shape(images)[0]
    height, width, colours = images.shape[1:]
    drawn = tf.random.stateless_uniform((n, DRAWS), seed, 0, 1 << 30, tf.int32)  # (n, 5)
    rows = tf.range(height)[None]  # (1, h)
    columns = tf.range(width)[None]  # (1, w)
    if "shift" in changes:
        rows = _shifted(rows, drawn[:, 0, None], height)  # (n, h)
        columns = _shifted(columns, drawn[:, 1, None], width)  # (n, w)
    if flips is None and "flip" in changes:
        flips = drawn[:, 2] % 2 == 0
    if flips is not None:
        is_flipped = flips[:, None]  # (n, 1)
        columns = tf.where(is_flipped, width - 1 - columns, columns)  # (n, w)

    pixels = tf.reshape(images, (-1, colours))  # (n·h·w, colours)
    first_rows = tf.range(n)[:, None] * height  # (n, 1), each image's among those of all
    lookup = (first_rows + rows)[:, :, None] * width + columns[:, None]  # (n, h, w)
    if "cutout" in changes:
        is_cut_down = _in_square(drawn[:, 3, None], height)  # (n, h)
        is_cut_across = _in_square(drawn[:, 4, None], width)  # (n, w)
        is_cut = is_cut_down[:, :, None] & is_cut_across[:, None]  # (n, h, w)
        lookup = tf.where(is_cut, tf.shape(pixels)[0], lookup)
        if images.dtype == tf.uint8:
            grey = tf.fill((1, colours), tf.cast(GREY, images.dtype))
        else:
            grey = tf.reduce_mean(pixels, axis=0, keepdims=True)
        pixels = tf.concat((pixels, grey), axis=0)  # (n·h·w + 1, colours)
    return tf.gather(pixels, lookup)  # (n, h, w, colours)


def resized(images: tf.Tensor, size: Size) -> tf.Tensor:
    """Images (n, h, w, c) in another size and of the same dtype; whole numbers are rounded."""
    if tuple(images.shape[1:3]) == size:
        return images
    smaller = tf.image.resize(images, size, antialias=True)  # float32
    if images.dtype.is_integer:
        smaller = tf.round(smaller)
    return tf.cast(smaller, images.dtype)


def _shifted(positions: tf.Tensor, drawn: tf.Tensor, size: int) -> tf.Tensor:
    """Positions (1, size) moved by random numbers (n, 1), mirrored at both edges: (n, size)."""
    moved = positions + drawn % (2 * SHIFT + 1) - SHIFT
    last = size - 1
    return last - tf.abs(last - tf.abs(moved))


def _in_square(drawn: tf.Tensor, size: int) -> tf.Tensor:
    """Which positions along one axis belong to the square around a random centre: (n, size)."""
    offsets = tf.range(size) - drawn % size
    return (offsets >= -CUTOUT // 2) & (offsets < CUTOUT // 2)
