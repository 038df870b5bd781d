"""A confusion matrix read: `accuracy_by_class`, which runs, results and charts show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def accuracy_by_class(matrix: NDArray[np.int64], classes: Sequence[str]) -> dict[str, float]:
    """The share of each class's images that are recognised; 0 for a class without any.

    matrix: images by true (rows) and predicted class (columns), (c, c).
    """
    shares = np.diag(matrix) / np.maximum(matrix.sum(axis=1), 1)  # (c,)
    return dict(zip(classes, shares.tolist(), strict=True))
