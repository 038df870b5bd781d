"""Slots: how many workers there are, and which GPU each has. There is none here, so a stand-in for
`nvidia-smi` lists them, and stub tasks record what their worker saw; real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
from support import FakeGpus, run_command

from cifar_hpo import gpus
from cifar_hpo.errors import ConfigError
from cifar_hpo.gpus import Gpu
from cifar_hpo.workers.slots import Slots

CORES = 8


def slots(libraries: list[str] | None = None, jobs: int | None = None, **options: Any) -> Slots:
    """What options of the launcher come to on a machine of eight cores."""
    return Slots.from_options(options, libraries or [], cores=CORES, jobs=jobs)


def ids(settled: Slots) -> list[str]:
    """The GPU of each slot."""
    return [gpu.id for slot in range(settled.count) if (gpu := settled.gpu(slot))]


@pytest.mark.parametrize(
    ("options", "wanted", "threads", "text"),
    [
        ({"gpus": "auto"}, "ab", 4, "2 workers, one GPU each"),
        ({"gpus": 2}, "ab", 4, "2 workers, one GPU each"),
        ({"gpus": 1}, "a", 8, "1 worker, one GPU"),
        ({"gpus": [1]}, "b", 8, "1 worker, one GPU"),
        ({"gpus": [1, 0]}, "ba", 4, "2 workers, one GPU each"),
        ({"gpus": "auto", "per_gpu": 2}, "abab", 2, "4 workers on 2 GPUs"),
        ({"gpus": 1, "per_gpu": 3}, "aaa", 2, "3 workers on 1 GPU"),
        ({"gpus": "auto", "per_gpu": 2, "n_workers": 3}, "aba", 2, "3 workers on 2 GPUs"),
        ({"gpus": "auto", "n_workers": 1}, "a", 8, "1 worker, one GPU"),
        ({"gpus": "auto", "n_workers": 5}, "ababa", 1, "5 workers on 2 GPUs"),
        ({"gpus": "auto", "threads_per_worker": 3}, "ab", 3, "2 workers, one GPU each"),
        ({"gpus": "auto", "per_gpu": 2, "jobs": 3}, "aba", 2, "3 workers on 2 GPUs"),
        ({"gpus": "auto", "per_gpu": 2, "jobs": 2}, "ab", 4, "2 workers, one GPU each"),
        ({"gpus": 0}, "", 1, ""),
        ({}, "", 1, ""),
        ({"per_gpu": 2, "n_workers": 4}, "", 2, ""),
    ],
)
def test_workers_take_turns_on_the_gpus_and_share_the_cores(
    fake_gpus: FakeGpus, options: dict[str, Any], wanted: str, threads: int, text: str
) -> None:
    fake_gpus("GPU-a", "GPU-b")
    settled = slots(**options)
    assert ids(settled) == [f"GPU-{letter}" for letter in wanted]
    assert (settled.threads, settled.text) == (threads, text)
    if not wanted:
        assert settled.count == options.get("n_workers", CORES)
    for slot in range(settled.count):
        assert settled.shares_gpu(slot) is (wanted.count(wanted[slot]) > 1 if wanted else False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"gpus": 8},
            "hydra.launcher.gpus: 8 are more than there are: 0 (NVIDIA Fake 0), 1 (NVIDIA Fake 1);",
        ),
        (
            {"gpus": [0, 5]},
            "hydra.launcher.gpus: 5 is none of those that are here: 0 (NVIDIA Fake 0), 1 (NVIDIA",
        ),
        (
            {"gpus": [1, 1]},
            "hydra.launcher.gpus: 1 stands there twice; hydra.launcher.per_gpu=2 shares each",
        ),
        (
            {"gpus": "auto", "per_gpu": 1, "n_workers": 3},
            (
                "hydra.launcher.n_workers: 3 are more than 2 GPUs with 1 each take; "
                "hydra.launcher.per_gpu=2"
            ),
        ),
        ({"gpus": "both"}, "hydra.launcher.gpus: 'both' is not a whole number ≥ 0"),
        ({"gpus": -1}, "hydra.launcher.gpus: -1 is out of range: must be ≥ 0"),
        ({"gpus": 1.5}, "hydra.launcher.gpus: 1.5 is not a whole number ≥ 0"),
        ({"gpus": True}, "hydra.launcher.gpus: True is not a whole number ≥ 0"),
        ({"gpus": []}, "hydra.launcher.gpus: [] is not a whole number ≥ 0"),
        ({"gpus": ["auto"]}, "hydra.launcher.gpus: auto is none of those that are here"),
        ({"per_gpu": 0}, "hydra.launcher.per_gpu: 0 is out of range: must be ≥ 1"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_path(
    fake_gpus: FakeGpus, options: dict[str, Any], message: str
) -> None:
    fake_gpus("GPU-a", "GPU-b")
    with pytest.raises(ConfigError) as refused:
        slots(**options)
    assert str(refused.value).startswith(message)


def test_those_that_the_environment_hides_are_not_there(
    fake_gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_gpus("GPU-a", "GPU-b")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert ids(slots(gpus="auto")) == ["1"]
    with pytest.raises(ConfigError, match=r"by CUDA_VISIBLE_DEVICES=1"):
        slots(gpus=[0])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slots(gpus="auto").gpus == ()
    with pytest.raises(ConfigError, match=r"none that nvidia-smi lists, by CUDA_VISIBLE_DEVICES="):
        slots(gpus=1)


def test_the_number_of_a_divided_gpu_means_all_of_its_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = [Gpu("MIG-1", 0, "A"), Gpu("MIG-2", 0, "A"), Gpu("GPU-b", 1, "B")]
    monkeypatch.setattr(gpus, "visible_gpus", lambda: parts)
    assert ids(slots(gpus=[0])) == ["MIG-1", "MIG-2"]
    assert ids(slots(gpus=[1, 0])) == ["GPU-b", "MIG-1", "MIG-2"]


def test_unless_it_is_said_gpus_are_used_where_trials_can(
    fake_gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for library in ("torch", "jax", "cupy", "tensorflow"):
        monkeypatch.delitem(sys.modules, library, raising=False)
    torch = ModuleType("torch")
    fake_gpus("GPU-a", "GPU-b")
    assert slots().gpus == (), "of an app that computes with none of these nobody knows"
    monkeypatch.setitem(sys.modules, "torch", torch)
    torch.version = SimpleNamespace(cuda=None)  # type: ignore[attr-defined]
    assert slots().gpus == (), "PyTorch without CUDA"
    assert not caplog.records
    torch.version = SimpleNamespace(cuda="12.6")  # type: ignore[attr-defined]
    assert ids(slots()) == ["GPU-a", "GPU-b"]
    assert slots(gpus=0).gpus == ()
    assert slots(["tensorflow"]).gpus == (), "its libraries for CUDA are not installed here"
    assert "none of 2 GPUs is used: TensorFlow is built without CUDA or has no" in caplog.text
    monkeypatch.setattr("cifar_hpo.gpus._has_cudnn", lambda: True)
    caplog.clear()
    assert ids(slots(["tensorflow"])) == ["GPU-a", "GPU-b"]
    assert not caplog.records


def test_without_a_gpu_auto_is_a_worker_for_each_core(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for libraries in ([], ["tensorflow"]):
        for option in (None, "auto", 0):
            settled = slots(libraries, gpus=option)
            assert (settled.count, settled.threads, settled.gpus) == (CORES, 1, ())
    assert not caplog.records
    assert slots().environment(0) == {}
    assert slots(gpus=0).environment(0) == {"CUDA_VISIBLE_DEVICES": "-1"}
    with pytest.raises(ConfigError, match=r"1 are more than there are: none that nvidia-smi lists"):
        slots(gpus=1)


APP = """
import json, os, sys, time
from pathlib import Path

