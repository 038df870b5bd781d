"""Which GPUs a process may use, by the driver's list and CUDA_VISIBLE_DEVICES, and what can use
them. There is none here: a stand-in for `nvidia-smi` lists them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from support import FakeGpus

from cifar_hpo import gpus

DIVIDED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aa)
  MIG 3g.20gb     Device  0: (UUID: MIG-01)
  MIG 3g.20gb     Device  1: (UUID: MIG-02)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bb)
"""


def ids() -> list[str]:
    return [gpu.id for gpu in gpus.visible_gpus()]


@pytest.mark.parametrize(
    ("given", "visible"),
    [
        (None, ["GPU-a0", "GPU-a1", "GPU-b2"]),
        ("2,0", ["2", "0"]),
        ("GPU-a1", ["GPU-a1"]),
        ("GPU-b", ["GPU-b"]),
        ("GPU-b2, 0", ["GPU-b2", "0"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,7,0", ["1"]),  # as CUDA, which sees none behind a wrong one
        ("GPU-c", []),
    ],
)
def test_cuda_visible_devices_says_which_there_are(
    fake_gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch, given: str | None, visible: list[str]
) -> None:
    fake_gpus("GPU-a0", "GPU-a1", "GPU-b2")
    if given is not None:
        monkeypatch.setenv(gpus.VISIBLE, given)
    assert ids() == visible


def test_the_parts_of_a_divided_gpu_stand_for_it(
    fake_gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_gpus(text=DIVIDED)
    assert ids() == ["MIG-01", "MIG-02", "GPU-bb"]
    assert [gpu.number for gpu in gpus.visible_gpus()] == [0, 0, 1]
    assert gpus.visible_gpus()[0].name == "NVIDIA A100-SXM4-40GB MIG 3g.20gb"
    monkeypatch.setenv(gpus.VISIBLE, "MIG-02")
    assert ids() == ["MIG-02"]


@pytest.mark.parametrize("exit_code", [0, 9])
def test_a_driver_that_answers_with_an_error_has_none(fake_gpus: FakeGpus, exit_code: int) -> None:
    fake_gpus(text="NVIDIA-SMI has failed because it couldn't communicate\n", exit_code=exit_code)
    assert ids() == []


def test_without_a_driver_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(gpus.VISIBLE, "0")
    assert ids() == []


@pytest.mark.parametrize(("cuda", "can"), [("12.6", True), (None, False)])
def test_pytorch_says_whether_it_is_built_for_gpus(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, can: bool
) -> None:
    torch = ModuleType("torch")
    torch.version = SimpleNamespace(cuda=cuda)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert "torch" in gpus.loaded_libraries()
    assert gpus.can_use_gpus("torch") is can


@pytest.mark.parametrize(
    ("build", "has_cudnn", "can"),
    [
        ("('is_cuda_build', True)", True, True),
        ("('is_cuda_build', True)", False, False),
        ("('is_cuda_build', False)", True, False),
    ],
)
def test_tensorflow_needs_a_build_for_gpus_and_cudnn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, build: str, has_cudnn: bool, can: bool
) -> None:
    folder = tmp_path / "tensorflow" / "python" / "platform"
    folder.mkdir(parents=True)
    (folder / "build_info.py").write_text(f"build_info = OrderedDict([{build}])\n")
    spec = SimpleNamespace(origin=str(tmp_path / "tensorflow" / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    monkeypatch.setattr(gpus, "_has_cudnn", lambda: has_cudnn)
    assert gpus.can_use_gpus("tensorflow") is can


def test_no_library_is_loaded_to_be_asked() -> None:
    before = set(sys.modules)
    for library in gpus.LIBRARIES:
        gpus.can_use_gpus(library)
    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not loaded & {*gpus.LIBRARIES, "jaxlib"}


def error(name: str, text: str) -> Exception:
    kind: type[Exception] = type(name, (Exception,), {})
    return kind(text)


@pytest.mark.parametrize(
    ("raised", "is_it"),
    [
        (error("ResourceExhaustedError", "OOM when allocating tensor with shape[4096]"), True),
        (error("OutOfMemoryError", "CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (error("XlaRuntimeError", "RESOURCE_EXHAUSTED: Out of memory while trying"), True),
        (error("InternalError", "failed to alloc: CUDA_ERROR_OUT_OF_MEMORY: out of memory"), True),
        (RuntimeError("ResourceExhaustedError: OOM when allocating tensor"), True),
        (MemoryError("Unable to allocate 4 GiB"), False),
        (ValueError("no luck"), False),
        ("CUDA out of memory", False),  # is a value that a task returned
    ],
)
def test_what_says_that_a_gpu_has_too_little_memory(raised: object, is_it: bool) -> None:
    assert gpus.is_out_of_memory(raised) is is_it
