"""Sweeps that add seeds where they decide, by commands as users have them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import STUB_SWEEP, clean, run_command, wait_for

from cifar_hpo.analysis.comparison import compare_study
from cifar_hpo.study import _optuna
from cifar_hpo.study.storage import open_storage

APP = """
import os, sys, time
from pathlib import Path

import hydra

VALUES = {"good": 0.9, "as_good": 0.9, "bad": 0.5, "worse": 0.3}
NOISE = [0.004, -0.003, 0.001, -0.002, 0.003, -0.001]

def task(config):
    if config.x == "bad" and config.seed == 1 and Path("breaks").exists():
        raise ValueError("broken")
    while config.seed == 2 and Path("waits").exists():
        Path("reached").touch()
        time.sleep(0.02)
    shift = 1 if config.x == "as_good" else 0
    return {"y": VALUES[config.x] + NOISE[(config.seed + shift) % 6]}

if __name__ == "__main__":
    hydra.main(version_base="1.3", config_path=".", config_name="config")(task)()
"""


def command(folder: Path, *arguments: str) -> list[str]:
    (folder / "app.py").write_text(APP)
    (folder / "config.yaml").write_text("seed: 0\n")
    return [sys.executable, *STUB_SWEEP, *arguments]


def sweep(folder: Path, *arguments: str, returncode: int = 0) -> str:
    done = run_command(folder, command(folder, *arguments))
    assert done.returncode == returncode, done.stderr
    return done.stdout


def seeds(folder: Path) -> dict[str, list[int]]:
    """The seeds of each configuration that have a value, the best first."""
    comparison = compare_study("s", open_storage(f"sqlite:///{folder}/mlruns/studies.db"))
    found = {}
    for configuration in comparison.configurations:
        found[str(configuration.params["+x"])] = sorted(configuration.values)
    return found


ALL = "+x=good,as_good,bad,worse"
REPLICAS = "hydra.sweeper.replicas={least: 2, most: 4}"


def verdict(shown: str) -> str:
    (line,) = re.findall(r"^(?:not )?(?:decided|told apart).*$", shown, re.MULTILINE)
    return str(line)


def test_seeds_go_to_what_is_not_told_apart_and_the_same_command_has_nothing_to_do(
    tmp_path: Path,
) -> None:
    dry = sweep(tmp_path, ALL, REPLICAS, "hydra.sweeper.dry_run=true")
    assert "4 configurations with 2 to 4 trials each: 8 trials" in dry
    shown = sweep(tmp_path, ALL, REPLICAS)
    assert "4 configurations with 2 to 4 seeds each, at least 8 trials" in shown
    assert verdict(shown).startswith("not told apart by 4 seeds each, after 12 trials: ")
    assert {"good", "as_good"} == set(re.findall(r"\+x=(\w+)", verdict(shown)))
    found = seeds(tmp_path)
    assert found["good"] == found["as_good"] == [0, 1, 2, 3]
    assert found["bad"] == found["worse"] == [0, 1]
    again = sweep(tmp_path, ALL, REPLICAS)
    assert "12 done before" in again
    assert verdict(again) == verdict(shown)
    assert not re.search(r"trial \d+:", again)


def test_a_study_grows_by_seeds_and_by_values(tmp_path: Path) -> None:
    decided = sweep(tmp_path, "+x=good,bad", REPLICAS)
    expected = "decided after 4 trials: +x=good is the best, the other is shown to be worse"
    assert verdict(decided) == expected
    more = sweep(tmp_path, "+x=good,bad,as_good", "hydra.sweeper.replicas={least: 2, most: 5}")
    assert "by 5 seeds each" in verdict(more)
    found = seeds(tmp_path)
    assert found["good"] == found["as_good"] == [0, 1, 2, 3, 4]
    assert found["bad"] == [0, 1]


def test_a_lost_seed_leaves_its_configuration_out_until_it_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "breaks").touch()
    shown = sweep(tmp_path, "+x=good,bad,worse", REPLICAS, returncode=1)
    found = "decided after 6 trials: +x=good is the best, the other is shown to be worse"
    assert verdict(shown).startswith(f"{found}; no verdict on +x=bad, of which a seed failed (")
    assert seeds(tmp_path)["bad"] == [0]
    (tmp_path / "breaks").unlink()
    options = (REPLICAS, "hydra.sweeper.retry_failed=true")
    shown = sweep(tmp_path, "+x=good,bad,worse", *options)
    found = "decided after 6 trials: +x=good is the best, each of the 2 next is shown to be worse"
    assert verdict(shown) == found
    assert seeds(tmp_path)["bad"] == [0, 1]


def test_a_budget_ends_it_and_constraints_leave_configurations_out(tmp_path: Path) -> None:
    options = ("+k=1,2", REPLICAS, "hydra.sweeper.constraints=['k <= 1']")
    shown = sweep(tmp_path, ALL, *options, "hydra.sweeper.n_trials=9")
    assert "[9/9" in shown
    assert "not decided after 9 trials; not told apart yet: " in verdict(shown)
    assert "+k=2" not in shown
    few = sweep(tmp_path, ALL, *options, "hydra.sweeper.n_trials=3", "hydra.sweeper.fresh=true")
    assert verdict(few) == "not decided after 3 trials: not all have their 2 seeds"


def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "waits").touch()
    arguments = command(tmp_path, ALL, REPLICAS)
    with subprocess.Popen(arguments, cwd=tmp_path, env=clean(), start_new_session=True) as process:
        wait_for((tmp_path / "reached").exists)
        process.send_signal(signal.SIGKILL)
    (tmp_path / "waits").unlink()
    shown = sweep(tmp_path, ALL, REPLICAS)
    assert "after 12 trials" in verdict(shown)
    assert sum(map(len, seeds(tmp_path).values())) == 12


def test_commands_on_one_study_share_the_seeds(tmp_path: Path, database: str) -> None:
    (tmp_path / "waits").touch()
    arguments = (ALL, REPLICAS, "hydra.sweeper.storage=${oc.env:STUDY_URL}")
    started: list[subprocess.Popen[str]] = []
    for _ in range(2):
        process = subprocess.Popen(
            command(tmp_path, *arguments),
            cwd=tmp_path,
            env=clean() | {"STUDY_URL": database},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
    wait_for((tmp_path / "reached").exists)
    (tmp_path / "waits").unlink()
    for process in started:
        shown, _ = process.communicate(timeout=120)
        assert process.returncode == 0, shown
        assert "after 12 trials" in verdict(shown)
    storage = open_storage(database)
    comparison = compare_study("s", storage)
    _optuna.disconnect(storage)
    counts = [len(configuration.values) for configuration in comparison.configurations]
    assert sorted(counts) == [2, 2, 4, 4]
    assert len(comparison.trials) == 12


@pytest.mark.parametrize(
    ("problem", "argument"),
    [
        ("seed varies by itself; leave one of the two out", "seed=1,2"),
        ("the config has no training.seed or seed; give it one", "~seed"),
        ("seed: 'a' is no whole number, from which seeds could count up", "seed=a"),
    ],
)
def test_without_seeds_to_count_it_is_refused_on_one_line(
    tmp_path: Path, problem: str, argument: str
) -> None:
    done = run_command(tmp_path, command(tmp_path, "+x=good,bad", REPLICAS, argument))
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert problem in line
