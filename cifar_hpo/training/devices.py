"""What TensorFlow computes on in this process: its GPU where it has one, else the processor.

What was measured for processors (see `processor`) is not chosen on a GPU, where Keras' own ways are
taken. Nothing here gives TensorFlow its threads or a GPU, so that both can still be set afterwards.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from cifar_hpo import gpus, processor
from cifar_hpo.config.app import BFLOAT16, FLOAT32, Training
from cifar_hpo.errors import ConfigError

BFLOAT16_SINCE = (8, 0)
"""The compute capability, that of the A100, from which on NVIDIA's GPUs multiply in bfloat16."""


def has_gpu() -> bool:
    """Whether this process computes on a GPU."""
    return bool(tf.config.get_visible_devices("GPU"))


def gpu_name() -> str:
    """What the GPU of this process is called; empty where it has none."""
    return str(_details().get("device_name", "")) if has_gpu() else ""


def validate(config: Training) -> None:
    """Raise ConfigError where a worker's GPU is none for TensorFlow, or none for the precision."""
    if gpus.own_gpu() and not has_gpu():
        problem = f"TensorFlow can't use this worker's GPU, {gpus.own_gpu()}"
        hint = "pip install 'tensorflow[and-cuda]', or hydra.launcher.gpus=0"
        raise ConfigError("hydra.launcher.gpus", f"{problem}; {hint}")
    if config.precision == BFLOAT16 and has_gpu() and not _multiplies_in_bfloat16():
        problem = f"{gpu_name()} has no bfloat16; mixed_float16 is for such a GPU"
        raise ConfigError("training.precision", problem)


def computed_precision(precision: str) -> str:
    """The precision that a process computes in which is asked for one: float32 where a processor
    can't compute in bfloat16."""
    if precision == BFLOAT16 and not has_gpu() and not processor.can_compute_in_bfloat16():
        return FLOAT32
    return precision


def _multiplies_in_bfloat16() -> bool:
    capability = _details().get("compute_capability")
    return capability is None or tuple(capability) >= BFLOAT16_SINCE


def _details() -> dict[str, Any]:
    """What TensorFlow knows of this process's first GPU."""
    first = tf.config.get_visible_devices("GPU")[0]
    return dict(tf.config.experimental.get_device_details(first))
