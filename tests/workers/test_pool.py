"""Warm workers, through a tiny Hydra app with stub objectives: no TensorFlow, real processes and
real signals."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import optuna
import psutil
import pytest
from support import wait_for

from cifar_hpo.paths import LEFT_RESULTS

APP = """
import os, signal, time
from pathlib import Path
import hydra

@hydra.main(version_base="1.3", config_path=None)
def task(config):
    with Path("seen.txt").open("a") as seen:
        seen.write(f"{config.x} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\\n")
    BODY
    return float(config.x)

if __name__ == "__main__":
    task()
"""


def app(
    folder: Path, body: str, *overrides: str, launcher: str = "workers"
) -> subprocess.Popen[str]:
    """Start the app with a sweep over `x`, its study kept in the folder."""
    (folder / "app.py").write_text(APP.replace("BODY", body.replace("\n", "\n    ")))
    plugins = [
        "-m",
        "hydra/sweeper=study",
        f"hydra/launcher={launcher}",
        "hydra.sweep.dir=out",
        "hydra.sweeper.study_name=s",
    ]
    command = [sys.executable, "app.py", *plugins, *overrides]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HYDRA_FULL_ERROR": "1"},
    )


def code_of(process: subprocess.Popen[str]) -> int:
    """The exit code of a sweep that comes to its end."""
    process.communicate(timeout=60)
    return process.returncode


def seen(folder: Path) -> list[list[str]]:
    path = folder / "seen.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def has_begun(folder: Path, trials: int) -> bool:
    return len(seen(folder)) >= trials


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_workers_are_warm_share_the_cores_and_take_the_next_spec_at_once(tmp_path: Path) -> None:
    body = "time.sleep(3 if config.x == 0 else 0.3)"
    out, _ = (
        process := app(
            tmp_path,
            body,
            "+x=range(0,6)",
            "hydra.launcher.n_workers=2",
            "hydra.launcher.threads_per_worker=1",
        )
    ).communicate(timeout=60)
    assert process.returncode == 0
    assert "[6/6]" in out
    workers = [pid for _, pid, _ in seen(tmp_path)]
    assert len(set(workers)) == 2
    assert {threads for *_, threads in seen(tmp_path)} == {"1"}
    slow = next(pid for x, pid, _ in seen(tmp_path) if x == "0")
    assert workers.count(slow) <= 2, "the free slot should have taken nearly all other trials"


def test_the_same_command_again_runs_nothing_and_a_larger_grid_only_what_is_missing(
    tmp_path: Path,
) -> None:
    assert code_of(app(tmp_path, "", "+x=1,2")) == 0
    assert code_of(app(tmp_path, "", "+x=1,2")) == 0
    assert sorted(x for x, *_ in seen(tmp_path)) == ["1", "2"]
    assert code_of(app(tmp_path, "", "+x=3,2,1")) == 0
    assert sorted(x for x, *_ in seen(tmp_path)) == ["1", "2", "3"]


def test_a_killed_worker_costs_its_own_trial_one_attempt(tmp_path: Path) -> None:
    body = (
        "mark = Path('died')\nif config.x == 1 and not mark.exists():\n    mark.touch()\n    "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    out, _ = (process := app(tmp_path, body, "+x=0,1,2,3")).communicate(timeout=60)
    assert process.returncode == 0, out
    assert "worker killed by SIGKILL" in out
    assert "will be tried again" in out
    assert sorted(x for x, *_ in seen(tmp_path)) == ["0", "1", "1", "2", "3"]


@pytest.mark.long
def test_the_death_of_the_server_that_workers_are_forked_from_disturbs_no_trial(
    tmp_path: Path,
) -> None:
    """A worker that is needed later comes from a new server."""
    process = app(
        tmp_path,
        "time.sleep(2)\nif config.x == 2: os._exit(3)",
        "+x=0,1,2",
        "hydra.launcher.n_workers=2",
    )
    wait_for(lambda: len(seen(tmp_path)) == 2)
    workers = {int(pid) for _, pid, _ in seen(tmp_path)}
    (server,) = {psutil.Process(pid).parent() for pid in workers}
    assert server
    assert server.pid != process.pid
    server.kill()
    out, _ = process.communicate(timeout=60)
    ended = [
        line.split("]")[1].split(":")[0].strip()
        for line in out.splitlines()
        if line.startswith("[")
    ]
    assert sorted(ended) == ["trial 0", "trial 1", "trial 2", "trial 2"], out
    assert "worker ended" in out
    assert sorted(x for x, *_ in seen(tmp_path)) == ["0", "1", "2", "2"]
    assert not [pid for _, pid, _ in seen(tmp_path) if is_running(int(pid))]


def test_fewer_trials_than_cores_share_all_of_them(tmp_path: Path) -> None:
    assert code_of(app(tmp_path, "", "+x=1")) == 0
    assert [threads for *_, threads in seen(tmp_path)] == [str(len(os.sched_getaffinity(0)))]


def test_a_worker_that_always_dies_is_one_failure(tmp_path: Path) -> None:
    out, err = (process := app(tmp_path, "if config.x == 1: os._exit(3)", "+x=0,1,2")).communicate(
        timeout=60
    )
    assert process.returncode != 0
    assert "worker ended with exit code 3" in out + err
    assert sorted(x for x, *_ in seen(tmp_path)) == ["0", "1", "1", "2"]


@pytest.mark.parametrize(
    ("body", "limit", "label"),
    [
        (
            "time.sleep(60 if config.x == 1 else 0)",
            "hydra.launcher.trial_timeout=2",
            "timed out after 2 s",
        ),
        pytest.param(
            "hog = bytearray(2**30) if config.x == 1 else 0; time.sleep(3)",
            "hydra.launcher.memory_limit=0.7",
            "GiB, more than 0.7",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_trial_beyond_a_limit_is_killed_labelled_and_not_tried_again(
    tmp_path: Path, body: str, limit: str, label: str
) -> None:
    out, _ = (process := app(tmp_path, body, "+x=0,1,2,3", limit)).communicate(timeout=60)
    assert process.returncode != 0
    assert label in out
    assert sorted(x for x, *_ in seen(tmp_path)) == ["0", "1", "2", "3"]


def test_a_raising_trial_fails_alone_and_a_sweep_of_them_stops(tmp_path: Path) -> None:
    _, err = (
        process := app(tmp_path, "if config.x == 1: raise OSError('no luck')", "+x=0,1,2")
    ).communicate(timeout=60)
    assert process.returncode != 0
    assert "1 of 3 trials failed; the first: OSError: no luck" in err
    assert len(seen(tmp_path)) == 3
    (tmp_path / "all").mkdir()
    code_of(
        app(
            tmp_path / "all",
            "raise OSError('no luck')",
            "+x=range(0,30)",
            "hydra.sweeper.max_failures=4",
            "hydra.launcher.n_workers=2",
        )
    )
    assert 4 <= len(seen(tmp_path / "all")) <= 6


def test_the_exit_code_tells_of_a_failure_until_it_is_made_good(tmp_path: Path) -> None:
    """Whatever else a later command finishes."""
    body = "if config.x == 1 and not Path('mended').exists(): raise OSError('no luck')"
    assert code_of(app(tmp_path, body, "+x=0,1")) == 1
    assert code_of(app(tmp_path, body, "+x=0,1,2")) == 1
    assert sorted(x for x, *_ in seen(tmp_path)) == ["0", "1", "2"]
    assert code_of(app(tmp_path, body, "+x=0,2,3")) == 0, "what failed is no part of this grid"
    (tmp_path / "mended").touch()
    assert code_of(app(tmp_path, body, "+x=0,1,2", "hydra.sweeper.retry_failed=true")) == 0
    assert code_of(app(tmp_path, body, "+x=0,1,2")) == 0


@pytest.mark.long
def test_workers_are_replaced_after_some_trials(tmp_path: Path) -> None:
    overrides = (
        "+x=range(0,5)",
        "hydra.launcher.trials_per_worker=2",
        "hydra.launcher.n_workers=1",
    )
    assert code_of(app(tmp_path, "", *overrides)) == 0
    assert len({pid for _, pid, _ in seen(tmp_path)}) == 3


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, 1, marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, 1, marks=pytest.mark.long),
        (signal.SIGKILL, -9),
    ],
)
def test_an_interrupted_sweep_leaves_no_process_and_resumes(
    tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    body = "time.sleep(0.2 if Path('again').exists() or config.x < 2 else 60)"
    process = app(tmp_path, body, "+x=0,1,2,3")
    wait_for(lambda: len(seen(tmp_path)) == 4)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(sent)
    process.communicate(timeout=10)
    assert (process.returncode != 0) == (code != 0)
    psutil.wait_procs(workers, timeout=5)
    assert not [worker.pid for worker in workers if is_running(worker.pid)]
    (tmp_path / "again").touch()
    assert code_of(app(tmp_path, body, "+x=0,1,2,3")) == 0
    assert sorted(x for x, *_ in seen(tmp_path)) == ["0", "1", "2", "2", "3", "3"]


def states(folder: Path) -> list[str]:
    """Of Optuna's trials."""
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/mlruns/studies.db")
    return [trial.state.name for trial in study.trials]


