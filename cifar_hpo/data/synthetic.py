"""The synthetic images: made from a seed with NumPy alone, for where CIFAR-10 can't be had."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cifar_hpo.config.app import IMAGE_SIZE
from cifar_hpo.data.arrays import Images, Split

VERSION = "5"
"""Counts the sets that this module has made so far: another one means other studies."""

CLASS_COUNT = 10
MOTIFS = 40
SIDE = 7
"""Pixels of a motif's side."""

OWN_MOTIFS = 4
"""Motifs of a class."""

PLACES = 10
"""Motifs on an image."""

OWN_SHARE = 0.7
"""Share of an image's motifs that are its class's own."""

IMAGES_AT_ONCE = 5_000
"""Images are drawn as floats, which take four times their memory: not all at once."""


def synthetic(train: int = 3_500, test: int = 1_000, seed: int = 0) -> tuple[Split, Split]:
    """Ten classes, told apart by four 7×7 motifs each, and a little by their tint.

    Ten motifs lie at random places on each noisy image, 0.7 of them the class's own, the others any
    of forty; so there is a limit to what any model can reach, and width, kernel and optimizer
    decide how near it comes. The tint gives learning its start: without it wide models stay at
    chance.

    As few images as let three base models of 4, 8 and 16 neurons train for ten epochs within 90 s
    of the command, on two cores with AVX2 that have to import everything first.

    Returns training and test images (n, 32, 32, 3) with their labels (n,), all uint8.
    """
    rng = np.random.default_rng(seed)
    motifs = _smooth_motifs(rng)
    own = []
    for _ in range(CLASS_COUNT):
        own.append(rng.choice(MOTIFS, size=OWN_MOTIFS, replace=False))
    own_motifs = np.stack(own)  # (classes, 4)
    tints = rng.normal(scale=0.3, size=(CLASS_COUNT, 1, 1, 3)).astype(np.float32)
    labels = rng.integers(0, CLASS_COUNT, size=train + test).astype(np.uint8)
    parts = np.array_split(labels, -(-len(labels) // IMAGES_AT_ONCE))
    images = np.concatenate(
        [_draw_images(motifs, own_motifs[part], tints[part], rng) for part in parts]
    )
    return (images[:train], labels[:train]), (images[train:], labels[train:])


def _smooth_motifs(rng: np.random.Generator) -> NDArray[np.float32]:
    """All motifs (40, 7, 7, 3), of variance 1; neighbouring pixels of one go together."""
    noise = rng.normal(size=(MOTIFS, SIDE, SIDE, 3)).astype(np.float32)
    shifted = []
    for axis in (1, 2):
        for shift in (-1, 0, 1):
            shifted.append(np.roll(noise, shift, axis))
    motifs: NDArray[np.float32] = np.sum(shifted, axis=0)
    motifs /= motifs.std(axis=(1, 2, 3), keepdims=True)
    return motifs


def _draw_images(
    motifs: NDArray[np.float32],
    own: NDArray[np.int64],
    tints: NDArray[np.float32],
    rng: np.random.Generator,
) -> Images:
    """Images (n, 32, 32, 3), uint8, each with its class's motifs among others, and its tint.

    motifs: all, (40, 7, 7, 3). own: which of them are each image's class's, (n, 4). tints: of the
    images, (n, 1, 1, 3).
    """
    n = len(own)
    canvas = rng.normal(scale=0.3, size=(n, IMAGE_SIZE, IMAGE_SIZE, 3)).astype(np.float32)
    canvas += rng.normal(scale=0.3, size=(n, 1, 1, 3)).astype(np.float32) + tints
    image = np.arange(n)[:, None, None]  # (n, 1, 1)
    offsets = np.arange(SIDE)
    for _ in range(PLACES):
        chosen = own[np.arange(n), rng.integers(0, OWN_MOTIFS, size=n)]  # (n,)
        is_own = rng.random(n) < OWN_SHARE
        number = np.where(is_own, chosen, rng.integers(0, MOTIFS, size=n))
        row, column = rng.integers(0, IMAGE_SIZE - SIDE + 1, size=(2, n, 1, 1))
        strength = rng.uniform(1.5, 2.5, size=(n, 1, 1, 1)).astype(np.float32)
        rows = row + offsets[:, None]  # (n, 7, 1)
        columns = column + offsets  # (n, 1, 7)
        canvas[image, rows, columns] += strength * motifs[number]  # (n, 7, 7, 3)
    return np.clip(128 + 40 * canvas, 0, 255).astype(np.uint8)
