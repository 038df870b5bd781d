"""What a user's function of data may return: a `Dataset`, which the package offers as its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Dataset:
    """Images and labels of one's own, for a function that `data` names by `_target_`.

    train, test: pairs of images and labels. Images are (n, height, width) or (n, height, width,
    channels) of uint8 or floats. Whole numbers, texts and one-hot rows are labels of classes; rows
    of 0 and 1 are several labels of an image; floats are numbers to be predicted. Or each is a
    tf.data.Dataset of such pairs, which is then trained on as it comes.
    classes: the names of the classes, or of the columns of labels. name: of the dataset, by which
    runs and models are kept; the function's unless it is given. validation: a tf.data.Dataset; of
    arrays data.validation takes a share. labels: "classes", "several" or "numbers", where their
    form does not say it.
    """

    train: Any
    test: Any
    classes: Sequence[str] = ()
    name: str | None = None
    validation: Any = None
    labels: str | None = None
