"""Figures of what a model makes of the test images, of which there are n in c classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import ConfusionMatrixDisplay

from cifar_hpo.confusion import accuracy_by_class
from cifar_hpo.report.style import BLUE, INK, as_text, new_axes

MAX_NUMBERED_CLASSES = 20
"""Classes up to which a confusion matrix has its counts written in."""

MAX_NAMED_CLASSES = 40
"""Classes up to which all are named; of more those are that are recognised worst."""

MAX_NAME = 30
"""Characters of a class's name on an axis."""

COLUMNS = 8
"""Images in a row."""


def confusion(matrix: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Test images by true (rows) and predicted class; matrix (c, c)."""
    figure, axes = new_axes(5.4, 4.8)
    display = ConfusionMatrixDisplay(matrix, display_labels=[_short(name) for name in classes])
    display.plot(
        ax=axes,
        cmap="Blues",
        colorbar=False,
        xticks_rotation=45,
        values_format="d",
        include_values=len(classes) <= MAX_NUMBERED_CLASSES,
    )
    axes.grid(visible=False)
    if len(classes) > MAX_NAMED_CLASSES:
        axes.set(xticks=[], yticks=[])
    return figure


def _short(name: str) -> str:
    """A class's name as an axis shows it."""
    cut = name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"
    return as_text(cut)


def per_class(matrix: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """The share of each class's test images that was recognised; matrix (c, c).

    Of more than MAX_NAMED_CLASSES those that are recognised worst are shown.
    """
    figure, axes = new_axes(4.2, 4.8)
    accuracies = list(accuracy_by_class(matrix, classes).items())
    if len(accuracies) > MAX_NAMED_CLASSES:
        accuracies = sorted(accuracies, key=lambda entry: entry[1])[:MAX_NAMED_CLASSES]
        axes.set_title(f"the {MAX_NAMED_CLASSES} worst of {len(classes)}")
    places = range(len(accuracies))
    bars = axes.barh(places, [accuracy for _, accuracy in accuracies], color=BLUE)
    axes.set_yticks(places, [_short(name) for name, _ in accuracies])
    texts = [f"{accuracy:.2f}" for _, accuracy in accuracies]
    axes.bar_label(bars, texts, padding=3, color=INK)
    axes.invert_yaxis()
    axes.set(xlabel="accuracy on test images", xlim=(0, 1.1))
    return figure


def _as_picture(image: NDArray[Any]) -> NDArray[Any]:
    """An image (h, w, c) as (h, w) of any range, or (h, w, 3 or 4) of bytes or floats to 1."""
    if image.shape[2] not in (3, 4):
        return image[:, :, 0]
    if image.dtype == np.uint8:
        return image
    low, high = min(float(image.min()), 0.0), max(float(image.max()), 1.0)
    scaled: NDArray[Any] = (image - low) / (high - low)
    return scaled


def misclassified(images: NDArray[Any], titles: Sequence[str]) -> Figure:
    """Images (n, h, w, c) under titles that say what they are and were taken for.

    One of other channels than a picture's is shown by its first, and floats that leave 0 to 1 by
    their own range.
    """
    rows = -(-len(images) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(9, 1.35 * rows), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        axes.imshow(_as_picture(image), interpolation="nearest", cmap="gray")
        axes.set_title(title, fontsize=7)
    return figure
