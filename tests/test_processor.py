"""What the processor is taken for, and what is chosen for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_hpo import processor

FLAGS = {
    processor.OLDER: "flags : sse4_2 avx",
    processor.AVX2: "flags : sse4_2 avx avx2 fma",
    processor.AVX512: "flags : avx2 avx512f avx512bw avx512_vnni",
    processor.AVX512_BF16: "vendor_id : AuthenticAMD\nflags : avx2 avx512f avx512bw avx512_bf16",
    processor.AMX: "vendor_id : GenuineIntel\nflags : avx2 avx512f avx512bw avx512_bf16 amx_bf16",
}
Machine = Callable[..., None]
Layer = tuple[int, int, int, int, tuple[int, int]]
"""Side of the kernel, channels and filters of a group, groups, and the size of the result."""

INTEL_BF16 = "vendor_id : GenuineIntel\nflags : avx2 avx512f avx512bw avx512_bf16"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """`machine(cpuinfo, NAME=value…)` pretends to be on it."""
    for name in ("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)

    def pretend(cpuinfo: str, architecture: str = "x86_64", **environment: str) -> None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
        processor._cpuinfo.cache_clear()  # noqa: SLF001
        monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.setattr("platform.machine", lambda: architecture)
        monkeypatch.setattr("sys.platform", "linux")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return pretend


@pytest.mark.parametrize("kind", FLAGS)
def test_the_instruction_set_is_that_of_the_flags(machine: Machine, kind: str) -> None:
    machine(FLAGS[kind])
    assert processor.instruction_set() == kind


@pytest.mark.parametrize(
    ("limit", "kind"),
    [
        ("SSE41", processor.OLDER),
        ("AVX", processor.OLDER),
        ("AVX2", processor.AVX2),
        ("avx2_vnni", processor.AVX2),
        ("AVX512_CORE", processor.AVX512),
        ("AVX512_CORE_VNNI", processor.AVX512),
        ("AVX512_CORE_BF16", processor.AVX512_BF16),
        ("AVX10_1_512", processor.AVX512_BF16),
        ("AVX512_CORE_AMX", processor.AMX),
        ("AVX10_1_512_AMX", processor.AMX),
        ("ALL", processor.AMX),
        ("a typo", processor.AMX),
        ("", processor.AMX),
    ],
)
def test_onednn_may_be_told_to_use_less(machine: Machine, limit: str, kind: str) -> None:
    machine(FLAGS[processor.AMX], ONEDNN_MAX_CPU_ISA=limit)
    assert processor.instruction_set() == kind
    machine(FLAGS[processor.AVX2], ONEDNN_MAX_CPU_ISA=limit)
    assert processor.instruction_set() in (processor.AVX2, processor.OLDER), (
        "never more than it has"
    )


@pytest.mark.parametrize("off", ["0", "false", "False"])
def test_without_onednn_tensorflow_uses_its_own_kernels(machine: Machine, off: str) -> None:
    machine(FLAGS[processor.AMX], TF_ENABLE_ONEDNN_OPTS=off)
    assert processor.instruction_set() == processor.OWN_KERNELS
    assert not processor.is_fast_in_bfloat16()


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_arm_is_not_taken_for_x86(machine: Machine, onednn: str) -> None:
    machine("Features : asimd bf16", "aarch64", TF_ENABLE_ONEDNN_OPTS=onednn)
    assert processor.instruction_set() == processor.ARM


@pytest.mark.parametrize(
    ("cpuinfo", "architecture", "is_fast"),
    [
        (FLAGS[processor.AVX2], "x86_64", False),
        (FLAGS[processor.AVX512], "x86_64", False),
        (FLAGS[processor.AVX512_BF16], "x86_64", True),
        (INTEL_BF16, "x86_64", False),
        (FLAGS[processor.AMX], "x86_64", True),
        ("Features : asimd bf16", "aarch64", True),
        ("Features : asimd", "aarch64", False),
    ],
)
def test_bfloat16_pays_where_the_processor_multiplies_it_faster(
    machine: Machine, cpuinfo: str, architecture: str, is_fast: bool
) -> None:
    machine(cpuinfo, architecture)
    assert processor.is_fast_in_bfloat16() is is_fast


def test_bfloat16_does_not_pay_on_a_newer_processor_that_stands_for_an_older_one(
    machine: Machine,
) -> None:
    machine(FLAGS[processor.AVX512_BF16], ONEDNN_MAX_CPU_ISA="AVX2")
    assert not processor.is_fast_in_bfloat16()


@pytest.mark.parametrize(
    ("cpuinfo", "limit", "can"),
    [
        (FLAGS[processor.AVX2], "", True),
        (FLAGS[processor.AVX2] + " avx_ne_convert", "", False),
        (FLAGS[processor.AVX512], "", True),
        (FLAGS[processor.AVX512], "AVX512_CORE", True),
        (FLAGS[processor.AVX512], "AVX2", False),
        (FLAGS[processor.AMX], "AVX", False),
    ],
)
def test_bfloat16_can_be_computed_unless_onednn_is_kept_from_it(
    machine: Machine, cpuinfo: str, limit: str, can: bool
) -> None:
    """TensorFlow computes by itself what a processor has not, but not what oneDNN then refuses."""
    machine(cpuinfo, ONEDNN_MAX_CPU_ISA=limit)
    assert processor.can_compute_in_bfloat16() is can


@pytest.mark.skipif(sys.platform == "darwin", reason="TensorFlow for macOS has no oneDNN")
@pytest.mark.parametrize(
    ("module", "given", "wanted"),
    [
        ("training.trainer", {}, "1"),
        pytest.param("training.model", {}, "1", marks=pytest.mark.long),
        pytest.param("training.layers", {}, "1", marks=pytest.mark.long),
        pytest.param(
            "training.trainer", {"TF_ENABLE_ONEDNN_OPTS": ""}, "1", marks=pytest.mark.long
        ),
        ("training.trainer", {"TF_ENABLE_ONEDNN_OPTS": "0"}, "0"),
    ],
)
def test_onednn_is_on_before_tensorflow_loads_unless_the_user_has_it_off(
    monkeypatch: pytest.MonkeyPatch, module: str, given: dict[str, str], wanted: str
) -> None:
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    code = (
        f"import os, cifar_hpo.{module}\n"
        "from tensorflow.python.util import _pywrap_util_port\n"
        "print(os.environ['TF_ENABLE_ONEDNN_OPTS'], int(_pywrap_util_port.IsMklEnabled()))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [wanted, wanted]


RULED = [kind for kind in (*processor.X86, processor.OWN_KERNELS) if kind != processor.OLDER]


@pytest.mark.parametrize(
    ("kind", "layer", "wanted"),
    [
        (processor.OWN_KERNELS, (7, 3, 4, 1, (32, 32)), (4, 2)),
        (processor.OWN_KERNELS, (3, 8, 16, 2, (8, 8)), (1, 2)),
        (processor.AVX2, (7, 3, 4, 1, (32, 32)), (2, 2)),
        (processor.AVX2, (7, 3, 8, 1, (32, 32)), (1, 1)),
        (processor.AVX2, (3, 3, 16, 1, (32, 32)), (1, 1)),
        (processor.AVX512, (7, 3, 8, 1, (32, 32)), (1, 2)),
        (processor.AVX512_BF16, (3, 4, 8, 4, (16, 16)), (2, 1)),
        (processor.OLDER, (7, 3, 4, 1, (32, 32)), (1, 1)),
        (processor.ARM, (7, 3, 4, 1, (32, 32)), (1, 1)),
    ],
)
def test_blocks_are_what_was_fastest_on_such_a_processor(
    monkeypatch: pytest.MonkeyPatch, kind: str, layer: Layer, wanted: tuple[int, int]
) -> None:
    monkeypatch.setattr(processor, "instruction_set", lambda: kind)
    assert processor.block(*layer) == wanted


@pytest.mark.parametrize(
    ("layer", "in_float32", "in_bfloat16"),
    [
        ((3, 4, 8, 4, (16, 16)), (2, 1), (1, 1)),
        ((5, 2, 4, 1, (16, 16)), (2, 2), (1, 1)),
        ((7, 2, 4, 1, (16, 16)), (2, 2), (2, 2)),
    ],
)
def test_what_pays_in_float32_need_not_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
    layer: Layer,
    in_float32: tuple[int, int],
    in_bfloat16: tuple[int, int],
) -> None:
    monkeypatch.setattr(processor, "instruction_set", lambda: processor.AVX512_BF16)
    assert processor.block(*layer) == in_float32
    assert processor.block(*layer, dtype="bfloat16") == in_bfloat16


@pytest.mark.parametrize("kind", RULED)
@pytest.mark.parametrize("size", [(31, 31), (30, 30), (26, 13), (1, 1)])
def test_a_block_divides_the_image(
    monkeypatch: pytest.MonkeyPatch, kind: str, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(processor, "instruction_set", lambda: kind)
    for kernel_size in (1, 3, 5, 7):
        for filters in (1, 4, 8, 12, 16, 32):
            rows, columns = processor.block(kernel_size, 3, filters, 1, size)
            assert size[0] % rows == size[1] % columns == 0


@pytest.mark.parametrize("kind", RULED)
def test_a_kernel_of_one_pixel_takes_no_blocks(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(processor, "instruction_set", lambda: kind)
    assert processor.block(1, 3, 4, 1, (32, 32)) == (1, 1)


TRAIN = """
import sys
import numpy as np
from hydra import compose, initialize_config_dir
from cifar_hpo.config.validation import validate_config
from cifar_hpo.data.dataset import load_dataset
from cifar_hpo.paths import CONF
from cifar_hpo.training import trainer