def left(folder: Path) -> list[Path]:
    return list((folder / "out" / LEFT_RESULTS).glob("*.json"))


@pytest.mark.long
def test_a_trial_that_ended_while_the_parent_was_busy_and_then_died_counts(tmp_path: Path) -> None:
    body = "while not Path('go').exists(): time.sleep(0.05)"
    process = app(tmp_path, body, "+x=0,1,2", "hydra.launcher.n_workers=2")
    wait_for(lambda: len(seen(tmp_path)) == 2)
    process.send_signal(signal.SIGSTOP)
    (tmp_path / "go").touch()
    wait_for(lambda: len(left(tmp_path)) == 2)
    process.kill()
    process.communicate(timeout=60)
    assert states(tmp_path) == ["RUNNING", "RUNNING"]
    assert code_of(app(tmp_path, body, "+x=0,1,2")) == 0
    assert sorted(x for x, *_ in seen(tmp_path)) == ["0", "1", "2"]
    assert states(tmp_path) == ["COMPLETE"] * 3
    assert not left(tmp_path)


def test_a_worker_that_dies_after_its_result_was_left_costs_nothing(tmp_path: Path) -> None:
    body = """if config.x == 1:
    from cifar_hpo.left_results import LeftResults
    write = LeftResults.write
    def write_and_die(*given, **named):
        write(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    LeftResults.write = write_and_die"""
    process = app(tmp_path, body, "+x=0,1,2")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert "tried again" not in out
    assert sorted(x for x, *_ in seen(tmp_path)) == ["0", "1", "2"]
    assert states(tmp_path) == ["COMPLETE"] * 3


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.long)])
def test_under_another_launcher_each_result_is_noted_as_it_comes(
    tmp_path: Path, launcher: str
) -> None:
    body = "if config.x == 5 and not Path('go').exists():\n    time.sleep(60)"
    process = app(tmp_path, body, "+x=0,1,2,3,4,5", launcher=launcher)
    wait_for(lambda: len(seen(tmp_path)) == 6)
    wait_for(lambda: states(tmp_path).count("COMPLETE") == 5)
    descendants = psutil.Process(process.pid).children(recursive=True)
    for one in (psutil.Process(process.pid), *descendants):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate(timeout=60)
    (tmp_path / "go").touch()
    assert code_of(app(tmp_path, body, "+x=0,1,2,3,4,5", launcher=launcher)) == 0
    assert sorted(x for x, *_ in seen(tmp_path)) == ["0", "1", "2", "3", "4", "5", "5"]
    assert states(tmp_path) == ["COMPLETE"] * 6


