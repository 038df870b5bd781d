"""Schedules of the learning rate: `SCHEDULES` gives its share of the peak by the steps done."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

WARMUP_SHARE = 0.25
"""Share of the training in which a one-cycle learning rate rises."""

FIRST_SHARE = 0.04
"""Share of its peak at which a one-cycle learning rate begins: a 25th."""


def cosine(done: tf.Tensor) -> tf.Tensor:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
    return 0.5 * (1 + tf.cos(math.pi * done))


def one_cycle(done: tf.Tensor) -> tf.Tensor:
    """One triangle, from a 25th up to 1 and down to 0 (Smith and Topin 2018, arXiv 1708.07120)."""
    rising = FIRST_SHARE + (1 - FIRST_SHARE) * done / WARMUP_SHARE
    falling = (1 - done) / (1 - WARMUP_SHARE)
    return tf.minimum(rising, falling)


SCHEDULES: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {"cosine": cosine, "one_cycle": one_cycle}
"""By the name in training.schedule; `constant` needs none.

Each takes the share of all steps that are done, a float32 scalar from 0 to 1, and returns the
learning rate's share of its peak.
"""
