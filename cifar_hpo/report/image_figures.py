"""Figures of what a model makes of the test images, of which there are n in c classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import ConfusionMatrixDisplay

from cifar_hpo.confusion import accuracy_by_class
from cifar_hpo.report.style import BLUE, INK, new_axes

MAX_NUMBERED_CLASSES = 20
"""Classes up to which a confusion matrix has its counts written in."""

COLUMNS = 8
"""Images in a row."""


def confusion(matrix: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Test images by true (rows) and predicted class; matrix (c, c)."""
    figure, axes = new_axes(5.4, 4.8)
    display = ConfusionMatrixDisplay(matrix, display_labels=list(classes))
    display.plot(
        ax=axes,
        cmap="Blues",
        colorbar=False,
        xticks_rotation=45,
        values_format="d",
        include_values=len(classes) <= MAX_NUMBERED_CLASSES,
    )
    axes.grid(visible=False)
    return figure


def per_class(matrix: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """The share of each class's test images that was recognised; matrix (c, c)."""
    figure, axes = new_axes(4.2, 4.8)
    accuracies = accuracy_by_class(matrix, classes)
    bars = axes.barh(list(accuracies), list(accuracies.values()), color=BLUE)
    texts = [f"{accuracy:.2f}" for accuracy in accuracies.values()]
    axes.bar_label(bars, texts, padding=3, color=INK)
    axes.invert_yaxis()
    axes.set(xlabel="accuracy on test images", xlim=(0, 1.1))
    return figure


def misclassified(images: NDArray[np.uint8], titles: Sequence[str]) -> Figure:
    """Images (n, 32, 32, 3) under titles that say what they are and were taken for."""
    rows = -(-len(images) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(9, 1.35 * rows), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(title, fontsize=7)
    return figure