NAMES = ("CUDA_VISIBLE_DEVICES", "TF_FORCE_GPU_ALLOW_GROWTH", "OMP_NUM_THREADS")
AT_IMPORT = {name: os.environ.get(name) for name in NAMES}
import hydra
HEAD

def is_there(pid):
    return Path(f"/proc/{pid}").exists() and pid != os.getpid()

def meet(x):
    deadline = time.monotonic() + 30
    while not Path(f"seen/{x}-0.json").exists():
        assert time.monotonic() < deadline, f"trial {x} did not run at the same time"
        time.sleep(0.02)

class ResourceExhaustedError(Exception):
    pass

@hydra.main(version_base="1.3", config_path=None)
def task(config):
    folder = Path("seen")
    folder.mkdir(exist_ok=True)
    count = len(list(folder.glob(f"{config.x}-*")))
    texts = [file.read_text() for file in folder.glob("*.json")]
    before = [json.loads(text)["pid"] for text in texts if text]
    seen = {
        "x": config.x,
        "pid": os.getpid(),
        "attempt": count,
        "at_import": sys.modules["__mp_main__"].AT_IMPORT,
        "in_task": {name: os.environ.get(name) for name in NAMES},
        "others": [pid for pid in before if is_there(pid)],
        "begin": time.monotonic(),
    }
    file = folder / f"{config.x}-{count}.json"
    file.touch()
    try:
        BODY
    finally:
        seen["end"] = time.monotonic()
        file.with_suffix(".draft").write_text(json.dumps(seen))
        file.with_suffix(".draft").replace(file)
    return float(config.x)

