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
"""In rising order: ONEDNN_MAX_CPU_ISA lets a processor stand for any of those before it."""

CPUINFO = Path("/proc/cpuinfo")


class BlockRule(NamedTuple):
    """The block of pixels, rows and columns, that a convolution should take as one if it is such.

    filters, channels: of a group, the least and the most. kernel: its side, at least. side: of the
    image, at least. groups: the least and the most. in_bfloat16: whether it pays in bfloat16 too.
    """

    block: tuple[int, int]
    filters: tuple[int, int]
    channels: tuple[int, int] = (1, 4096)
    kernel: int = 2
    side: int = 1
    groups: tuple[int, int] = (1, 64)
    in_bfloat16: bool = True

    def applies(
        self,
        kernel_size: int,
        channels: int,
        filters: int,
        groups: int,
        *,
        size: tuple[int, int],
        dtype: str,
    ) -> bool:
        """Whether the convolution is such, and the block divides its result."""
        rows, columns = self.block
        return (
            self.filters[0] <= filters <= self.filters[1]
            and self.channels[0] <= channels <= self.channels[1]
            and self.groups[0] <= groups <= self.groups[1]
            and kernel_size >= self.kernel
            and min(size) >= self.side
            and (self.in_bfloat16 or dtype != "bfloat16")
            and size[0] % rows == 0
            and size[1] % columns == 0
        )


_AVX512_BLOCKS = (
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
    AVX512: _AVX512_BLOCKS,
    AVX512_BF16: _AVX512_BLOCKS,
    AMX: _AVX512_BLOCKS,
}
"""What was fastest, the first rule that applies; nothing for what was not measured.

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

    channels, filters: of a group. size: height and width of the result, which the block divides.
    dtype: float32 or bfloat16, of the arithmetic.
    """
    for rule in _BLOCKS.get(instruction_set(), ()):
        if rule.applies(kernel_size, channels, filters, groups, size=size, dtype=dtype):
            return rule.block
    return 1, 1


def set_tensorflow_switches() -> None:
    """Set the variables that TensorFlow reads when it loads, and Keras, whose other backends can't
    train here; what the user has set for TensorFlow stays.

    oneDNN: TensorFlow turns it on by itself only where it sees AVX-512 VNNI, bfloat16 or AMX, but
    on AVX2 it trains small CNNs two to three times as fast as TensorFlow's own kernels.
    """
    given = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "").lower()
    if given not in ("0", "1", "false", "true"):  # TensorFlow ignores any other value
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"


def quiet_tensorflow() -> contextlib.AbstractContextManager[None]:
    """Discard what is written to stderr while TensorFlow loads: notices about the machine.

    Some are written before it reads TF_CPP_MIN_LOG_LEVEL.
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
    supported = _supported(_cpuinfo(CPUINFO).split())
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return min(supported, _allowed(limit.upper()), key=X86.index)


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
    operations and convert instead. ARM could not be measured: it is taken for fast where it lists
    bf16.
    """
    kernels = instruction_set()
    cpuinfo = _cpuinfo(CPUINFO)
    if kernels == AVX512_BF16:
        return "GenuineIntel" not in cpuinfo
    if kernels == ARM:
        return "bf16" in cpuinfo
    return kernels == AMX


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
    if not path.exists():
        return ""
    return path.read_text().split("\n\n", 1)[0]


def _supported(flags: list[str]) -> str:
    """The most that a processor with these flags in /proc/cpuinfo has."""
    if "amx_bf16" in flags:
        return AMX
    if "avx512_bf16" in flags:
        return AVX512_BF16
    if "avx512bw" in flags:
        return AVX512
    return AVX2 if "avx2" in flags else OLDER


def _allowed(limit: str) -> str:
    """The most that a value of ONEDNN_MAX_CPU_ISA allows; oneDNN ignores what it does not know."""
    if limit in ("SSE41", "AVX"):
        return OLDER
    if limit.startswith("AVX2"):
        return AVX2
    if limit in ("AVX512_CORE", "AVX512_CORE_VNNI"):
        return AVX512
    if limit in ("AVX512_CORE_BF16", "AVX512_CORE_FP16"):
        return AVX512_BF16
    if limit.startswith("AVX10") and "AMX" not in limit:
        return AVX512_BF16
    return AMX
