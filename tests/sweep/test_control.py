"""A running sweep that is asked to pause, go on, stop, or try more, by commands as users have
them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from support import STUB_SWEEP, call_in, clean, run_in, wait_for

from cifar_hpo.studies import main

APP = """
import time, hydra, cifar_hpo
from pathlib import Path

@hydra.main(version_base="1.3", config_path=None)
def app(config):
    for epoch in range(1, 16):
        with Path("seen.txt").open("a") as seen:
            seen.write(f"{config.x}\\n")
        while epoch == 4 and not Path("go").exists():
            time.sleep(0.02)
        cifar_hpo.report(epoch, 15, float(config.x))
    return {"y": float(config.x)}

if __name__ == "__main__":
    app()
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "app.py").write_text(APP)
    return subprocess.Popen(
        [sys.executable, *STUB_SWEEP, *arguments],
        cwd=folder,
        env=clean(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def seen(folder: Path) -> list[str]:
    """The value of each epoch that was trained, in their order."""
    file = folder / "seen.txt"
    return file.read_text().split() if file.exists() else []


def asked(folder: Path, *arguments: str) -> str:
    answer = call_in(folder, main, *arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def refused(folder: Path, *arguments: str) -> str:
    answer = call_in(folder, main, *arguments)
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1, "one line"
    return answer.stderr.strip()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def values(url: str) -> list[float | None]:
    trials = optuna.load_study(study_name="s", storage=url).trials
    return [trial.value for trial in trials]


def test_a_running_sweep_pauses_tries_more_and_stops_as_it_is_asked(tmp_path: Path) -> None:
    sweep = start(tmp_path, "+x=1,2,3", "hydra/sweeper/pruner=median")
    wait_for(lambda: len(seen(tmp_path)) > 3)
    asked_at = time.monotonic()
    assert asked(tmp_path, "pause", "s") == (
        "study s: no trial starts, 1 trial goes on to its next epoch's end and wait"
    )
    assert time.monotonic() - asked_at < 5
    (tmp_path / "go").touch()
    time.sleep(0.2)
    before = seen(tmp_path)
    assert asked(tmp_path, "enqueue", "s", "x=3") == "study s: it is tried next"
    assert asked(tmp_path, "add", "s", "x=8,9") == "study s: 2 configurations more, 5 in all"
    assert "all of them were in the grid before" in asked(tmp_path, "add", "s", "+x=9")
    assert "x=5 is not in the space" in refused(tmp_path, "enqueue", "s", "x=5")
    assert "it is not in the space, which varies +x" in refused(tmp_path, "add", "s", "z=5")
    assert seen(tmp_path) == before == ["1"] * 4, "nobody trains"

    assert "goes on after" in asked(tmp_path, "resume", "s")
    wait_for(lambda: len(seen(tmp_path)) == 15)
    (tmp_path / "go").unlink()
    wait_for(lambda: "3" in seen(tmp_path))
    text = asked(tmp_path, "stop", "s", "--after-running")
    assert text == "study s: no trial starts any more, 1 trial goes on to its end"
    (tmp_path / "go").touch()
    code, out = ended(sweep)
    assert code == 0
    assert "stopped by another command; the same command goes on from here" in out
    assert seen(tmp_path) == ["1"] * 15 + ["3"] * 15, "each epoch once"
    assert "no sweep works on it now" in refused(tmp_path, "pause", "s")
    assert "there is no study t" in refused(tmp_path, "stop", "t")

    (tmp_path / "go").unlink()
    again = start(tmp_path, "+x=1,2,3", "hydra/sweeper/pruner=median")
    wait_for(lambda: "2" in seen(tmp_path))
    assert asked(tmp_path, "stop", "s") == "study s: stopped; the same command goes on from here"
    code, out = ended(again)
    assert code == 130
    assert "with +x=8,9, which study s was given while it ran" in out
    stored = values(f"sqlite:///{tmp_path}/mlruns/studies.db")
    assert stored == [1, 3, None], "the third waits for the next command"


@pytest.mark.long
def test_a_sampler_tries_next_what_it_is_asked_to_and_has_a_fixed_space(tmp_path: Path) -> None:
    sampled = ["hydra/sweeper/sampler=random", "+x=interval(0,1)", "hydra.sweeper.n_trials=2"]
    sweep = start(tmp_path, *sampled)
    wait_for(lambda: seen(tmp_path))
    assert "a grid alone gains values" in refused(tmp_path, "add", "s", "x=5")
    assert "x=5 is not in the space" in refused(tmp_path, "enqueue", "s", "x=5")
    assert asked(tmp_path, "enqueue", "s", "x=0.125") == "study s: it is tried next"
    (tmp_path / "go").touch()
    assert ended(sweep)[0] == 0
    assert 0.125 in values(f"sqlite:///{tmp_path}/mlruns/studies.db")


@pytest.mark.long
def test_all_commands_of_a_study_obey(database: str, tmp_path: Path) -> None:
    def begin(place: str) -> subprocess.Popen[str]:
        (tmp_path / place).mkdir()
        storage = f"hydra.sweeper.storage='{database}'"
        return start(tmp_path / place, f"+x={','.join(map(str, range(9)))}", storage)

    sweeps: Sequence[subprocess.Popen[str]] = [begin("a"), begin("b")]
    wait_for(lambda: seen(tmp_path / "a") and seen(tmp_path / "b"))

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_in(tmp_path, "--storage", database, *arguments, module="cifar_hpo.studies")

    assert "start them with the new values" in ask("add", "s", "x=99").stderr
    assert "stopped" in ask("stop", "s").stdout
    for sweep in sweeps:
        code, out = ended(sweep)
        assert code == 130, out
    assert "no sweep works on it now" in ask("pause", "s").stderr
