"""Trials through a launcher that takes batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from omegaconf import OmegaConf

from cifar_hpo.hydra_internals import return_value
from cifar_hpo.left_results import LeftResults
from cifar_hpo.sweep.batches import jobs_at_a_time, run_batches
from cifar_hpo.trial import TrialSpec
from cifar_hpo.workers.jobs import HydraLauncher, Job, JobResult, WorkerLost
from cifar_hpo.workers.pool import available_cores


class Launcher:
    """Notes the batches that it is given, of up to 99 jobs at a time."""

    task_function: Any = None
    hydra_context: Any = None

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.config = OmegaConf.create({"hydra": {"launcher": {"n_jobs": 99}}})
        self.meanwhile = meanwhile
        self.batches: list[tuple[int, int]] = []

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        self.batches.append((initial_job_idx, len(job_overrides)))
        self.meanwhile()
        return [JobReturn() for _ in job_overrides]


def _run(
    jobs: Iterator[Job | None],
    launcher: HydraLauncher,
    size: int | None = None,
    take: Callable[[JobResult], None] = lambda _: None,
) -> Iterator[JobResult]:
    """Batches whose trials may leave results in the current folder."""
    return run_batches(jobs, launcher, size, take=take, left=LeftResults(Path(), "study"))


def job(number: int, attempt: int = 0) -> Job:
    config: Any = OmegaConf.create()
    return Job(TrialSpec(number, (f"x={number}",), attempt=attempt), config)


@pytest.mark.parametrize(
    ("jobs", "size", "batches"),
    [
        ([job(0), job(1), job(2)], None, [(0, 3)]),
        ([job(0), job(1), job(2)], 2, [(0, 2), (2, 1)]),
        ([job(0), None, job(1)], None, [(0, 1), (1, 1)]),
        ([job(3), job(5), job(6)], None, [(3, 1), (5, 2)]),
        ([job(0), job(1, attempt=1), job(2, attempt=1)], None, [(0, 1), (1, 2)]),
        ([], None, []),
    ],
)
def test_a_batch_holds_what_follows_in_number_and_has_the_same_attempt(
    jobs: list[Job | None], size: int | None, batches: list[tuple[int, int]]
) -> None:
    launcher = Launcher()
    results = list(_run(iter(jobs), launcher, size))
    assert launcher.batches == batches
    assert [result.job for result in results] == [job for job in jobs if job]


def test_the_next_batch_is_asked_for_after_the_last_was_told_of() -> None:
    told: list[int] = []

    def jobs() -> Iterator[Job | None]:
        yield job(0)
        yield None
        assert told == [0]
        yield job(1)

    for result in _run(jobs(), Launcher()):
        told.append(result.job.spec.number)
    assert told == [0, 1]


def test_a_result_that_was_left_is_noted_before_its_batch_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    noted: list[JobResult] = []
    is_noted = threading.Event()

    def take(job_result: JobResult) -> None:
        noted.append(job_result)
        is_noted.set()

    def meanwhile() -> None:
        LeftResults(Path(), "study").write(4, ("x=4",), 0.5, seconds=2)
        LeftResults(Path(), "another").write(5, ("x=5",), 0.5)
        assert is_noted.wait(10)

    results = list(_run(iter([job(4), job(5)]), Launcher(meanwhile), take=take))
    assert [(result.job.spec.number, result.seconds) for result in noted] == [(4, 2)]
    assert return_value(noted[0].returned) == 0.5
    assert [result.job.spec.number for result in results] == [4, 5], (
        "Hydra's view of all comes last"
    )


def test_what_goes_wrong_while_a_result_is_noted_is_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    left = LeftResults(Path(), "study")
    is_read = threading.Event()

    def take(_: JobResult) -> None:
        is_read.set()
        raise OSError("the database is gone")

    def meanwhile() -> None:
        left.write(0, ("x=0",), 0.5)
        assert is_read.wait(10)

    with pytest.raises(OSError, match="the database is gone"):
        list(_run(iter([job(0)]), Launcher(meanwhile), take=take))


def test_a_launcher_that_gives_up_has_lost_its_jobs() -> None:
    def gives_up() -> None:
        raise RuntimeError("a worker process was terminated: sqlite://me:SECRET@host/x")

    results = list(_run(iter([job(0), job(1)]), Launcher(gives_up)))
    errors = [return_value(result.returned) for result in results]
    assert [type(error) for error in errors] == [WorkerLost, WorkerLost]
    assert "RuntimeError: a worker process was terminated: sqlite://me:***@host" in str(errors[0])

    def refuses() -> None:
        raise HydraException("no such key")

    with pytest.raises(HydraException, match="no such key"):
        list(_run(iter([job(0)]), Launcher(refuses)))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, 1),
        ({"n_jobs": 3}, 3),
        ({"n_jobs": -1}, available_cores()),
        ({"n_jobs": -99}, 1),
        ({"n_jobs": None}, available_cores()),
        ({"array_parallelism": 64}, 64),
        ({}, available_cores()),
    ],
)
def test_a_batch_is_what_a_launcher_runs_at_a_time(options: dict[str, Any], size: int) -> None:
    launcher = Launcher()
    launcher.config = OmegaConf.create({"hydra": {"launcher": options}})
    assert jobs_at_a_time(launcher) == size
