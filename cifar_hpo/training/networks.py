"""Networks as trials get them: a `NetworkCache` keeps them by their shape for the next trial.

`initial_network` puts one where it is before its first step.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import keras
import tensorflow as tf

from cifar_hpo.config.app import Config
from cifar_hpo.training import called, compiled
from cifar_hpo.training.called import CalledNetwork
from cifar_hpo.training.compiled import Network
from cifar_hpo.training.signature import Signature
from cifar_hpo.trust import Call

MAX_CACHED = 8
"""Networks of different shapes that a process keeps.

Each has its graphs and three times its weights in memory.
"""

MAX_CALLED = 1
"""Of these, the ones of the user's models, which may be large."""


class NetworkCache:
    """The networks that were used last, by shape; a further one takes the place of the oldest."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.networks: dict[str, Network] = {}  # the one that was used last is the last

    def get(
        self, config: Config, signature: Signature, replica_count: int, *, by_fit: bool = False
    ) -> Network:
        """The network of this shape, built where there is none; it is as its last use left it.

        by_fit: whether Keras' `fit` is to train it.
        """
        shape = network_shape(config, signature, replica_count, by_fit=by_fit)
        network = self.networks.pop(shape, None)
        if network is None:
            self._make_space()
            kind = CalledNetwork if isinstance(config.model, Call) else Network
            network = kind(config, signature, replica_count, by_fit=by_fit)
        self.networks[shape] = network
        return network

    def forget(self, network: Network) -> None:
        """Give it to nobody else."""
        self.networks = {
            shape: kept for shape, kept in self.networks.items() if kept is not network
        }

    def _make_space(self) -> None:
        while len(self.networks) >= self.capacity:
            oldest = next(iter(self.networks))
            del self.networks[oldest]


def network_shape(
    config: Config, signature: Signature, replica_count: int, *, by_fit: bool = False
) -> str:
    """All that the graphs of a network depend on: not the seed, the epochs or the learning rate."""
    training = config.training
    optimizer = asdict(config.optimizer)
    del optimizer["learning_rate"]
    parts = [
        asdict(config.model),
        config.data.augment,
        signature,
        replica_count,
        optimizer,
        training.batch_size,
        training.precision,
        training.deterministic,
        training.schedule,
        training.initial_scale,
        training.label_smoothing,
        training.weight_averaging,
        by_fit,
    ]
    return json.dumps(parts)


cache = NetworkCache(MAX_CACHED)
called_cache = NetworkCache(MAX_CALLED)
"""The networks of this process: of the built-in model, and of the user's."""


def initial_network(
    config: Config,
    signature: Signature,
    seeds: Sequence[int],
    images: tf.Tensor | None = None,
    *,
    by_fit: bool = False,
) -> Network:
    """A network as it is before its first step, with a replica for each seed.

    The process has one network of a shape, so the next call for this shape resets the one returned.
    images: those it will train on, which model.whitening looks at; None leaves whitening as it was
    drawn. by_fit: whether Keras' `fit` is to train it.
    """
    networks = called_cache if isinstance(config.model, Call) else cache
    network = networks.get(config, signature, len(seeds), by_fit=by_fit)
    network.reset(config.optimizer.learning_rate, seeds, images)
    return network


def forget(network: Network) -> None:
    """Let no later trial have this network, which something else may have changed."""
    cache.forget(network)
    called_cache.forget(network)


def keras_model(config: Config, signature: Signature) -> keras.Model:
    """A fresh compiled model of Keras' own parts or of the user's, for its `fit` and for whoever
    loads it."""
    if isinstance(config.model, Call):
        return called.keras_model(config, signature)
    return compiled.keras_model(config, signature)
