"""The studies of the results laid out in a real storage, so that their truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from support import lay_out

JITTER = np.random.default_rng(0).normal(0, 0.004, (3, 5))
LEVELS: dict[str, tuple[str, dict[str, float]]] = {
    "neuron_count": ("model.filters", {"4": 0.64, "8": 0.64, "16": 0.64}),
    "kernel_size": ("model.kernel_size", {"7": 0.70, "5": 0.68, "3": 0.66}),
    "depth": (
        "model.filters",
        {"[16,32]": 0.60, "[16,32,32,64]": 0.70, "[16,32,32,32,32,64]": 0.65},
    ),
    "final": ("model", {"base": 0.59, "enhanced": 0.69}),
}


def lay_out_article(folder: Path) -> Any:
    """Neurons that make no difference, kernels that are good where the article says bad, and depths
    as it says; returns the storage."""
    storage = None
    for study, (key, levels) in LEVELS.items():
        outcomes = []
        for place, (value, level) in enumerate(levels.items()):
            outcomes.append(({key: value}, list(level + JITTER[place])))
        storage = lay_out(folder, outcomes, study)
    return storage


def lay_out_optimizers(folder: Path) -> Any:
    """Two optimizers, of which the second is the better, at two learning rates each."""
    outcomes = []
    for name, rate, level in (
        ("adam", 0.001, 0.70),
        ("adam", 0.01, 0.60),
        ("nesterov", 0.03, 0.71),
        ("nesterov", 0.001, 0.50),
    ):
        params = {"optimizer": name, "optimizer.learning_rate": rate}
        outcomes.append((params, list(level + JITTER[0])))
    return lay_out(folder, outcomes, "optimizer_final")


def lay_out_search(folder: Path) -> Any:
    """A search whose second trial is the first to beat the article, and five minutes of its final
    study beside it."""
    outcomes: list[tuple[dict[str, int], list[float] | str]] = [
        ({"model.filters": 16}, [0.71]),
        ({"model.filters": 32}, [0.74]),
        ({"model.filters": 64}, "diverged"),
        ({"model.filters": 48}, [0.83]),
    ]
    lay_out(folder, outcomes, "best_cnn", seconds=600)
    return lay_out(folder, [({}, [0.90, 0.91, 0.92])], "best_cnn_final", seconds=900)
