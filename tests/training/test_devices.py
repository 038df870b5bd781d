"""A GPU or the processor: TensorFlow is made to say that there is one. What one computes is seen by
tests/training/test_gpu.py, where there is one."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from support_training import ComposeConfig, train

from cifar_hpo import gpus
from cifar_hpo.errors import ConfigError
from cifar_hpo.training import devices, layers

NARROW = (1, 32, 32, 3)
"""Images of which a convolution with four filters takes blocks of pixels on every processor."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What TensorFlow says of the one that it has."""
    details: dict[str, Any] = {"device_name": "Tesla T4", "compute_capability": (7, 5)}
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda _: ["a GPU"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: details)
    return details


def block() -> Any:
    keras.mixed_precision.set_dtype_policy("float32")
    layer = layers.Conv2D(4, 7, "same", 1, use_bias=True)
    layer.build(NARROW)
    return layer.block


def test_what_is_fastest_on_a_processor_is_not_chosen_on_a_gpu(
    gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifar_hpo.processor.block", lambda *_, **__: (2, 2))
    monkeypatch.setattr("cifar_hpo.processor.can_compute_in_bfloat16", lambda: False)
    assert block() == (1, 1)
    assert devices.computed_precision("mixed_bfloat16") == "mixed_bfloat16"
    monkeypatch.undo()
    monkeypatch.setattr(devices, "has_gpu", lambda: False)
    monkeypatch.setattr("cifar_hpo.processor.block", lambda *_, **__: (2, 2))
    monkeypatch.setattr("cifar_hpo.processor.can_compute_in_bfloat16", lambda: False)
    assert block() == (2, 2)
    assert devices.computed_precision("mixed_bfloat16") == "float32"
    for precision in ("float32", "mixed_float16"):
        assert devices.computed_precision(precision) == precision


def test_bfloat16_is_refused_on_a_gpu_that_does_not_multiply_in_it(
    gpu: dict[str, Any], config: ComposeConfig
) -> None:
    assert devices.gpu_name() == "Tesla T4"
    training = config("training.precision=mixed_bfloat16").training
    with pytest.raises(ConfigError) as refused:
        devices.validate(training)
    assert str(refused.value) == (
        "training.precision: Tesla T4 has no bfloat16; mixed_float16 is for such a GPU"
    )
    for precision in ("float32", "mixed_float16"):
        devices.validate(config(f"training.precision={precision}").training)
    gpu["compute_capability"] = (8, 0)
    devices.validate(training)


@pytest.mark.skipif(devices.has_gpu(), reason="TensorFlow has a GPU here")
def test_a_worker_whose_gpu_tensorflow_can_not_use_says_so_instead_of_being_slow(
    config: ComposeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(gpus.OWN, "NVIDIA H100 80GB HBM3")
    with pytest.raises(ConfigError) as refused:
        train(config())
    assert str(refused.value) == (
        "hydra.launcher.gpus: TensorFlow can't use this worker's GPU, NVIDIA H100 80GB HBM3; "
        "pip install 'tensorflow[and-cuda]', or hydra.launcher.gpus=0"
    )


def test_float16_takes_no_blocks_that_were_measured_in_other_arithmetic() -> None:
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    layer = layers.Conv2D(4, 7, "same", 1, use_bias=True)
    result = layer(np.ones(NARROW, np.float32))
    keras.mixed_precision.set_dtype_policy("float32")
    assert layer.block == (1, 1)
    assert result.dtype == tf.float16


def test_tensorflow_says_in_this_file_how_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_has_cudnn", lambda: True)
    assert gpus.can_use_gpus("tensorflow") is tf.test.is_built_with_cuda(), (
        f"TensorFlow {tf.__version__} has changed its build_info: mend gpus._tensorflow"
    )
