"""What TensorFlow computes with on this processor, and what is fastest on it.

`instruction_set` names the kernels that convolutions use; the tables hold what was measured for
each. Nothing here depends on the moment, so one machine always chooses the same and a training that
goes on there equals one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import sys
from pathlib import Path
from typing import NamedTuple

from cifar_hpo.console import stderr_redirected

OWN_KERNELS = "TensorFlow's own kernels"  # on x86, where oneDNN is off or not built in
OLDER = "x86 before AVX2"
AVX2 = "AVX2"
AVX512 = "AVX-512"
AVX512_BF16 = "AVX-512 with bfloat16"
AMX = "AMX"
ARM = "ARM"

X86 = (OLDER, AVX2, AVX512, AVX512_BF16, AMX)
"""Each can stand for those before it, by ONEDNN_MAX_CPU_ISA."""

CPUINFO = Path("/proc/cpuinfo")


class BlockRule(NamedTuple):
    """The rows and columns of pixels that a convolution takes as one, where the layer is such.

    filters, channels: of a group, from … to. kernel: its side, at least. side: of the image, at
    least. groups: from … to. in_bfloat16: whether it pays in bfloat16 too.
    """

    block: tuple[int, int]
    filters: tuple[int, int]
    channels: tuple[int, int] = (1, 4096)
    kernel: int = 2
    side: int = 1
    groups: tuple[int, int] = (1, 64)
    in_bfloat16: bool = True


_OF_AVX512 = (
    BlockRule((2, 2), filters=(1, 4), side=16, kernel=7),
    BlockRule((2, 2), filters=(1, 4), side=32),
    BlockRule((2, 2), filters=(1, 4), channels=(1, 2), side=16, groups=(2, 64)),
    BlockRule((2, 2), filters=(1, 4), side=16, kernel=5, in_bfloat16=False),
    BlockRule((1, 2), filters=(5, 8), channels=(1, 3), side=32),
    BlockRule((2, 1), filters=(5, 8), channels=(6, 8), side=32, kernel=5, groups=(1, 1)),
    BlockRule((2, 2), filters=(8, 8), channels=(4, 4), side=16, kernel=5, groups=(1, 1)),
    BlockRule((2, 1), filters=(8, 8), channels=(8, 8), side=16, kernel=5, groups=(1, 1)),
    BlockRule((2, 1), filters=(8, 8), channels=(4, 4), side=16, groups=(4, 64), in_bfloat16=False),
)
_BLOCKS: dict[str, tuple[BlockRule, ...]] = {
    OWN_KERNELS: (
        BlockRule((4, 2), filters=(1, 4), kernel=5),
        BlockRule((2, 2), filters=(1, 12)),
        BlockRule((2, 2), filters=(13, 16), channels=(1, 6)),
        BlockRule((1, 2), filters=(13, 16)),
        BlockRule((1, 2), filters=(17, 32), channels=(1, 12)),
    ),
    AVX2: (
        BlockRule((2, 2), filters=(1, 4), side=16, kernel=5),
        BlockRule((2, 2), filters=(1, 4), side=32),
        BlockRule((2, 2), filters=(1, 4), side=16, groups=(2, 64)),
        BlockRule((2, 1), filters=(8, 8), channels=(4, 4), side=16, kernel=7),
        BlockRule((2, 1), filters=(12, 12), side=16, kernel=7),
        BlockRule((2, 1), filters=(12, 12), channels=(1, 3), side=32, kernel=5),
    ),
    AVX512: _OF_AVX512,
    AVX512_BF16: _OF_AVX512,
    AMX: _OF_AVX512,
}
"""What was fastest, the first rule that holds; nothing for what was not measured.