@pytest.mark.long
def test_under_another_launcher_a_target_ends_the_sweep(tmp_path: Path) -> None:
    process = app(tmp_path, "", "+x=0,1,2,3,4,5", "hydra.sweeper.target=2", launcher="basic")
    assert code_of(process) == 0
    assert [x for x, *_ in seen(tmp_path)] == ["0", "1", "2"]


@pytest.mark.long
def test_a_killed_process_of_another_launcher_costs_its_own_trial_one_attempt(
    tmp_path: Path,
) -> None:
    body = "mark = Path('died')\nif config.x == 1 and not mark.exists():\n    mark.touch()\n    "
    body += "os.kill(os.getpid(), signal.SIGKILL)"
    process = app(tmp_path, body, "+x=0,1,2", launcher="joblib")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert "the launcher gave up" in out + err
    assert states(tmp_path) == ["COMPLETE"] * 3


@pytest.mark.long
def test_signals_to_all_and_again_leave_no_process_and_no_trial_running(tmp_path: Path) -> None:
    """As from a terminal that closes, or by somebody who presses Ctrl-C in haste."""
    body = "time.sleep(0.2)"
    for sent in ((signal.SIGINT,) * 2, (signal.SIGHUP, signal.SIGTERM), (signal.SIGTERM,)):
        process = app(tmp_path, body, "+x=range(0,40)", "hydra.launcher.n_workers=2")
        wanted = len(seen(tmp_path)) + 3
        wait_for(functools.partial(has_begun, tmp_path, wanted))
        workers = psutil.Process(process.pid).children(recursive=True)
        for number in sent:
            for one in (psutil.Process(process.pid), *workers):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.send_signal(number)
        process.communicate(timeout=10)
        psutil.wait_procs(workers, timeout=5)
        assert not [worker.pid for worker in workers if is_running(worker.pid)]
        assert "RUNNING" not in states(tmp_path)
        assert "FAIL" not in states(tmp_path)


