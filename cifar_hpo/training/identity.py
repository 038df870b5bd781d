"""What decides how a training goes, as a text: `identity_of`. Checkpoints are told apart by it.

Two trainings of which one is longer share a `kept_name`. Loads nothing heavy, so that a sweep can
ask before it starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

from cifar_hpo import trust
from cifar_hpo.config.app import UNMEANT_TRAINING_KEYS, Config
from cifar_hpo.paths import KEPT_CHECKPOINT
from cifar_hpo.trust import Call

NOT_IDENTIFYING = ("threads", *UNMEANT_TRAINING_KEYS)
"""Keys of training that may change on the way; threads decide its rounding alone."""


def groups_of(config: Config, *, is_streamed: bool) -> list[list[int]]:
    """The numbers of the replicas that train as one network: all of them, else each by itself.

    is_streamed: whether the images come as streams, for which Keras' `fit` has one replica alone.
    """
    numbers = list(range(config.training.replicas))
    if config.is_fused and not is_streamed:
        return [numbers]
    return [[number] for number in numbers]


def identity_of(config: Config, digest: str, group: Sequence[int], *, is_streamed: bool) -> str:
    """All that decides how the training of a group of replicas goes.

    digest: of the dataset, which stands for where it is from; not for what the function does to
    streams of images, of which it knows the labels alone.
    """
    meaning = asdict(config)
    del meaning["mlflow"], meaning["data"]["path"]
    if not is_streamed:
        del meaning["data"]["call"]
    code = _code(config, is_streamed=is_streamed)
    if code:
        meaning["code"] = code
    for name in NOT_IDENTIFYING:
        del meaning["training"][name]
    return json.dumps([meaning, digest, list(group)], sort_keys=True)


def _code(config: Config, *, is_streamed: bool) -> list[str]:
    """Digests of the code of the user's that a model, callbacks and streams are of."""
    calls = {f"training.callbacks[{i}]": call for i, call in enumerate(config.training.callbacks)}
    if isinstance(config.model, Call):
        calls["model"] = config.model
    if is_streamed and config.data.call is not None:
        calls["data"] = config.data.call
    digests = []
    for path, call in calls.items():
        for target in call.targets:
            digests.append(trust.code_digest(path, target))
    return digests


def differ_in_epochs(identity: str, other: str) -> bool:
    """Whether two trainings are the same, but for how many epochs they have."""
    return _without_epochs(identity) == _without_epochs(other)


def kept_name(identity: str) -> str:
    """The name of the checkpoint that is kept of a training, whatever its epochs.

    Raises ValueError, KeyError or TypeError for a text that is no identity.
    """
    digest = hashlib.sha256(_without_epochs(identity).encode()).hexdigest()[:16]
    return KEPT_CHECKPOINT.format(digest=digest)


def _without_epochs(identity: str) -> str:
    config, *others = json.loads(identity)
    del config["training"]["epochs"]
    return json.dumps([config, *others], sort_keys=True)
