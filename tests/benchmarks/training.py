"""What training costs: the one-graph epoch against Keras' `fit`, precision, augmentation, replicas, and the time between trials.

    python tests/benchmarks/training.py [--data cifar10.npz] [--threads 1]

All in this process, on the same images, the base model unless said. Run by hand, with nothing else running; the README quotes it.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from cifar_hpo import config as schema
from cifar_hpo.objective import _hushed

with _hushed():
    import tensorflow as tf

    from cifar_hpo import data, network, training

IMAGES = 5_000


def composed(*overrides: str) -> schema.Config:
    with initialize_config_dir(str(schema.CONF), version_base="1.3"):
        return schema.check(compose("config", list(overrides)))


def rates(steps: dict[str, Callable[[], object]], rounds: int = 6) -> dict[str, float]:
    """Images a second: the best of some rounds, in which all take turns, since what disturbs only slows, and may last."""
    best = dict.fromkeys(steps, math.inf)
    for _ in range(rounds + 1):  # the first one traces
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: IMAGES / seconds for name, seconds in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="an .npz as data=npz takes it; synthetic images unless said")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    source = ["data=npz", f"data.path={given.data.absolute()}"] if given.data else ["data=synthetic"]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        base = [*source, f"training.threads={given.threads}"]
        config = composed(*base)
        training.set_up(config.training)
        dataset = data.load(config.data)
        (images, labels), _ = training.tensors(dataset, config.data)
        images, labels = images[:IMAGES], labels[:IMAGES]

        x, y = images.numpy(), labels.numpy()
        tf.random.set_seed(0)  # without one, fit refuses to shuffle where everything is to be repeatable

        def fit(*overrides: str) -> Callable[[], object]:
            model = network.compiled(composed(*base, *overrides), len(dataset.classes))
            return lambda: model.fit(x, y, batch_size=32, verbose=0)

        def ours(*overrides: str, replicas: int = 1) -> Callable[[], object]:
            net = network.network(composed(*base, *overrides), len(dataset.classes), list(range(replicas)))
            return lambda: net.fit(images, labels, 0, 1)

        bf16 = "training.precision=mixed_bfloat16"
        found = rates(
            {
                "kernel 3: model.fit": fit("model.kernel_size=3"),
                "kernel 3: an epoch in one graph": ours("model.kernel_size=3"),
                "kernel 7: model.fit": fit(),
                "kernel 7: an epoch in one graph": ours(),
                "… with flip, shift and cutout": ours("data.augment=[flip,shift,cutout]"),
                "… 4 replicas": ours(replicas=4),
                "… 8 replicas": ours(replicas=8),
                "kernel 7, mixed_bfloat16": ours(bf16),
                "… 4 replicas in it": ours(bf16, replicas=4),
                "… 8 replicas in it": ours(bf16, replicas=8),
            }
        )
        table = Table("what", "images a second", "beside", box=None)
        single = "kernel 7: an epoch in one graph"
        for name, speed in found.items():
            kernel = name[:8]
            if "one graph" in name:
                said = f"{speed / found[f'{kernel}: model.fit']:.2f} × model.fit"
            elif "replicas" in name:
                said = f"cost {found['kernel 7, mixed_bfloat16' if 'in it' in name else single] / speed:.2f} × one"
                speed *= int(name[2])  # noqa: PLW2901  of replicas
            else:
                said = {"… with": f"costs {found[single] / speed - 1:.0%}"}.get(
                    name[:6], f"{speed / found[single]:.2f} × float32" if "," in name else "1"
                )
            table.add_row(name, f"{speed:,.0f}", said)
        Console().print(f"base model, batch 32, {given.threads} thread(s)", table)

        def trial(*overrides: str) -> float:
            """Seconds from the start of a trial to its first step, here one step long."""
            checked = composed(*base, "data.train_size=32", "training.epochs=1", *overrides)
            (x, y), _ = training.tensors(dataset, checked.data)
            started = time.perf_counter()
            network.network(checked, len(dataset.classes), [0]).fit(x, y, 0, 1)
            return time.perf_counter() - started

        new = [trial(f"model.filters={n}") for n in (5, 6, 7)]
        known = [trial("model.filters=7", f"optimizer.learning_rate={rate}") for rate in (0.01, 0.02, 0.03)]
        Console().print(f"to the first step: a new shape {median(new):.2f} s, a known one {median(known):.2f} s")
        memory = psutil.Process().memory_info().rss / 2**30
        Console().print(f"resident memory with {len(dataset.train[0]):,} images at hand: {memory:.2f} GiB; TensorFlow {tf.__version__}")


if __name__ == "__main__":
    main()