def test_a_second_signal_ends_a_sweep_at_once_whatever_it_is_doing(tmp_path: Path) -> None:
    """Here it waits for a database that another process holds."""
    process = app(tmp_path, "time.sleep(0.3)", "+x=range(0,40)", "hydra.launcher.n_workers=2")
    wait_for(lambda: len(seen(tmp_path)) >= 3)
    workers = psutil.Process(process.pid).children(recursive=True)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlruns/studies.db", timeout=20)) as held:
        held.execute("BEGIN EXCLUSIVE")
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=5)
    psutil.wait_procs(workers, timeout=5)
    assert not [worker.pid for worker in workers if is_running(worker.pid)]
    assert process.returncode == 130


@pytest.mark.long
def test_a_sweep_that_ignores_the_end_of_its_terminal_goes_on(tmp_path: Path) -> None:
    body = "time.sleep(0.5)"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does, for what it starts
    try:
        process = app(tmp_path, body, "+x=0,1")
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(lambda: len(seen(tmp_path)) >= 1)
    process.send_signal(signal.SIGHUP)
    assert code_of(process) == 0


def test_two_commands_on_one_study_at_once(tmp_path: Path) -> None:
    first = app(tmp_path, "time.sleep(8)", "+x=0,1")
    wait_for(lambda: len(seen(tmp_path)) == 2)
    _, err = (second := app(tmp_path, "time.sleep(8)", "+x=0,1")).communicate(timeout=60)
    assert second.returncode != 0
    assert f"process {first.pid} is working on it" in err
    assert code_of(first) == 0


@pytest.mark.long
def test_another_meaning_under_the_same_name_is_refused_with_its_difference(tmp_path: Path) -> None:
    assert code_of(app(tmp_path, "", "+x=0,1", "+y=1")) == 0
    _, err = (process := app(tmp_path, "", "+x=0,1", "+y=2")).communicate(timeout=60)
    assert process.returncode != 0
    assert "config.y 1 → 2" in err
    assert code_of(app(tmp_path, "", "+x=0,1", "+y=2", "hydra.sweeper.fresh=true")) == 0
    assert len(seen(tmp_path)) == 4


@pytest.mark.long
def test_a_study_goes_on_where_a_key_came_later_and_means_what_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert code_of(app(tmp_path, "", "+x=0,1")) == 0
    monkeypatch.setitem(
        globals(),
        "APP",
        APP.replace("if __name__", 'task.__wrapped__.defaults_before = {"z": 0}\n\nif __name__'),
    )
    assert code_of(app(tmp_path, "", "+x=0,1,2", "+z=0")) == 0
    assert sorted(x for x, *_ in seen(tmp_path)) == ["0", "1", "2"]
    _, err = (process := app(tmp_path, "", "+x=0,1", "+z=1")).communicate(timeout=60)
    assert process.returncode != 0
    assert "config.z None → 1" in err
