"""What is used of hydra-submitit-launcher and submitit beyond their documented interface.

That launcher submits a batch as jobs, waits for one after the other, and raises for the first that
was killed, while the others run on where they are. `jobs_apart` lets a killed job cost itself
alone, and cancels the others where nobody waits for them any more; `cancel_left` does so with those
of a command that was killed.
tests/workers/test_submitit.py says what broke when a new version changes one of these.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from cifar_hpo.errors import ConfigError, one_line
from cifar_hpo.paths import short_path
from cifar_hpo.redaction import redacted
from cifar_hpo.workers.jobs import HydraLauncher, WorkerLost

log = logging.getLogger(__name__)

LAUNCHERS = "hydra_plugins.hydra_submitit_launcher."
OF_SLURM = "SlurmLauncher"
"""How the `_target_` of its launchers begins, and how that of the one for SLURM ends."""

COMMANDS_OF_SLURM = ("sbatch", "srun")

LOCAL = "local"
"""What submitit calls jobs that are processes of this machine."""

CONTROLLER = "submitit.local._local"
"""The module that runs such a job, whose id is that of the process."""

SUBMITTED = "_submitted.pkl"
"""How the file of a job ends that says what it runs; before it stands the job's id."""

END_TIMEOUT = 5.0
"""Seconds in which a job of this machine ends that was cancelled: submitit kills it after one."""


def is_submitit(launcher: HydraLauncher) -> bool:
    """Whether it is one of that package's."""
    return _target(launcher).startswith(LAUNCHERS)


def _target(launcher: HydraLauncher) -> str:
    return str(OmegaConf.select(launcher.config, "hydra.launcher._target_", default=""))


def _folder(launcher: HydraLauncher) -> str:
    """Where submitit keeps what is known of a sweep's jobs, each of which stands for `%j` in it.

    The launcher knows it from before the study had its name.
    """
    return str(launcher.config.hydra.launcher.submitit_folder)


def refuse_without_slurm(launcher: HydraLauncher) -> None:
    """Raise ConfigError for a launcher of jobs on SLURM where its commands are not."""
    if not is_submitit(launcher) or not _target(launcher).endswith(OF_SLURM):
        return
    missing = [command for command in COMMANDS_OF_SLURM if shutil.which(command) is None]
    if missing:
        problem = f"submitit_slurm needs {' and '.join(missing)}, which this machine has not"
        hint = "start the command on a host of the cluster, or take submitit_local"
        raise ConfigError("hydra/launcher", f"{problem}; {hint}")


def cancel_left(launcher: HydraLauncher) -> None:
    """Cancel the jobs of this sweep that a command left which was killed; nobody else may work on
    its study."""
    if not is_submitit(launcher):
        return
    from submitit.core.utils import JobPaths

    folder = _folder(launcher)
    ids = []
    for file in JobPaths.get_first_id_independent_folder(folder).rglob(f"*{SUBMITTED}"):
        job_id = file.name.removesuffix(SUBMITTED)
        if not JobPaths(folder, job_id).result_pickle.exists():
            ids.append(job_id)
    if not ids:
        return
    if _target(launcher).endswith(OF_SLURM):
        subprocess.run(["scancel", "--quiet", *ids], check=False)  # noqa: S603, S607  SLURM's own
    else:
        _end_controllers([int(job_id) for job_id in ids])


def _end_controllers(ids: Sequence[int]) -> None:
    """End those processes that are still jobs of this machine, and wait for their ends."""
    ended = []
    for number in ids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(number)
            if CONTROLLER in process.cmdline():
                process.send_signal(signal.SIGINT)
                ended.append(process)
    psutil.wait_procs(ended, END_TIMEOUT)


@contextlib.contextmanager
def jobs_apart(launcher: HydraLauncher) -> Iterator[None]:
    """Let one of these launchers return a `WorkerLost` for each job that ended without a result;
    nothing for any other launcher.

    Jobs that it still waits for when it is interrupted are cancelled. Raises ConfigError where it
    could submit none.
    """
    if not is_submitit(launcher):
        yield
        return
    import submitit

    options: Any = launcher
    options.params["submitit_folder"] = _folder(launcher)
    before = submitit.AutoExecutor
    submitted: list[_Job] = []

    class Executor(before):  # type: ignore[misc, valid-type]
        """Notes the jobs, and gives the launcher ours to wait for."""

        def map_array(self, function: Any, *arguments: Any) -> list[_Job]:
            if self.cluster == LOCAL:  # one by one, each of which is noted before the next starts
                for given in zip(*arguments, strict=True):
                    submitted.append(_Job(self.submit(function, *given), is_local=True))
            else:
                for job in super().map_array(function, *arguments):
                    submitted.append(_Job(job, is_local=False))
            return submitted

    submitit.AutoExecutor = Executor
    try:
        yield
    except BaseException as error:
        _cancel(submitted)
        if not submitted and isinstance(error, Exception):
            problem = f"no job was submitted: {redacted(one_line(error))}"
            raise ConfigError("hydra.launcher", problem) from error
        raise
    finally:
        submitit.AutoExecutor = before


class _Job:
    """A job of submitit's, as the launcher waits for it."""

    def __init__(self, job: Any, *, is_local: bool) -> None:
        self.job = job
        self.is_local = is_local

    def results(self) -> list[JobReturn]:
        """What came of it, in a list. One that was killed has failed, with a `WorkerLost`."""
        from submitit.core.utils import UncompletedJobError

        self.job.wait()
        # On a file system of the cluster submitit waits for a result that may come late.
        if self.is_local and not self.has_result():
            return [self._lost()]
        try:
            results: list[JobReturn] = self.job.results()
        except UncompletedJobError:
            return [self._lost()]
        return results

    def has_result(self) -> bool:
        return bool(self.job.paths.result_pickle.exists())

    def _lost(self) -> JobReturn:
        returned = JobReturn(status=JobStatus.FAILED)
        where = f"its last words are in {short_path(self.job.paths.stderr)}"
        returned.return_value = WorkerLost(f"job {self.job.job_id} ended without a result; {where}")
        return returned


def _cancel(jobs: Sequence[_Job]) -> None:
    """End those that have no result, and wait for those of this machine."""
    running = [job for job in jobs if not job.has_result()]
    for job in running:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):  # it has ended by now
            job.job.cancel(check=False)
    for job in running:
        process = getattr(job.job, "_process", None)
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT)
