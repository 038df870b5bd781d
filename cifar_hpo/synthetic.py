"""Images made from a seed with NumPy alone, for trying things out where CIFAR-10 can't be had."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cifar_hpo.config import IMAGE_SIZE

Images = NDArray[np.uint8]

MOTIFS = 30


def synthetic(train: int = 50_000, test: int = 10_000, seed: int = 0) -> tuple[tuple[Images, Images], tuple[Images, Images]]:
    """Ten classes, told apart by the three 7×7 motifs that are strewn over them more often than others, and a little by their tint.

    Ten motifs lie at random places on each noisy image, half of them the class's own, the others any of thirty; so there is a
    limit to what any model can reach, and the width, the kernel and the optimizer decide how near it comes. The tint gives
    learning its start: without it wide models stay at chance for epochs.
    """
    rng = np.random.default_rng(seed)
    motifs = rng.normal(size=(MOTIFS, 7, 7, 3)).astype(np.float32)
    motifs = np.sum([np.roll(motifs, shift, axis) for axis in (1, 2) for shift in (-1, 0, 1)], axis=0)
    motifs /= motifs.std(axis=(1, 2, 3), keepdims=True)
    own = np.stack([rng.choice(MOTIFS, size=3, replace=False) for _ in range(10)])
    tints = rng.normal(scale=0.35, size=(10, 1, 1, 3)).astype(np.float32)
    labels = rng.integers(0, 10, size=train + test).astype(np.uint8)
    images = np.concatenate([_strewn(motifs, own[part], tints[part], rng) for part in np.array_split(labels, -(-len(labels) // 5000))])
    return (images[:train], labels[:train]), (images[train:], labels[train:])


def _strewn(motifs: NDArray[np.float32], own: NDArray[np.int64], tints: NDArray[np.float32], rng: np.random.Generator, places: int = 10) -> Images:
    """Images (n, 32, 32, 3), each with its own motifs (n, 3) among others, and its tint (n, 1, 1, 3)."""
    n = len(own)
    canvas = rng.normal(scale=0.4, size=(n, IMAGE_SIZE, IMAGE_SIZE, 3)).astype(np.float32)
    canvas += rng.normal(scale=0.6, size=(n, 1, 1, 3)).astype(np.float32) + tints
    image, offsets = np.arange(n)[:, None, None], np.arange(7)
    for _ in range(places):
        chosen = own[np.arange(n), rng.integers(0, own.shape[1], size=n)]
        motif = motifs[np.where(rng.random(n) < 0.5, chosen, rng.integers(0, MOTIFS, size=n))]
        row, column = rng.integers(0, IMAGE_SIZE - 6, size=(2, n, 1, 1))
        strength = rng.uniform(1, 2, size=(n, 1, 1, 1)).astype(np.float32)
        canvas[image, row + offsets[:, None], column + offsets] += strength * motif
    return np.clip(128 + 40 * canvas, 0, 255).astype(np.uint8)
