"""Plain Python: the shortest tour through some cities, by simulated annealing.

`python -m cifar_hpo.examples.tour` runs it once; README.md has its sweeps.
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
from pathlib import Path

import hydra
from omegaconf import DictConfig

import cifar_hpo

log = logging.getLogger(__name__)

City = tuple[float, float]


def cities(count: int) -> list[City]:
    """The same ones each time, in a square with sides of 1."""
    rng = random.Random(count)  # noqa: S311  no secret
    return [(rng.random(), rng.random()) for _ in range(count)]


def length(tour: list[City]) -> float:
    """From the first city through all and back."""
    following = [*tour[1:], tour[0]]
    return sum(math.dist(here, there) for here, there in zip(tour, following, strict=True))


def changed(tour: list[City], move: str, rng: random.Random) -> list[City]:
    """The tour with two of its cities swapped, or with a part of it in reverse."""
    first, last = sorted(rng.sample(range(len(tour)), 2))
    new = list(tour)
    if move == "swap":
        new[first], new[last] = new[last], new[first]
    else:
        new[first : last + 1] = reversed(new[first : last + 1])
    return new


@hydra.main(version_base="1.3", config_path="conf", config_name="tour")
def anneal(config: DictConfig) -> dict[str, float]:
    rng = random.Random(config.seed)  # noqa: S311  no secret
    tour = cities(config.cities)
    temperature = config.temperature
    done = 0

    # A trial that was interrupted goes on from here.
    checkpoint = Path(cifar_hpo.folder(), "tour.json")
    if checkpoint.exists():
        saved = json.loads(checkpoint.read_text())
        done, temperature = saved["epoch"], saved["temperature"]
        tour = [tuple(city) for city in saved["tour"]]

    for epoch in range(done + 1, config.epochs + 1):
        for _ in range(config.steps):
            new = changed(tour, config.move, rng)
            rise = length(new) - length(tour)
            if rise < 0 or rng.random() < math.exp(-rise / temperature):
                tour = new
        temperature *= config.cooling
        state = {"epoch": epoch, "temperature": temperature, "tour": tour}
        draft = checkpoint.with_suffix(".draft")  # a kill leaves no half-written checkpoint
        draft.write_text(json.dumps(state))
        draft.replace(checkpoint)
        time.sleep(config.pause)
        cifar_hpo.report(epoch, config.epochs, length(tour), temperature=temperature)
    log.info("length %.4f", length(tour))
    return {"length": length(tour), "temperature": temperature}


if __name__ == "__main__":
    anneal()