arrays = []
for options in sys.argv[2:]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = validate_config(compose("config", options.split()))
    trainer.set_up(config.training)
    weights = []
    for trained in trainer.train(config, load_dataset(config.data), lambda *_, **__: None):
        for weight in trained.weights:
            weights.append(weight.ravel())
    arrays.append(np.concatenate(weights).astype(np.float64))
np.savez(sys.argv[1], *arrays)
"""

PROCESSORS: dict[str, dict[str, str]] = {
    "this one": {},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "AVX-512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "own kernels": {"TF_ENABLE_ONEDNN_OPTS": "0"},
}

TRAININGS = {
    "training.replicas=3 model.filters=3 model.kernel_size=7": 1e-5,
    "optimizer=muon model.filters=24 model.convolutions=2 model.activation=silu": 1e-5,
    "training.precision=mixed_bfloat16 training.replicas=2 optimizer=sgd": 1e-4,
}
"""What is trained, and how close its weights are on all processors."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, npz: Path) -> dict[str, dict[str, Any]]:
    """Of each training in two steps, by processor; a process for each of these."""
    folder = tmp_path_factory.mktemp("processors")
    shared = f"data=npz data.path={npz} training.batch_size=100 data.train_size=200"
    shared += " training.epochs=1 model.dense_units=8 optimizer.learning_rate=0.002"
    shared += " model.filters=4"
    trained = {}
    for name, switches in PROCESSORS.items():
        file = folder / f"{name}.npz"
        command = [sys.executable, "-c", TRAIN, str(file)]
        command += [f"{shared} {options}" for options in TRAININGS]
        environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "1"} | switches
        ended = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"{name}: {ended.stderr[-2000:]}"
        with np.load(file) as arrays:
            trained[name] = dict(zip(TRAININGS, arrays.values(), strict=True))
    return trained


@pytest.mark.long
@pytest.mark.processors
@pytest.mark.parametrize("options", TRAININGS)
def test_a_training_is_the_same_on_every_processor_but_for_rounding(
    options: str, weights: dict[str, dict[str, Any]]
) -> None:
    """Where Adam finds no gradient but rounding, a weight goes either way."""
    for name in PROCESSORS:
        difference = abs(weights[name][options] - weights["this one"][options])
        assert np.quantile(difference, 0.999) < TRAININGS[options], name
