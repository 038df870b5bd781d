"""The article's results as data: its `Row`s, its claims, and the studies that try them again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A row of the article's tables: one seed.

    study: ours that tries it again. value: of what varies there. accuracy: on the test images.
    seconds: of an epoch, where the notebooks show them.
    """

    study: str
    value: int | str
    name: str
    accuracy: float
    seconds: int | None


@dataclass(frozen=True)
class Claim:
    """A conclusion of the article: in each pair the first value should be the better."""

    text: str
    study: str
    pairs: tuple[tuple[int | str, int | str], ...]


EPOCHS = 10
"""Epochs of each of the article's models."""

ROWS = (
    Row("neuron_count", 4, "4, 8, 16 neurons, kernel 7", 0.6339, 100),
    Row("neuron_count", 8, "8, 16, 32 neurons, kernel 7", 0.6772, None),
    Row("neuron_count", 16, "16, 32, 64 neurons, kernel 7", 0.7042, 212),
    Row("kernel_size", 7, "kernel 7; 16, 32, 64 neurons", 0.6469, 212),
    Row("kernel_size", 5, "kernel 5; 16, 32, 64 neurons", 0.6980, 126),
    Row("kernel_size", 3, "kernel 3; 16, 32, 64 neurons", 0.7172, 64),
    Row("depth", "[16,32]", "2 layers, kernel 3", 0.6571, 52),
    Row("depth", "[16,32,32,64]", "4 layers, kernel 3", 0.6963, 62),
    Row("depth", "[16,32,32,32,32,64]", "6 layers, kernel 3", 0.6873, 61),
    Row("final", "base", "base: 4, 8, 16 neurons, kernel 7", 0.5932, 100),
    Row("final", "enhanced", "enhanced: 16, 32, 64 neurons, kernel 3", 0.7160, 64),
)
"""Seconds of the same model in another of its tables where a table has none."""

ENHANCED = ROWS[-1]
"""The article's best model, which a search should beat."""

CLAIMS = (
    Claim("accuracy rises with the neurons in each layer", "neuron_count", ((8, 4), (16, 8))),
    Claim("accuracy rises as the kernel shrinks", "kernel_size", ((5, 7), (3, 5))),
    Claim(
        "four layers beat two and six",
        "depth",
        (("[16,32,32,64]", "[16,32]"), ("[16,32,32,64]", "[16,32,32,32,32,64]")),
    ),
)

STUDIES = tuple(dict.fromkeys(row.study for row in ROWS))
"""Our studies that try the article's tables again, in its order."""
