"""What training costs: the one-graph epoch against Keras' `fit`, precision, augmentation, replicas, and the time between trials.

    python tests/benchmarks/training.py [--data cifar10.npz] [--threads 1]

All in this process, on the same images, the base model unless said. Run by hand, with nothing else running; the README quotes it.
"""

from __future__ import annotations

import argparse
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

IMAGES = 10_000


def composed(*overrides: str) -> schema.Config:
    with initialize_config_dir(str(schema.CONF), version_base="1.3"):
        return schema.check(compose("config", list(overrides)))


def rate(step: Callable[[], object], repeats: int = 3) -> float:
    """Images a second: the best of some epochs after one to warm up, since what disturbs only slows."""
    step()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return IMAGES / min(seconds)


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

        def ours(*overrides: str, replicas: int = 1) -> float:
            net = network.network(composed(*base, *overrides), len(dataset.classes), list(range(replicas)))
            return rate(lambda: net.fit(images, labels, 0, 1))

        table = Table("what", "images a second", "ratio", box=None)
        tf.random.set_seed(0)  # without one, fit refuses to shuffle where everything is to be repeatable
        single = 0.0
        for kernel in (3, 7):
            fitted = network.compiled(composed(*base, f"model.kernel_size={kernel}"), len(dataset.classes))
            x, y = images.numpy(), labels.numpy()
            plain = rate(lambda: fitted.fit(x, y, batch_size=32, verbose=0))  # noqa: B023  called at once
            single = ours(f"model.kernel_size={kernel}")
            table.add_row(f"kernel {kernel}: model.fit", f"{plain:,.0f}", "1")
            table.add_row(f"kernel {kernel}: an epoch in one graph", f"{single:,.0f}", f"{single / plain:.2f} × model.fit")
        half = ours("training.precision=mixed_bfloat16")
        table.add_row("… in mixed_bfloat16", f"{half:,.0f}", f"{half / single:.2f} × float32")
        changed = ours("data.augment=[flip,shift,cutout]")
        table.add_row("… with flip, shift and cutout", f"{changed:,.0f}", f"costs {single / changed - 1:.0%}")
        for precision, alone in (("float32", single), ("mixed_bfloat16", half)):
            for replicas in (4, 8):
                fused = ours(f"training.precision={precision}", f"training.replicas={replicas}", replicas=replicas)
                table.add_row(f"{replicas} replicas, {precision}", f"{fused * replicas:,.0f}", f"cost {alone / fused:.2f} × one")
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
