"""Which blocks of pixels a convolution should take as one: the measurements behind `processor`.

    python tests/benchmarks/blocks.py [--isa AVX2] [--precision mixed_bfloat16] [--kernels 3,7]

For each layer the milliseconds of its result and gradients for 32 images on one thread, the fastest
block, and the one that the product chooses, as shares of the time without blocks. Run by hand, with
nothing else running; it takes some five minutes.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import instruction_set
from rich.console import Console
from rich.table import Table

from cifar_hpo import processor

BLOCKS = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (2, 4), (4, 2), (4, 4))
MOST_FILTERS = 64
"""Filters of a block's pixels together, above which blocks never paid."""
BATCH, ROUNDS = 32, 9


class Layer(NamedTuple):
    """A convolution: side of its kernel and of its image, channels and filters of a group."""

    kernel: int
    side: int
    channels: int
    filters: int
    groups: int


def layers(kernels: list[int]) -> Iterator[Layer]:
    """Those of base models, alone and as replicas, and of networks with pairs of convolutions."""
    seen = set()
    for kernel, first, replicas in itertools.product(
        kernels, (2, 4, 6, 8, 12, 16, 24, 32), (1, 2, 4, 8)
    ):
        if replicas > 1 and (first >= 16 or first * replicas > 32):
            continue
        for layer in (
            Layer(kernel, 32, 3, first * replicas, 1),
            Layer(kernel, 16, first, 2 * first, replicas),
            Layer(kernel, 8, 2 * first, 4 * first, replicas),
            Layer(kernel, 32, first, first, replicas),
            Layer(kernel, 16, 2 * first, 2 * first, replicas),
        ):
            if layer not in seen:
                seen.add(layer)
                yield layer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", default="3,5,7", help="sides of the kernels")
    parser.add_argument("--precision", default="float32")
    instruction_set.add_option(parser)
    given = parser.parse_args()
    computes_with = instruction_set.use(given.isa)
    with processor.quiet_tensorflow():
        import keras
        import tensorflow as tf

        from cifar_hpo.training.layers import Conv2D
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.get_logger().setLevel("ERROR")
    keras.mixed_precision.set_dtype_policy(given.precision)

    title = f"{computes_with}, {given.precision}, TensorFlow {tf.__version__}"
    table = Table("kernel", "side", "channels", "filters", "groups", box=None, title=title)
    for column in ("ms", "fastest", "", "chosen", ""):
        table.add_column(column)
    worst = 0.0
    for layer in layers([int(kernel) for kernel in given.kernels.split(",")]):
        kernel, side, channels, filters, groups = layer
        steps = {}
        for block in BLOCKS:
            if block != (1, 1) and filters * block[0] * block[1] > MOST_FILTERS:
                continue
            convolution = Conv2D(filters, kernel, "same", groups, use_bias=True, block=block)
            image = tf.random.normal((BATCH, side, side, channels * groups))
            steps[block] = _step(tf, convolution, image)
        best = _best(steps)
        fastest = min(best, key=best.__getitem__)
        dtype = given.precision.removeprefix("mixed_")
        chosen = processor.block(kernel, channels, filters, groups, (side, side), dtype=dtype)
        share = {block: seconds / best[1, 1] for block, seconds in best.items()}
        worst = max(worst, share[chosen])
        cells = [f"{1000 * best[1, 1]:.2f}"]
        for block in (fastest, chosen):
            cells += [f"{block[0]}×{block[1]}", f"{share[block]:.2f}"]
        table.add_row(*map(str, layer), *cells)
    Console(width=120).print(table, f"the worst choice takes {worst:.2f} of the time without")


def _best(steps: dict[tuple[int, int], Callable[[], object]]) -> dict[tuple[int, int], float]:
    """Seconds of each step: the best of some rounds, in which all take turns."""
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(ROUNDS + 1):  # the first one traces
        for block, step in steps.items():
            started = time.perf_counter()
            step()
            best[block] = min(best[block], time.perf_counter() - started)
    return best


def _step(tf: Any, convolution: Any, image: Any) -> Callable[[], object]:
    """The result and the gradients that a training needs: of a first layer not that of its
    image."""
    convolution(image)
    sources = [convolution.kernel.value, convolution.bias.value]
    if image.shape[-1] != 3:
        sources.append(image)

    def step() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(image)
            result = convolution(image)
            loss = tf.reduce_sum(result * result)
        gradients = []
        for gradient in tape.gradient(loss, sources):
            gradients.append(tf.reduce_sum(gradient))
        return gradients

    graph: Callable[[], object] = tf.function(step)
    return graph


if __name__ == "__main__":
    main()
