"""The recipes for clusters beside the named studies: a preempted job goes on elsewhere, and its
trials end as those of an uninterrupted one."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from support import clean, run_command, run_in, wait_for

from cifar_hpo.paths import SWEEPS
from cifar_hpo.study.storage import load_study, open_storage

SCRIPT = SWEEPS / "slurm-array.sh"
MANIFEST = SWEEPS / "kubernetes-job.yaml.example"

GRACE = 30
"""Seconds that a preempted job has to end."""


def can_be_renamed() -> bool:
    """Whether a process here may have a host name of its own."""
    try:
        command = ["unshare", "--uts", "hostname", "elsewhere"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


class Cluster:
    """A folder that all hosts share, and jobs of the script on hosts of any name."""

    def __init__(self, folder: Path) -> None:
        """folder: in which MLflow's store lies."""
        self.folder = folder
        self.kept = 0
        self.jobs: list[subprocess.Popen[str]] = []
        self.environment = clean() | {
            "PYTHON": sys.executable,
            "SLURM_CPUS_PER_TASK": "2",
            "CIFAR_HPO_SECRETS": str(folder / "secrets.env"),
        }
        urls = {"STUDY_URL": "studies.db", "MLFLOW_TRACKING_URI": "mlflow.db"}
        lines = [f"{name}='sqlite:///{folder / file}'\n" for name, file in urls.items()]
        (folder / "secrets.env").write_text("".join(lines))

    def start(self, host: str, *arguments: str) -> subprocess.Popen[str]:
        named = 'hostname "$0" && exec bash "$@"'
        command = ["unshare", "--uts", "sh", "-c", named, host, str(SCRIPT), *arguments]
        job = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.jobs.append(job)
        return job

    def epochs(self) -> int:
        """How many epochs lie in the checkpoints of all trials; fails where there are fewer than
        there were."""
        by_trial: Counter[Path] = Counter()
        for file in self.folder.rglob("replica_0.checkpoint*"):
            if file.suffix == ".draft":
                continue
            with contextlib.suppress(FileNotFoundError), np.load(file) as saved:
                count = len(json.loads(saved["about"].tobytes())["epochs"])
                by_trial[file.parent] = max(by_trial[file.parent], count)
        assert by_trial.total() >= self.kept, "an epoch was trained again"
        self.kept = by_trial.total()
        return self.kept

    def has_trained(self, epochs: int) -> bool:
        """Whether so many are kept by now."""
        return self.epochs() >= epochs

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return load_study(open_storage(f"sqlite:///{self.folder}/studies.db"), "s").get_trials()


@pytest.fixture
def cluster(tmp_path: Path, store: None) -> Iterator[Cluster]:
    if not can_be_renamed():
        pytest.skip("only root may give a process another host name")
    cluster = Cluster(tmp_path)
    yield cluster
    for job in cluster.jobs:
        if job.poll() is None:
            job.kill()
            job.communicate(timeout=60)


def metrics(trials: list[optuna.trial.FrozenTrial]) -> dict[str, dict[str, float]]:
    """What each configuration came to, but for how long it took."""
    found = {}
    for trial in trials:
        values = dict(trial.user_attrs["outcome"]["metrics"])
        values.pop("train_seconds")
        found[json.dumps(trial.params)] = values
    return found


@pytest.mark.long
def test_a_job_that_is_preempted_goes_on_under_another_host_name_bit_for_bit(
    cluster: Cluster, small: list[str]
) -> None:
    sweep = (*small, "model.filters=4,8", "training.epochs=16", "hydra.sweeper.study_name=s")
    job = cluster.start("node-1", *sweep)
    wait_for(functools.partial(cluster.has_trained, 4), seconds=120)
    sent_at = time.monotonic()
    job.send_signal(signal.SIGTERM)
    out, _ = job.communicate(timeout=GRACE)
    assert time.monotonic() - sent_at < GRACE / 2
    assert job.returncode == 130, out
    assert "interrupted; the same command goes on from here" in out
    assert {trial.state.name for trial in cluster.trials()} == {"WAITING"}
    job = cluster.start("node-2", *sweep)
    wait_for(functools.partial(cluster.has_trained, cluster.kept + 2), seconds=120)
    out, _ = job.communicate(timeout=120)
    assert job.returncode == 0, out
    assert {trial.state.name for trial in cluster.trials()} == {"COMPLETE"}
    calm = cluster.folder / "calm"
    calm.mkdir()
    shutil.copy(cluster.folder / "mlflow.db", calm)
    workers = ("hydra.launcher.n_workers=2", "hydra.launcher.threads_per_worker=1")
    shown = run_in(calm, "-m", *sweep, *workers, "hydra.sweeper.fresh=true")
    assert shown.returncode == 0, shown.stderr
    wanted = load_study(open_storage(f"sqlite:///{calm}/mlruns/studies.db"), "s").get_trials()
    assert metrics(cluster.trials()) == metrics(wanted)


