"""The GPUs of this machine: `visible_gpus` lists those that this process may use, each a `Gpu`.

They are NVIDIA's, as `nvidia-smi` lists them, which comes with each driver: so nothing heavy is
loaded to look for them, and nothing is installed for it. A process that has one to itself, or a
share of it, is told so in its environment (`environment_for`), before it loads any library.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable that says which GPUs a process sees, in CUDA's own words."""

NO_GPU = "-1"
"""Its value for none."""

OWN = "CIFAR_HPO_GPU"
"""The environment variable in which a worker is told what its GPU is called."""

AS_NEEDED = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""Lets TensorFlow and JAX take of a GPU's memory what they need; else they take all of it."""

PATIENCE = 30.0
"""Seconds for `nvidia-smi`, which takes some where no process keeps the driver awake."""

LISTED = re.compile(r"GPU (\d+): (.+) \(UUID: (GPU-[^)\s]+)\)")
LISTED_PART = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[^)\s]+)\)")
"""Lines of `nvidia-smi -L`: a GPU, and below it a part of one that is divided in hardware (MIG)."""

OUT_OF_MEMORY = (
    "ResourceExhaustedError",  # TensorFlow's
    "OutOfMemoryError",  # PyTorch's and CuPy's
    "RESOURCE_EXHAUSTED",  # JAX's
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUDA out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Dst tensor is not initialized",  # TensorFlow's, of a copy to a GPU that is full
)
"""What the kind or the message of an error says of a GPU whose memory was too small."""


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a part of one that is divided in hardware.

    id: by which CUDA knows it: its UUID, or the entry of CUDA_VISIBLE_DEVICES. number: in
    `nvidia-smi`'s list; CUDA may count in another order, therefore the UUID. name: the model.
    """

    id: str
    number: int
    name: str


def visible_gpus() -> list[Gpu]:
    """Those that this process may use, in the order of CUDA_VISIBLE_DEVICES where that is set.

    An entry that is none hides all behind it, as with CUDA itself.
    """
    listed = _listed_gpus()
    given = os.environ.get(VISIBLE)
    if given is None:
        return listed
    visible = []
    for entry in given.split(","):
        gpu = _named(entry.strip(), listed)
        if gpu is None:
            break
        visible.append(replace(gpu, id=entry.strip()))
    return visible


def _listed_gpus() -> list[Gpu]:
    """All of this machine; none where there is no driver, or it does not answer."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        listed = subprocess.run(  # noqa: S603  the driver's own command
            [command, "-L"], capture_output=True, text=True, timeout=PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return _parsed(listed.stdout)


def _parsed(text: str) -> list[Gpu]:
    """What `nvidia-smi -L` prints; of a GPU that is divided its parts."""
    gpus: list[Gpu] = []
    whole = None
    for line in text.splitlines():
        found = LISTED.match(line)
        if found:
            whole = Gpu(id=found[3], number=int(found[1]), name=found[2])
            gpus.append(whole)
            continue
        part = LISTED_PART.match(line)
        if part and whole:
            if gpus[-1] is whole:
                gpus.pop()
            gpus.append(replace(whole, id=part[2], name=f"{whole.name} MIG {part[1]}"))
    return gpus


def _named(entry: str, listed: Sequence[Gpu]) -> Gpu | None:
    """The one that an entry of CUDA_VISIBLE_DEVICES means: a number, a UUID or its beginning."""
    for gpu in listed:
        if entry == str(gpu.number):
            return gpu
        if entry.startswith(("GPU-", "MIG-")) and gpu.id.startswith(entry):
            return gpu
    return None


def environment_for(gpu: Gpu) -> dict[str, str]:
    """What a process has in its environment that has this one, alone or with others.

    Of its memory the libraries that would take all, TensorFlow and JAX, take what they need.
    """
    return {VISIBLE: gpu.id, OWN: gpu.name, **AS_NEEDED}


def own_gpu() -> str:
    """What the GPU of this worker is called; empty for a process that was given none."""
    return os.environ.get(OWN, "")


def can_use_gpus(library: str) -> bool:
    """Whether a library, one of LIBRARIES, is built for GPUs and has here what it needs for them.

    It is not loaded for that.
    """
    return LIBRARIES[library]()


def loaded_libraries() -> list[str]:
    """Those of LIBRARIES that this program has loaded, as it does that computes with one."""
    return [library for library in LIBRARIES if library in sys.modules]


@functools.cache
def tensorflow_has_gpu() -> bool:
    """Whether TensorFlow would compute on a GPU in this process."""
    return bool(visible_gpus()) and can_use_gpus("tensorflow")


def _tensorflow() -> bool:
    """TensorFlow's package for Linux is built with CUDA, whose libraries come with another, and
    without them it says so in its log and takes the processor."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:
        return False
    build_info = Path(spec.origin).parent / "python" / "platform" / "build_info.py"
    is_built = build_info.exists() and "('is_cuda_build', True)" in build_info.read_text()
    return is_built and _has_cudnn()


def _has_cudnn() -> bool:
    """Whether there is the library that all of TensorFlow's convolutions need: by pip, by conda or
    by the system."""
    if _has_module("nvidia.cudnn") or any(Path(sys.prefix, "lib").glob("libcudnn.so*")):
        return True
    from ctypes.util import find_library

    return find_library("cudnn") is not None


def _torch() -> bool:
    torch = sys.modules.get("torch")
    if torch is None:
        return _has_module("torch")
    return getattr(getattr(torch, "version", None), "cuda", None) is not None


def _jax() -> bool:
    return _has_module("jax_cuda12_plugin") or _has_module("jax_cuda13_plugin")


def _cupy() -> bool:
    return _has_module("cupy")


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # no package above it, or loaded without saying from where
        return name in sys.modules


LIBRARIES = {"tensorflow": _tensorflow, "torch": _torch, "jax": _jax, "cupy": _cupy}
"""Those that compute on a GPU where they find one, without being asked."""


def is_out_of_memory(error: object) -> bool:
    """Whether something is an error which says that a GPU's memory was too small."""
    if not isinstance(error, BaseException):
        return False
    text = f"{type(error).__name__}: {error}"
    return any(sign in text for sign in OUT_OF_MEMORY)
