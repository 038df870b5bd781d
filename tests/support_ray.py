"""Ray on this machine: nodes that are started and ended one by one, and an app that sweeps on them.

A node is `ray start --block`, whose processes are this one's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna
import psutil
import pytest
from support import clean, wait_for

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install '.[ray]'"
)

UNGUARDED = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
"""The environment of Ray on loopback, which else leaves a token in the user's home."""

STARTED = "Ray runtime started"

APP = """
import os, signal, time
from pathlib import Path
import hydra
import psutil
import cifar_hpo

@hydra.main(version_base="1.3", config_path=None)
def task(config):
    threads, devices = os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES")
    with Path("seen.txt").open("a") as seen:
        seen.write(f"{config.x} {os.getpid()} {threads} [{devices}]\\n")
    print("printed by trial", config.x)
    BODY
    return float(config.x)

if __name__ == "__main__":
    task()
"""
"""A trial's process is forked from a server, which an actor has started."""


class Node:
    """A node of a cluster. address: of the cluster; empty for the one that begins it."""

    def __init__(self, folder: Path, address: str = "", *options: str) -> None:
        self.address = address or f"127.0.0.1:{_free_port()}"
        place = f"--address={address}" if address else "--head"
        if not address:
            options += (f"--port={self.address.rpartition(':')[2]}", "--include-dashboard=false")
            options += (f"--temp-dir={folder}", "--disable-usage-stats")
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", place, "--block"]
        command += ["--node-ip-address=127.0.0.1", "--object-store-memory=80000000", *options]
        said = folder / f"node-{len(list(folder.glob('node-*')))}.log"
        with said.open("w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=clean() | UNGUARDED,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_for(lambda: STARTED in said.read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, said.read_text()

    def kill(self) -> None:
        """All its processes at once, as where a machine loses its power."""
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            processes = [own, *own.children(recursive=True)]
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=10)
        self.process.wait(10)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextlib.contextmanager
def cluster(*options: str) -> Iterator[tuple[Node, Path]]:
    """The first node of a cluster, and the folder of its files, whose path is short."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    try:
        node = Node(folder, "", *options)
        try:
            yield node, folder
        finally:
            node.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ray_app(
    folder: Path, body: str, *overrides: str, launcher: str = "ray"
) -> subprocess.Popen[str]:
    """Start the app with a sweep over `x`, its study `s` kept in the folder."""
    (folder / "app.py").write_text(APP.replace("BODY", body.replace("\n", "\n    ")))
    plugins = ["-m", "hydra/sweeper=study", f"hydra/launcher={launcher}", "hydra.sweep.dir=out"]
    command = [sys.executable, "app.py", *plugins, "hydra.sweeper.study_name=s", *overrides]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=clean() | UNGUARDED,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def seen(folder: Path) -> list[list[str]]:
    """What each attempt at a trial saw: x, its process, its threads and its GPUs."""
    path = folder / "seen.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def states(folder: Path) -> list[str]:
    """Of Optuna's trials."""
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/mlruns/studies.db")
    return [trial.state.name for trial in study.trials]
