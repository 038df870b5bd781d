"""scikit-learn: a small network that reads handwritten digits, with a structured config.

`python -m cifar_hpo.examples.digits` trains it once; README.md has its sweeps.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import cifar_hpo

log = logging.getLogger(__name__)


@dataclass
class Config:
    hidden: int = 16
    learning_rate: float = 0.01
    alpha: float = 1e-4
    epochs: int = 10
    seed: int = 0
    defaults: list[Any] = field(
        default_factory=lambda: [
            "_self_",
            {"override hydra/sweeper": "study"},
            {"override hydra/launcher": "workers"},
        ]
    )


ConfigStore.instance().store(name="digits", node=Config)


@hydra.main(version_base="1.3", config_path=None, config_name="digits")
def train(config: Config) -> float:
    x, y = load_digits(return_X_y=True)
    x_train, x_val, y_train, y_val = train_test_split(
        x / 16, y, test_size=0.25, random_state=config.seed, stratify=y
    )
    model = MLPClassifier(
        (config.hidden,),
        learning_rate_init=config.learning_rate,
        alpha=config.alpha,
        random_state=config.seed,
    )
    accuracy = 0.0
    for epoch in range(1, config.epochs + 1):
        with warnings.catch_warnings(action="ignore"):
            model.partial_fit(x_train, y_train, classes=range(10))
        accuracy = model.score(x_val, y_val)
        f1 = f1_score(y_val, model.predict(x_val), average="macro")
        cifar_hpo.report(epoch, config.epochs, accuracy, loss=model.loss_, f1=f1)
    log.info("accuracy %.4f", accuracy)
    return accuracy


if __name__ == "__main__":
    train()
