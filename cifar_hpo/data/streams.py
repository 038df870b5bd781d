"""A dataset that is not in memory: `Streams` are the tf.data.Datasets of a user's function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Streams:
    """Training, validation and test images, each a tf.data.Dataset that ends by itself.

    count: of the training images.
    """

    train: Any
    validation: Any
    test: Any
    count: int

    def in_batches(self, size: int) -> tuple[Any, Any, Any]:
        """All three as tf.data.Datasets of batches, images (size, h, w, c) and their labels."""
        raise NotImplementedError
