"""What a sweep says while it runs, where there is no terminal."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time

import pytest

from cifar_hpo.console import Heartbeat, clock

APP = """
import time
import hydra
from cifar_hpo import console
from cifar_hpo import trial

console.SILENCE = 0.5  # of the parent too: workers and it import this file

@hydra.main(version_base="1.3", config_path=None)
def task(config):
    epochs = 4
    for epoch in range(1, epochs + 1):
        time.sleep(config.x)
        trial.report(trial.Progress(epoch, epochs, epoch / 10))
    return float(config.x)

if __name__ == "__main__":
    task()
"""
STATUS = re.compile(
    r"^\[(\d)/3\] after 0:\d\d(?:, about 0:(\d\d) left)?((?: \| .*)*)$", re.MULTILINE
)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[float, str]]:
    """Each line of a sweep of three trials on two workers, with the second in which it came."""
    folder = tmp_path_factory.mktemp("watch")
    (folder / "app.py").write_text(APP)
    plugins = ["hydra/sweeper=study", "hydra/launcher=workers", "hydra.launcher.n_workers=2"]
    command = [sys.executable, "app.py", "-m", "+x=0.6,0.8,1.0", *plugins]
    started = time.monotonic()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        said = [(time.monotonic() - started, line.rstrip("\n")) for line in process.stdout]
    assert process.wait() == 0
    return said


def test_a_running_sweep_says_where_each_trial_is(lines: list[tuple[float, str]]) -> None:
    statuses = [match for _, line in lines if (match := STATUS.match(line))]
    assert len(statuses) >= 4
    running = [status[3] for status in statuses if "epoch 2/4, 0.2000" in status[3]]
    assert running
    assert all(
        re.search(r" \| trial \d: epoch \d/4, 0\.\d000, 0:\d\d left", one) for one in running
    )


def test_the_sweep_is_estimated_as_soon_as_an_epoch_is_timed(
    lines: list[tuple[float, str]],
) -> None:
    times = [moment for moment, line in lines if (match := STATUS.match(line)) and match[2]]
    first = next(line for _, line in lines if (match := STATUS.match(line)) and match[2])
    ended = lines[-1][0]
    said = int(STATUS.match(first)[2])
    assert said == pytest.approx(ended - times[0], abs=1.6)
    assert "epoch 1/4" in first


def test_no_silence_is_longer_than_was_said(lines: list[tuple[float, str]]) -> None:
    started = next(moment for moment, line in lines if line.startswith("study "))
    moments = [moment for moment, _ in lines if moment >= started]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert max(gaps) < 2.0, "0.5 s, looked at once in 0.5 s, and a loaded machine"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3600, "1:00:00"), (7325, "2:02:05")],
)
def test_durations_are_minutes_and_seconds_and_hours_from_one_on(
    seconds: float, shown: str
) -> None:
    assert clock(seconds) == shown


def test_a_heartbeat_speaks_in_silence_and_ends_with_its_block() -> None:
    said: list[float] = []
    with Heartbeat(lambda: said.append(time.monotonic()), silence=0.05):
        deadline = time.monotonic() + 5
        while len(said) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    count = len(said)
    time.sleep(0.2)
    assert len(said) == count


def test_a_heartbeat_that_is_heard_waits() -> None:
    said: list[str] = []
    with Heartbeat(lambda: said.append("beat"), silence=0.5) as heartbeat:
        for _ in range(20):
            time.sleep(0.05)
            heartbeat.heard()
    assert said == []


def test_what_is_known_soon_is_said_at_once_and_once() -> None:
    said: list[float] = []
    known = iter([False, *[True] * 100])
    started = time.monotonic()
    with Heartbeat(lambda: said.append(time.monotonic()), 60, lambda: next(known)):
        deadline = started + 10
        while not said:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(2.5)  # two more looks
    assert len(said) == 1
    assert said[0] - started > 1.5, "not before it is known"


def test_a_heartbeat_whose_say_fails_says_so_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("told so")

    with Heartbeat(fail, silence=0.05):
        deadline = time.monotonic() + 5
        while "told so" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert caplog.text.count("the heartbeat ends") == 1
