"""`python -m cifar_hpo.predict IMAGE…`: names what is on images, with probabilities, by the
champion or by the model of a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rich.table import Table
from rich.text import Text

from cifar_hpo import processor
from cifar_hpo.config.app import IMAGE_SIZE
from cifar_hpo.console import terminal
from cifar_hpo.errors import DataError, UserError, exit_with

SHOWN = 3
"""Classes named for each image, the likeliest first."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exit code 2 for an image or a model that is not there."""
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
        "--tracking-uri", help="MLflow's store; MLFLOW_TRACKING_URI, else mlflow.db unless said"
    )
    given = parser.parse_args(arguments)
    try:
        pictures = np.stack([picture(path) for path in given.images])
        processor.set_tensorflow_switches()
        with processor.quiet_tensorflow():
            import tensorflow as tf  # noqa: F401
        from cifar_hpo.tracking.reader import Records

        name, model, classes = Records(given.tracking_uri).model(given.run, given.model)
        terminal().print(_table(given.images, model.predict(pictures, verbose=0), classes, name))
    except UserError as error:
        exit_with(error)


def picture(path: Path) -> NDArray[np.uint8]:
    """An image file as the models take it: RGB, scaled, uint8 (32, 32, 3). Raises DataError when it
    is none."""
    try:
        with Image.open(path) as image:
            return np.asarray(
                image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC),
                np.uint8,
            )
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} can't be read as an image ({type(error).__name__})") from None


def _table(
    paths: Sequence[Path], probabilities: NDArray[np.float32], classes: Sequence[str], name: str
) -> Any:
    table = Table(
        "image",
        *("" for _ in range(SHOWN)),
        box=None,
        pad_edge=False,
        header_style="bold",
        title=f"by {name}",
        title_justify="left",
    )
    for path, chances in zip(paths, probabilities, strict=True):
        cells = (
            str(path),
            *(f"{classes[place]} {chances[place]:.3f}" for place in np.argsort(-chances)[:SHOWN]),
        )
        table.add_row(*map(Text, cells))
    return table


if __name__ == "__main__":
    main()
