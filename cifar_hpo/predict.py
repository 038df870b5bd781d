"""`python -m cifar_hpo.predict IMAGE…`: names what is on images, with probabilities.

The champion is asked, or the model of a run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table
from rich.text import Text

from cifar_hpo import processor
from cifar_hpo.config.app import IMAGE_SIZE
from cifar_hpo.console import set_up_output, terminal
from cifar_hpo.data.image_files import open_rgb
from cifar_hpo.errors import DataError, UserError, exit_with
from cifar_hpo.paths import MLFLOW_DB

MAX_SHOWN_CLASSES = 3
"""Classes named for each image, the likeliest first."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exit code 2 for an image or a model that is not there."""
    set_up_output()
    options = _parser().parse_args(arguments)
    try:
        images = np.stack([read_image(path) for path in options.images])
        processor.set_tensorflow_switches()
        from cifar_hpo.tracking.reader import RunReader

        reader = RunReader(options.tracking_uri)
        with processor.quiet_tensorflow():
            import tensorflow as tf  # noqa: F401
        loaded = reader.model(options.run, options.model)
        probabilities = loaded.model.predict(images, verbose=0)
        table = prediction_table(options.images, probabilities, loaded.classes, loaded.title)
        terminal().print(table)
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
        help=f"any picture; it is scaled to {IMAGE_SIZE}×{IMAGE_SIZE} pixels",
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


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as the models take it: RGB, scaled, uint8 (32, 32, 3).

    Raises DataError when it is none.
    """
    size = (IMAGE_SIZE, IMAGE_SIZE)
    if not path.exists():
        raise DataError(f"{path} does not exist")
    return np.asarray(open_rgb(path).resize(size, Image.Resampling.BICUBIC))


def prediction_table(
    paths: Sequence[Path],
    probabilities: NDArray[np.float32],
    classes: Sequence[str],
    title: str,
) -> Table:
    """A row for each image with its likeliest classes.

    probabilities: (images, classes). title: of the model.
    """
    table = Table(
        "image",
        *[""] * MAX_SHOWN_CLASSES,
        box=None,
        pad_edge=False,
        header_style="bold",
        title=f"by {title}",
        title_justify="left",
    )
    for path, row in zip(paths, probabilities, strict=True):
        cells = [str(path)]
        for label in np.argsort(-row)[:MAX_SHOWN_CLASSES]:
            cells.append(f"{classes[label]} {row[label]:.3f}")
        table.add_row(*map(Text, cells))
    return table


if __name__ == "__main__":
    main()