def test_the_script_asks_for_its_databases_and_gives_the_sweeps_exit_code(tmp_path: Path) -> None:
    command = ["bash", str(SCRIPT), "model.filters=4,8"]
    without = {"CIFAR_HPO_SECRETS": str(tmp_path / "none"), "HOME": str(tmp_path)}
    shown = run_command(tmp_path, command, **without)
    assert shown.returncode == 1
    assert "STUDY_URL: the URL of a PostgreSQL database: export it, or write it to" in shown.stderr
    urls = {"STUDY_URL": "postgresql://me:geheim@host/x", "MLFLOW_TRACKING_URI": "http://x"}
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 7\n')
    python.chmod(0o755)
    given = without | urls | {"PYTHON": str(python), "SLURM_CPUS_PER_TASK": "8"}
    shown = run_command(tmp_path, command, **given)
    assert shown.returncode == 7
    assert shown.stdout.splitlines() == [
        "-m",
        "cifar_hpo",
        "-m",
        "hydra.sweeper.storage=${oc.env:STUDY_URL}",
        "hydra.launcher.n_workers=8",
        "hydra.launcher.threads_per_worker=1",
        "model.filters=4,8",
    ], "without the password"


STANDS_IN = {
    "scontrol": '#!/bin/sh\necho "scontrol $*" >>log.txt\n',
    "python": """#!/bin/sh
trap 'echo ended >>log.txt; exit 130' TERM
echo started >>log.txt
while true; do sleep 0.1; done
""",
}
"""For SLURM's command, and for a sweep that ends in order."""


@pytest.mark.parametrize(
    ("sent", "noted"),
    [
        (signal.SIGTERM, ["started", "ended"]),
        (signal.SIGUSR1, ["started", "ended", "scontrol requeue 17"]),
    ],
)
def test_the_script_passes_a_signal_on_and_comes_back_after_its_time_limit(
    sent: signal.Signals, noted: list[str], tmp_path: Path
) -> None:
    for name, text in STANDS_IN.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "CIFAR_HPO_SECRETS": str(tmp_path / "none"),
        "STUDY_URL": "postgresql://host/x",
        "MLFLOW_TRACKING_URI": "http://x",
    }
    log = tmp_path / "log.txt"
    job = subprocess.Popen(["bash", str(SCRIPT)], cwd=tmp_path, env=clean() | environment)
    wait_for(log.exists)
    job.send_signal(sent)
    assert job.wait(20) == 130
    assert log.read_text().splitlines() == noted


def test_the_script_has_nothing_that_shellcheck_knows_of() -> None:
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    shellcheck = shutil.which("shellcheck", path=beside)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    shown = run_command(SWEEPS, [shellcheck, SCRIPT.name])
    assert shown.stdout == ""


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    content = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_the_manifest_is_a_job_by_kubernetes_own_schema(manifest: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="no schema is installed")
    for version in ("1.29", "1.33"):
        validate.validate(manifest, version, strict=True)
    manifest["spec"]["paralelism"] = 4
    with pytest.raises(validate.ValidationError):
        validate.validate(manifest, "1.33", strict=True)
    del manifest["spec"]["paralelism"]


def test_the_manifest_starts_a_sweep_and_spells_no_address(manifest: dict[str, Any]) -> None:
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    python, *arguments = container["command"]
    assert python == "python"
    assert arguments[:3] == ["-m", "cifar_hpo", "-m"]
    assert "hydra.sweeper.storage=${oc.env:STUDY_URL}" in arguments
    for variable in container["env"]:
        assert "value" not in variable, "a secret has it"
        assert variable["valueFrom"]["secretKeyRef"]["key"] == variable["name"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in manifest["spec"]["template"]["spec"]["volumes"]}
