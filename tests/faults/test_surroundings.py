"""A stub sweep in surroundings that are not as usual, and values that are not as they look."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from invariants import check
from support import clean, config_loader, finished, run_command, swept

from cifar_hpo.paths import IN_MEMORY
from cifar_hpo.study.space import Space

APP = """
import hydra

@hydra.main(version_base="1.3", config_path=None)
def app(config):
    return float(config.x) + float(config.get("seed", 0))

if __name__ == "__main__":
    app()
"""


def sweep(
    folder: Path, *overrides: str, files: int = 1024, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A sweep over `x` by a stub, whose process may open so many files."""
    return run_command(
        folder,
        ["bash", "-c", f'ulimit -n {files}; exec "$@"', "bash", *command_of(folder, *overrides)],
        **environment,
    )


def command_of(folder: Path, *overrides: str) -> list[str]:
    """What starts the stub's sweep, whose app lies in the folder then."""
    (folder / "app.py").write_text(APP)
    command = [sys.executable, "app.py", "-m", "hydra/sweeper=study", "hydra/launcher=workers"]
    command += ["hydra.sweeper.metric=y", "hydra.sweeper.direction=maximize"]
    command += ["hydra.sweeper.study_name=s", *overrides]
    if not any(override.startswith("+x=") for override in overrides):
        command.append("+x=1,2")
    return command


def test_a_long_folder_of_temporary_files_with_blanks_and_few_open_files(tmp_path: Path) -> None:
    folder, temporary = tmp_path / "sweep", tmp_path / ("a b" * 40)
    folder.mkdir()
    temporary.mkdir()
    shown = sweep(folder, files=256, TMPDIR=str(temporary))
    assert shown.returncode == 0, shown.stderr
    check(folder, planned=2, returncode=0)


def test_what_trials_leave_among_temporary_files_is_removed(tmp_path: Path) -> None:
    folder, temporary = tmp_path / "sweep", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    command = command_of(folder)
    leave = "import tempfile; tempfile.mkstemp(); tempfile.mkdtemp(); return"
    (folder / "app.py").write_text(APP.replace("return", leave))
    environment = clean() | {"TMPDIR": str(temporary)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    check(folder, planned=2, returncode=0)
    assert list(temporary.iterdir()) == []


SHARED_MEMORY = Path("/dev/shm")
"""A file system of its own on Linux."""


@pytest.mark.skipif(not os.access(SHARED_MEMORY, os.W_OK), reason="no /dev/shm to write to")
def test_a_folder_of_temporary_files_on_another_file_system(tmp_path: Path) -> None:
    temporary = SHARED_MEMORY / f"cifar_hpo-test-{os.getpid()}"
    temporary.mkdir()
    try:
        assert temporary.stat().st_dev != tmp_path.stat().st_dev
        shown = sweep(tmp_path, TMPDIR=str(temporary))
        assert shown.returncode == 0, shown.stderr
        check(tmp_path, planned=2, returncode=0)
        assert list(temporary.iterdir()) == []
    finally:
        for file in temporary.iterdir():
            file.unlink()
        temporary.rmdir()


def in_small_memory(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command that sees 64 MB of shared memory, as containers have it."""
    mounted = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    return run_command(folder, ["unshare", "--mount", "sh", "-c", mounted, "sh", *command])


def test_a_small_shared_memory(tmp_path: Path) -> None:
    try:
        can_be_had = in_small_memory(tmp_path, ["true"]).returncode == 0
    except FileNotFoundError:
        can_be_had = False
    if not can_be_had:
        pytest.skip("only root may mount a small /dev/shm")
    shown = in_small_memory(tmp_path, command_of(tmp_path))
    assert shown.returncode == 0, shown.stderr
    check(tmp_path, planned=2, returncode=0)


@pytest.mark.long
def test_a_storage_that_is_locked_for_ten_seconds_is_waited_for(tmp_path: Path) -> None:
    assert sweep(tmp_path).returncode == 0
    command = command_of(tmp_path, "+x=range(1,5)")
    sweeping = subprocess.Popen(command, cwd=tmp_path, env=clean(), stderr=subprocess.PIPE)
    with closing(sqlite3.connect(tmp_path / "mlruns" / "studies.db", timeout=60)) as database:
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(10)
        database.rollback()
    _, errors = sweeping.communicate(timeout=120)
    assert sweeping.returncode == 0, errors
    check(tmp_path, planned=4, returncode=0)


def test_a_value_that_is_given_twice_is_tried_once(tmp_path: Path) -> None:
    shown = sweep(tmp_path, "+x=2,1,2")
    assert shown.returncode == 0, shown.stderr
    check(tmp_path, planned=2, returncode=0)


IMPORTED_IN_A_WORKER = """
import os
if os.environ.setdefault("FIRST_PROCESS", str(os.getpid())) != str(os.getpid()):
    raise RuntimeError("no such device")
"""


def test_a_task_that_can_t_be_imported_in_a_worker_ends_the_sweep_with_the_cause(
    tmp_path: Path,
) -> None:
    (tmp_path / "device.py").write_text(IMPORTED_IN_A_WORKER)
    command = command_of(tmp_path, "+x=range(0,20)", "hydra.sweeper.max_failures=3")
    (tmp_path / "app.py").write_text("import device" + APP)
    shown = run_command(tmp_path, command, HYDRA_FULL_ERROR="1")
    assert shown.returncode != 0
    assert shown.stderr.count("exit code 1: RuntimeError: no such device") == 1
    check(tmp_path, budget=20, returncode=shown.returncode)


@pytest.fixture(params=["closed", "silent"])
def dead_server(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a database that takes no connections, or takes them and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "silent":
            server.listen()
        yield server.getsockname()[1]


def test_a_dead_postgresql_is_told_soon_without_its_password(
    tmp_path: Path, dead_server: int
) -> None:
    pytest.importorskip("psycopg", reason="the driver of PostgreSQL is not installed")
    started = time.monotonic()
    url = f"postgresql://me:geheim@127.0.0.1:{dead_server}/studies"
    shown = sweep(tmp_path, "hydra.sweeper.storage=${oc.env:STUDIES}", STUDIES=url)
    assert time.monotonic() - started < 25
    assert shown.returncode != 0
    assert "geheim" not in shown.stdout + shown.stderr
    assert "127.0.0.1" in shown.stderr


def test_a_value_of_the_environment_that_changed_is_not_taken_for_done(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    folder.mkdir()
    assert sweep(folder, "+seed=${oc.env:SEED}", SEED="1").returncode == 0
    changed = sweep(folder, "+seed=${oc.env:SEED}", SEED="2")
    assert changed.returncode != 0
    assert "means something else" in changed.stderr
    assert "done before" not in changed.stdout
    again = sweep(folder, "+seed=${oc.env:SEED}", SEED="1")
    assert again.returncode == 0, again.stderr
    assert "2 done before" in again.stdout
    check(folder, planned=2, returncode=0)


@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_null_among_the_choices_of_params_and_in_what_is_enqueued_is_null(sampler: str) -> None:
    space = Space.parse((), {"+x": "1,null"}, config_loader(), {})
    specs, _ = swept(
        space,
        lambda _: finished(1.0),
        sampler=sampler,
        storage=IN_MEMORY,
        enqueue=[{"+x": None}],
    )
    assert [spec.overrides for spec in specs] == [("+x=null",), ("+x=1",)]