By tests/benchmarks/blocks.py on two cores of an AMD EPYC (Zen 4), November 2026, with
ONEDNN_MAX_CPU_ISA for the older ones; result and gradients of 32 images, kernels of 3, 5 and 7
pixels, one thread. AMX could not be had and is taken for AVX-512.
"""


def block(
    kernel_size: int,
    channels: int,
    filters: int,
    groups: int,
    size: tuple[int, int],
    *,
    dtype: str = "float32",
) -> tuple[int, int]:
    """Rows and columns of pixels that a convolution should take as one; (1, 1) for none.

    channels, filters: of a group. size: height and width of the result, which they must divide.
    dtype: float32 or bfloat16, of the arithmetic.
    """
    for rule in _BLOCKS.get(instruction_set(), ()):
        rows, columns = rule.block
        if (
            rule.filters[0] <= filters <= rule.filters[1]
            and rule.channels[0] <= channels <= rule.channels[1]
            and kernel_size >= rule.kernel
            and min(size) >= rule.side
            and rule.groups[0] <= groups <= rule.groups[1]
            and (rule.in_bfloat16 or dtype != "bfloat16")
            and size[0] % rows == 0
            and size[1] % columns == 0
        ):
            return rule.block
    return 1, 1


def set_tensorflow_switches() -> None:
    """Set what TensorFlow reads when it loads; what the user has set stays.

    oneDNN: TensorFlow turns it on by itself only where it sees AVX-512 VNNI, bfloat16 or AMX, but
    on AVX2 it trains small CNNs two to three times as fast as TensorFlow's own kernels.
    """
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS", "").lower() not in ("0", "1", "false", "true"):
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # TensorFlow passes over what it can't read
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def quiet_tensorflow() -> contextlib.AbstractContextManager[None]:
    """While TensorFlow loads: its notices about the machine say nothing of a trial.

    Some are written before it reads that it should not.
    """
    if "tensorflow" in sys.modules:
        return contextlib.nullcontext()
    return stderr_redirected(os.devnull)


def instruction_set() -> str:
    """The kernels of this process: ARM, OWN_KERNELS, or one of X86, as far as oneDNN may use it."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ARM
    is_off = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1").lower() in ("0", "false")
    if is_off or sys.platform == "darwin":  # TensorFlow for macOS has no oneDNN
        return OWN_KERNELS
    has = _of_flags(_cpuinfo(CPUINFO).split())
    most = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return min(has, _of_limit(most.upper()), key=X86.index)


def fused_below() -> int:
    """Neurons of the first layer from which replicas train faster one after the other.

    Four base models as one network take 0.46 to 0.62 of the time of four with 2 neurons, 0.55 to
    0.77 with 4 and 0.98 to 1.02 with 8 and 12, but 1.1 to 1.2 with 16 (AVX2, one thread); with
    TensorFlow's own kernels 1.01 to 1.04 with 12.
    """
    return 12 if instruction_set() == OWN_KERNELS else 16


def is_fast_in_bfloat16() -> bool:
    """Whether mixed_bfloat16 trains faster than float32 here.

    The base model, one thread: AMD's AVX-512 with bfloat16 takes 0.7 of the time, Intel's 1.5 times
    as long, for which AMX alone is fast in it. AVX2 and TensorFlow's own kernels have no such
    operations and convert instead. ARM's could not be measured: what has them is believed.
    """
    kind, listed = instruction_set(), _cpuinfo(CPUINFO)
    if kind == AVX512_BF16:
        return "GenuineIntel" not in listed
    return kind == AMX or (kind == ARM and "bf16" in listed)


def can_compute_in_bfloat16() -> bool:
    """Whether mixed_bfloat16 is computed at all, fast or not.

    TensorFlow hands bfloat16 to oneDNN where the processor has AVX-512 or converts by AVX, and
    computes by itself where it has neither. But oneDNN trains in it from AVX-512 on: with less,
    or kept to less by ONEDNN_MAX_CPU_ISA, it refuses, and some operations end the process.
    """
    if instruction_set() not in (OLDER, AVX2):
        return True
    return not {"avx512f", "avx_ne_convert"} & set(_cpuinfo(CPUINFO).split())


@functools.cache
def _cpuinfo(path: Path) -> str:
    """What Linux lists of the first processor; elsewhere nothing."""
    return path.read_text().split("\n\n", 1)[0] if path.exists() else ""


def _of_flags(flags: list[str]) -> str:
    if "amx_bf16" in flags:
        return AMX
    if "avx512_bf16" in flags:
        return AVX512_BF16
    if "avx512bw" in flags:
        return AVX512
    return AVX2 if "avx2" in flags else OLDER


def _of_limit(most: str) -> str:
    """The most that a value of ONEDNN_MAX_CPU_ISA allows; oneDNN passes over what it does not
    know."""
    if most in ("SSE41", "AVX"):
        return OLDER
    if most.startswith("AVX2"):
        return AVX2
    if most in ("AVX512_CORE", "AVX512_CORE_VNNI"):
        return AVX512
    if most in ("AVX512_CORE_BF16", "AVX512_CORE_FP16") or (
        most.startswith("AVX10") and "AMX" not in most
    ):
        return AVX512_BF16
    return AMX
