"""PyTorch: the same digits by a network of its own, which goes on from its checkpoint.

`python -m cifar_hpo.examples.torch_digits` trains it once; README.md has its sweeps.
"""

from __future__ import annotations

import logging

import hydra
import torch
from omegaconf import DictConfig
from sklearn.datasets import load_digits
from torch import nn

import cifar_hpo

log = logging.getLogger(__name__)

TRAINING_IMAGES = 1_400
"""Of 1,797; the others are for validation."""


def network(hidden: int, dropout: float) -> nn.Module:
    """From 64 pixels to the logits of ten classes."""
    return nn.Sequential(
        nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 10)
    )


def scores(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """x: pixels (n, 64). y: labels (n,)."""
    model.eval()
    with torch.no_grad():
        logits = model(x)
    accuracy = (logits.argmax(1) == y).float().mean()
    return {"accuracy": accuracy.item(), "loss": nn.functional.cross_entropy(logits, y).item()}


@hydra.main(version_base="1.3", config_path="conf", config_name="torch_digits")
def train(config: DictConfig) -> dict[str, float]:
    torch.manual_seed(config.seed)
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    validation = x[TRAINING_IMAGES:], y[TRAINING_IMAGES:]
    model = network(config.hidden, config.dropout)
    optimizer = getattr(torch.optim, config.optimizer)(model.parameters(), config.learning_rate)
    done = 0

    # A trial that was interrupted goes on from here.
    checkpoint = cifar_hpo.folder() / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["epoch"]

    for epoch in range(done + 1, config.epochs + 1):
        model.train()
        for batch in torch.randperm(TRAINING_IMAGES).split(config.batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        draft = checkpoint.with_suffix(".draft")  # a kill leaves no half-written checkpoint
        torch.save(state, draft)
        draft.replace(checkpoint)
        now = scores(model, *validation)
        cifar_hpo.report(epoch, config.epochs, now["accuracy"], loss=now["loss"])
    result = scores(model, *validation)
    log.info("accuracy %(accuracy).4f  loss %(loss).4f", result)
    return result


if __name__ == "__main__":
    train()
