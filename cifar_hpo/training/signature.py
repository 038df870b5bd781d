"""What a network reads and what the numbers mean that it gives: a `Signature`.

For each kind of labels `LabelKind` has the last layer's activation, the loss, and what tells beside
the loss how good a network is; `scores` computes both for predictions that are at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from cifar_hpo.config.app import CIFAR10_SHAPE, Shape
from cifar_hpo.data.dataset import Dataset
from cifar_hpo.data.labels import CLASSES, NUMBERS, SEVERAL


class Signature(NamedTuple):
    """Images of a shape (h, w, c) and a dtype in, so many numbers for each image out.

    labels: their kind, one of those in data/labels.py.
    """

    outputs: int
    labels: str = CLASSES
    shape: Shape = CIFAR10_SHAPE
    dtype: str = "uint8"

    @classmethod
    def of(cls, dataset: Dataset) -> Signature:
        """Of the networks that learn a dataset."""
        return cls(dataset.outputs, dataset.labels, dataset.shape, np.dtype(dataset.dtype).name)

    @property
    def kind(self) -> LabelKind:
        return KINDS[self.labels]

    @property
    def is_scaled(self) -> bool:
        """Whether pixels go from 0 to 255, and are brought to 0 to 1 before anything else."""
        return self.dtype == "uint8"

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Of one image's label: empty for classes, each of which is one whole number."""
        return () if self.labels == CLASSES else (self.outputs,)

    @property
    def label_dtype(self) -> str:
        """Of labels in memory."""
        return "int32" if self.labels == CLASSES else "float32"


@dataclass(frozen=True)
class LabelKind:
    """How a network learns labels of a kind.

    activation: of its last layer. loss: Keras' name of it. metric: what tells how good it is beside
    the loss. outputs: what its outputs are, in words.
    """

    activation: str
    loss: str
    metric: str
    outputs: str

    def keras_metric(self) -> Any:
        """What `compile` is given for the metric, which then has this name."""
        if self.loss == "binary_crossentropy":
            return keras.metrics.BinaryAccuracy(name=self.metric)  # of each label
        return self.metric


KINDS = {
    CLASSES: LabelKind(
        "softmax", "sparse_categorical_crossentropy", "accuracy", "a probability for each class"
    ),
    SEVERAL: LabelKind(
        "sigmoid", "binary_crossentropy", "accuracy", "a probability for each label"
    ),
    NUMBERS: LabelKind("linear", "mean_squared_error", "mae", "a number for each of the labels"),
}

SMALLEST = 1e-7
"""Probability that a logarithm is taken of, as in Keras."""


def scores(labels: str, outputs: NDArray[np.float32], wanted: NDArray[Any]) -> dict[str, float]:
    """Loss and metric of outputs (n, k).

    wanted: the labels, (n,) of whole numbers for classes, else (n, k).
    """
    if labels == CLASSES:
        of_label = outputs[np.arange(len(wanted)), wanted]  # (n,)
        is_correct = outputs.argmax(axis=1) == wanted  # (n,)
        loss = -np.log(np.clip(of_label, SMALLEST, 1))
        return {"loss": float(loss.mean()), "accuracy": float(is_correct.mean())}
    if labels == SEVERAL:
        of_label = np.where(wanted > 0.5, outputs, 1 - outputs)  # (n, k)
        is_correct = (outputs > 0.5) == (wanted > 0.5)  # (n, k)
        loss = -np.log(np.clip(of_label, SMALLEST, 1))
        return {"loss": float(loss.mean()), "accuracy": float(is_correct.mean())}
    errors = outputs - wanted  # (n, k)
    return {"loss": float((errors**2).mean()), "mae": float(np.abs(errors).mean())}
