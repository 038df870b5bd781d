"""What a sweep says while it runs, where there is no terminal."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time

import pytest

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
        assert process.stdout
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


@pytest.mark.long  # the other tests' load makes trials slower than their first epochs
def test_the_sweep_is_estimated_as_soon_as_an_epoch_is_timed(
    lines: list[tuple[float, str]],
) -> None:
    estimates = []
    for moment, line in lines:
        match = STATUS.match(line)
        if match and match[2]:
            estimates.append((moment, int(match[2]), line))
    moment, seconds_left, line = estimates[0]
    ended = lines[-1][0]
    assert seconds_left == pytest.approx(ended - moment, abs=1.6)
    assert "epoch 1/4" in line


def test_no_silence_is_longer_than_was_said(lines: list[tuple[float, str]]) -> None:
    started = next(moment for moment, line in lines if line.startswith("study "))
    moments = [moment for moment, _ in lines if moment >= started]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert max(gaps) < 2.0, "0.5 s, looked at once in 0.5 s, and a loaded machine"
