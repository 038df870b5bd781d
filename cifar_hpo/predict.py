"""`python -m cifar_hpo.predict IMAGE…`: names what is on images, with probabilities.

The champion is asked, or the model of a run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cifar_hpo import processor
from cifar_hpo.config.app import RAW_PIXELS
from cifar_hpo.console import set_up_output, terminal
from cifar_hpo.data.image_files import open_rgb
from cifar_hpo.data.labels import NUMBERS
from cifar_hpo.errors import DataError, StudyError, UserError, exit_with
from cifar_hpo.paths import MLFLOW_DB

if TYPE_CHECKING:
    from cifar_hpo.tracking.reader import LoadedModel

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's, by the channels that a model takes."""

MAX_SHOWN_CLASSES = 3
"""Classes named for each image, the likeliest first."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exit code 2 for an image or a model that is not there."""
    set_up_output()
    options = _parser().parse_args(arguments)
    try:
        pictures = [open_image(path) for path in options.images]
        processor.set_tensorflow_switches()
        from cifar_hpo.tracking.reader import RunReader

        reader = RunReader(options.tracking_uri)
        with processor.quiet_tensorflow():
            import tensorflow as tf  # noqa: F401
        loaded = reader.model(options.run, options.model)
        images = np.stack([as_input(picture, loaded) for picture in pictures])
        outputs = loaded.model.predict(images, verbose=0)
        show = value_table if loaded.labels == NUMBERS else prediction_table
        terminal().print(show(options.images, outputs, loaded.classes, loaded.title))
    except (UserError, OSError) as error:
        exit_with(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cifar_hpo.predict", description="What is on these images?"
    )
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="any picture; it is scaled to the size that the model takes",
    )
    parser.add_argument(
        "--run", help="the MLflow run whose model is asked; the champion unless said"
    )
    parser.add_argument(
        "--model", help="the registered model whose champion is asked, where there are several"
    )
    parser.add_argument(
        "--tracking-uri", help=f"MLflow's store; MLFLOW_TRACKING_URI, else {MLFLOW_DB} unless said"
    )
    return parser


def open_image(path: Path) -> Image.Image:
    """An image file, RGB. Raises DataError when it is none."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    return open_rgb(path)


def as_input(picture: Image.Image, model: LoadedModel) -> NDArray[Any]:
    """A picture, RGB, as a model takes it: scaled, of its channels and of its range, (h, w, c).

    Raises StudyError where no picture can be that.
    """
    height, width, channels = model.shape
    if channels not in MODES or model.pixels is None:
        scale = "of a scale of their own" if model.pixels is None else f"with {channels} channels"
        raise StudyError(f"{model.title}: it takes images {scale}, which no picture has")
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized.convert(MODES[channels])).reshape(height, width, channels)
    return pixels if model.pixels == RAW_PIXELS else pixels * np.float32(model.pixels / RAW_PIXELS)


def prediction_table(
    paths: Sequence[Path],
    probabilities: NDArray[np.float32],
    classes: Sequence[str],
    title: str,
) -> Group:
    """A row for each image with its likeliest classes.

    probabilities: (images, classes). title: of the model.
    """
    table = _table(["image", *[""] * MAX_SHOWN_CLASSES])
    for path, row in zip(paths, probabilities, strict=True):
        cells = [str(path)]
        for label in np.argsort(-row)[:MAX_SHOWN_CLASSES]:
            cells.append(f"{classes[label]} {row[label]:.3f}")
        table.add_row(*map(Text, cells))
    return Group(Text(f"by {title}"), table)


def value_table(
    paths: Sequence[Path], values: NDArray[np.float32], names: Sequence[str], title: str
) -> Group:
    """A row for each image with the numbers that are predicted for it, (images, names)."""
    table = _table([escape(name) for name in ("image", *names)])
    for path, row in zip(paths, values, strict=True):
        table.add_row(*map(Text, [str(path), *(f"{value:.4g}" for value in row)]))
    return Group(Text(f"by {title}"), table)


def _table(columns: Sequence[str]) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="bold")


if __name__ == "__main__":
    main()
