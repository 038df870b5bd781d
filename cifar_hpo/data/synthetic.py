"""Images made from a seed with NumPy alone, for trying things out where CIFAR-10 can't be had."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cifar_hpo.config.app import IMAGE_SIZE

Images = NDArray[np.uint8]
Split = tuple[Images, Images]

VERSION = "5"
"""Counts the sets that this module has made so far: another one means other studies."""

CLASSES = 10
MOTIFS, OWN_MOTIFS, PLACES, OWN_SHARE = 40, 4, 10, 0.7
SIDE = 7
"""Pixels of a motif's side."""


def synthetic(train: int = 3_500, test: int = 1_000, seed: int = 0) -> tuple[Split, Split]:
    """Ten classes, told apart by four 7×7 motifs each, and a little by their tint.

    Ten motifs lie at random places on each noisy image, 0.7 of them the class's own, the others any
    of forty; so there is a limit to what any model can reach, and width, kernel and optimizer
    decide how near it comes. The tint gives learning its start: without it wide models stay at
    chance.

    As few images as let three base models of 4, 8 and 16 neurons train for ten epochs within 90 s
    of the command, on two cores with AVX2 that have to import everything first.
    """
    rng = np.random.default_rng(seed)
    motifs = rng.normal(size=(MOTIFS, SIDE, SIDE, 3)).astype(np.float32)
    shifted = [np.roll(motifs, shift, axis) for axis in (1, 2) for shift in (-1, 0, 1)]
    motifs = np.sum(shifted, axis=0)  # smooth, so that neighbouring pixels go together
    motifs /= motifs.std(axis=(1, 2, 3), keepdims=True)
    own = np.stack([rng.choice(MOTIFS, size=OWN_MOTIFS, replace=False) for _ in range(CLASSES)])
    tints = rng.normal(scale=0.3, size=(CLASSES, 1, 1, 3)).astype(np.float32)
    labels = rng.integers(0, CLASSES, size=train + test).astype(np.uint8)
    parts = np.array_split(labels, -(-len(labels) // 5000))  # a canvas is floats: not all at once
    images = np.concatenate([_strewn(motifs, own[part], tints[part], rng) for part in parts])
    return (images[:train], labels[:train]), (images[train:], labels[train:])


def _strewn(
    motifs: NDArray[np.float32],
    own: NDArray[np.int64],
    tints: NDArray[np.float32],
    rng: np.random.Generator,
) -> Images:
    """Images (n, 32, 32, 3), each with its own motifs (n, 4) among others, and a tint (n, 1, 1,
    3)."""
    n = len(own)
    canvas = rng.normal(scale=0.3, size=(n, IMAGE_SIZE, IMAGE_SIZE, 3)).astype(np.float32)
    canvas += rng.normal(scale=0.3, size=(n, 1, 1, 3)).astype(np.float32) + tints
    image, offsets = np.arange(n)[:, None, None], np.arange(SIDE)
    for _ in range(PLACES):
        chosen = own[np.arange(n), rng.integers(0, OWN_MOTIFS, size=n)]
        is_own = rng.random(n) < OWN_SHARE
        motif = motifs[np.where(is_own, chosen, rng.integers(0, MOTIFS, size=n))]
        row, column = rng.integers(0, IMAGE_SIZE - SIDE + 1, size=(2, n, 1, 1))
        strength = rng.uniform(1.5, 2.5, size=(n, 1, 1, 1)).astype(np.float32)
        canvas[image, row + offsets[:, None], column + offsets] += strength * motif
    return np.clip(128 + 40 * canvas, 0, 255).astype(np.uint8)
