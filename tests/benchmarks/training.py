"""What training costs: an epoch in one graph against Keras' `fit`, precision, augmentation,
replicas.

    python tests/benchmarks/training.py [--data cifar10.npz] [--threads 1] [--isa AVX2]

All in this process, on the same images. Run by hand, with nothing else running.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import instruction_set
import numpy as np
import psutil
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from cifar_hpo import processor
from cifar_hpo.config import app as schema
from cifar_hpo.config.validation import validate_config
from cifar_hpo.data.synthetic import synthetic
from cifar_hpo.paths import CONF

IMAGES = 5_000
BF16 = "training.precision=mixed_bfloat16"
Step = Callable[[], object]


def composed(*overrides: str) -> schema.Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return validate_config(compose("config", list(overrides)))


def rates(steps: dict[str, Step], rounds: int = 6) -> dict[str, float]:
    """Images a second: the best of some rounds, since what disturbs only slows, and may last.

    In each round all take turns.
    """
    best = dict.fromkeys(steps, math.inf)
    for _ in range(rounds + 1):  # the first one traces
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: IMAGES / seconds for name, seconds in best.items()}


class Bench:
    """Networks of both kinds on the same 5,000 images, with the overrides that all share."""

    def __init__(self, base: Sequence[str]) -> None:
        from cifar_hpo.data.dataset import load_dataset
        from cifar_hpo.training import inputs, trainer
        from cifar_hpo.training.signature import Signature

        self.base = base
        config = composed(*base)
        trainer.set_up(config.training)
        self.dataset = load_dataset(config.data)
        self.signature = Signature.of(self.dataset)
        (images, labels), _ = inputs.tensors(self.dataset, config.data)
        self.images, self.labels = images[:IMAGES], labels[:IMAGES]

    def fit(self, *overrides: str) -> Step:
        from cifar_hpo.training import networks

        model = networks.keras_model(composed(*self.base, *overrides), self.signature)
        x, y = self.images.numpy(), self.labels.numpy()
        return lambda: model.fit(x, y, batch_size=32, verbose=0)

    def ours(self, *overrides: str, replicas: int = 1) -> Step:
        network = self.network(*overrides, replicas=replicas)
        return lambda: network.fit(self.images, self.labels, 0, 1)

    def network(self, *overrides: str, replicas: int = 1) -> Any:
        from cifar_hpo.training import networks

        config = composed(*self.base, *overrides)
        return networks.initial_network(config, self.signature, list(range(replicas)))

    def seconds_to_first_step(self, *overrides: str) -> float:
        """From the start of a trial; its first step is its only one."""
        started = time.perf_counter()
        network = self.network("training.epochs=1", *overrides)
        network.fit(self.images[:32], self.labels[:32], 0, 1)
        return time.perf_counter() - started


def beside_fit(bench: Bench) -> Table:
    table = Table("images a second", "model.fit", "ours", "×", box=None)
    for filters, kernel in itertools.product((4, 8, 16), (3, 7)):
        chosen = [f"model.filters={filters}", f"model.kernel_size={kernel}"]
        speeds = rates({"fit": bench.fit(*chosen), "ours": bench.ours(*chosen)})
        fit, ours = speeds["fit"], speeds["ours"]
        name = f"{filters} neurons, kernel {kernel}"
        table.add_row(name, f"{fit:,.0f}", f"{ours:,.0f}", f"{ours / fit:.2f}")
    return table


def options(bench: Bench) -> Table:
    table = Table("4 neurons, kernel 7", "images a second", "beside", box=None)
    speeds = rates(
        {
            "alone": bench.ours(),
            "with flip, shift and cutout": bench.ours("data.augment=[flip,shift,cutout]"),
            "2 replicas": bench.ours(replicas=2),
            "4 replicas": bench.ours(replicas=4),
            "8 replicas": bench.ours(replicas=8),
            "mixed_bfloat16": bench.ours(BF16),
            "mixed_bfloat16, 4 replicas": bench.ours(BF16, replicas=4),
            "mixed_bfloat16, 8 replicas": bench.ours(BF16, replicas=8),
        }
    )
    for name, speed in speeds.items():
        precision = "mixed_bfloat16" if "bfloat16" in name else "alone"
        count = int(name.split()[-2]) if "replicas" in name else 1
        beside = f"{speed / speeds['alone']:.2f} ×"
        if count > 1:
            beside = f"cost {speeds[precision] / speed:.2f} × one"
        table.add_row(name, f"{speed * count:,.0f}", beside)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="an .npz as data=npz takes it; else synthetic")
    parser.add_argument("--threads", type=int, default=1)
    instruction_set.add_option(parser)
    given = parser.parse_args()
    computes_with = instruction_set.use(given.isa)
    with processor.quiet_tensorflow():
        import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        path = given.data and given.data.absolute()
        os.chdir(folder)
        if path is None:
            path = Path("synthetic.npz").absolute()
            (x_train, y_train), (x_test, y_test) = synthetic(2 * IMAGES, 100)
            np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
        bench = Bench(["data=npz", f"data.path={path}", f"training.threads={given.threads}"])
        tf.random.set_seed(0)  # else fit refuses to shuffle where all is to be repeatable
        console = Console(width=120)
        console.print(f"batch 32, {given.threads} thread(s), {computes_with}, {tf.__version__}")
        console.print(beside_fit(bench))
        console.print(options(bench))

        first = bench.seconds_to_first_step
        new = [first(f"model.filters={n}") for n in (5, 6, 7)]
        rates_tried = (0.01, 0.02, 0.03)
        known = [first("model.filters=7", f"optimizer.learning_rate={n}") for n in rates_tried]
        console.print(f"first step: {median(new):.2f} s, of a known shape {median(known):.2f} s")
        memory = psutil.Process().memory_info().rss / 2**30
        console.print(f"resident memory: {memory:.2f} GiB")


if __name__ == "__main__":
    main()