if __name__ == "__main__":
    task()
"""


class Seen(NamedTuple):
    """What a trial saw of its worker: variables as its file was imported and as it ran, the
    processes of trials before it that were still there, and when it ran, in seconds."""

    x: int
    pid: int
    attempt: int
    at_import: dict[str, str | None]
    in_task: dict[str, str | None]
    others: list[int]
    begin: float
    end: float

    def overlaps(self, other: Seen) -> bool:
        return self.begin < other.end and other.begin < self.end


def sweep(
    folder: Path, body: str, *overrides: str, head: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[Seen]]:
    """Run the app to its end with a body of its task; what its trials saw, in their order.

    head: what its file loads beside the rest.
    """
    program = APP.replace("HEAD", head).replace("BODY", body.replace("\n", "\n        "))
    (folder / "app.py").write_text(program)
    command = [sys.executable, "app.py", "-m", "hydra/sweeper=study", "hydra/launcher=workers"]
    ended = run_command(folder, [*command, "hydra.sweeper.study_name=s", *overrides])
    texts = [file.read_text() for file in (folder / "seen").glob("*.json")]
    seen = [Seen(**json.loads(text)) for text in texts if text]  # none of a trial that was killed
    return ended, sorted(seen, key=lambda one: one.begin)


def test_each_worker_has_its_own_gpu_before_it_loads_anything(
    tmp_path: Path, fake_gpus: FakeGpus
) -> None:
    fake_gpus("GPU-a", "GPU-b", "GPU-c")
    ended, seen = sweep(tmp_path, "meet(config.x ^ 1)", "+x=0,1,2,3", "hydra.launcher.gpus=[0,2]")
    assert ended.returncode == 0, ended.stderr
    assert "study s: 4 trials; 2 workers, one GPU each" in ended.stdout
    workers = {(one.pid, one.in_task["CUDA_VISIBLE_DEVICES"]) for one in seen}
    assert len(workers) == 2
    assert {gpu for _, gpu in workers} == {"GPU-a", "GPU-c"}
    for one in seen:
        assert one.at_import == one.in_task, "the program's file is imported after it is set"
        assert one.in_task["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
        assert one.in_task["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 2))
    for first, second in combinations(seen, 2):
        if first.overlaps(second):
            assert first.in_task != second.in_task


@pytest.mark.parametrize(("head", "wanted"), [("import torch", "GPU-a"), ("", None)])
def test_the_workers_of_a_program_that_computes_with_pytorch_have_gpus(
    tmp_path: Path, fake_gpus: FakeGpus, head: str, wanted: str | None
) -> None:
    """Those of any other are as without a GPU: of them nobody knows."""
    fake_gpus("GPU-a")
    (tmp_path / "torch.py").write_text("class version: cuda = '12.6'\n")
    body = "if config.x == 1 and count == 0: os.kill(os.getpid(), 9)"
    ended, seen = sweep(tmp_path, body, "+x=0,1", head=head)
    assert ended.returncode == 0, ended.stderr
    assert "+x=1: FAILED worker killed by SIGKILL" in ended.stdout
    assert ("1 worker, one GPU" in ended.stdout) is bool(wanted)
    assert {one.at_import["CUDA_VISIBLE_DEVICES"] for one in seen} == {wanted}


def test_too_many_gpus_are_one_line_before_anything_starts(
    tmp_path: Path, fake_gpus: FakeGpus
) -> None:
    fake_gpus("GPU-a", "GPU-b")
    ended, seen = sweep(tmp_path, "pass", "+x=0,1", "hydra.launcher.gpus=8")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: hydra.launcher.gpus: 8 are more than there are: 0 (NVIDIA Fake")
    assert not seen


AUTO = "hydra.launcher.gpus=auto"
CROWDED = """if WHEN: raise ResourceExhaustedError("OOM when allocating tensor")"""


def test_a_trial_that_a_shared_gpu_has_too_little_memory_for_has_it_alone_once(
    tmp_path: Path, fake_gpus: FakeGpus
) -> None:
    fake_gpus("GPU-a")
    crowded = CROWDED.replace("WHEN", "config.x == 2 and count == 0")
    body = f"if count == 0: meet(config.x ^ 1)\n{crowded}\ntime.sleep(0.5)"
    ended, seen = sweep(tmp_path, body, "+x=range(0,6)", "hydra.launcher.per_gpu=2", AUTO)
    assert ended.returncode == 0, ended.stderr
    assert "study s: 6 trials; 2 workers on 1 GPU" in ended.stdout
    (told,) = [line for line in ended.stdout.splitlines() if "will be tried again" in line]
    assert "trial 2: +x=2: FAILED ResourceExhaustedError: OOM when" in told
    assert {one.in_task["CUDA_VISIBLE_DEVICES"] for one in seen} == {"GPU-a"}
    assert sorted(one.x for one in seen) == [0, 1, 2, 2, 3, 4, 5]
    (alone,) = [one for one in seen if one.attempt == 1]
    assert not any(alone.overlaps(other) for other in seen if other is not alone)
    assert not alone.others, "idle workers would keep memory of the GPU"
    assert sum(one.begin > alone.end for one in seen) == 2, "which is no reason to end the sweep"
    assert [one.pid for one in seen].count(alone.pid) == 1


@pytest.mark.parametrize(("per_gpu", "attempts"), [(2, 2), (1, 1)])
def test_too_little_memory_for_one_trial_alone_is_a_failure(
    tmp_path: Path, fake_gpus: FakeGpus, per_gpu: int, attempts: int
) -> None:
    fake_gpus("GPU-a")
    overrides = (f"hydra.launcher.per_gpu={per_gpu}", AUTO, "hydra.sweeper.retries=3")
    ended, seen = sweep(tmp_path, CROWDED.replace("WHEN", "config.x == 2"), "+x=2,3", *overrides)
    assert ended.returncode == 1
    assert "1 of 2 trials failed; the first: ResourceExhaustedError: OOM when" in ended.stderr
    assert [one.x for one in seen].count(2) == attempts
    assert [one.x for one in seen].count(3) == 1
