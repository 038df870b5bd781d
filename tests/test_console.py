"""What is written to the terminal, and what breaks a silence."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from support import STUB_SWEEP, run_command, wait_for

from cifar_hpo.console import Heartbeat, Output, clock, set_up_output, sparkline


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
        wait_for(lambda: len(said) >= 3, seconds=5)
    count = len(said)
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
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
    asked: list[bool] = []

    def is_known() -> bool:
        asked.append(len(asked) > 0)
        return asked[-1]

    started = time.monotonic()
    with Heartbeat(lambda: said.append(time.monotonic()), 60, is_known):
        wait_for(lambda: said, seconds=10)
        looks = len(asked)
        wait_for(lambda: time.monotonic() - said[0] > 2.5)
    assert len(said) == 1
    assert len(asked) == looks, "it is not asked again"
    assert said[0] - started > 1.5, "not before it is known"


def test_a_heartbeat_whose_say_fails_says_so_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("told so")

    with Heartbeat(fail, silence=0.05):
        wait_for(lambda: "told so" in caplog.text, seconds=5)
    assert caplog.text.count("the heartbeat ends") == 1


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([0.5], "▁"),
        ([0.0, 1.0], "▁█"),
        ([1.0, 0.0, 0.5], "█▁▄"),
        ([9.0, *range(20)], "▁▁▁▂▂▂▃▃▃▄▄▅▅▅▆▆▆▇▇█"),
    ],
)
def test_a_curve_in_one_line_goes_from_its_lowest_to_its_highest_value(
    values: list[float], line: str
) -> None:
    assert sparkline(values) == line


@pytest.fixture
def piped() -> Iterator[tuple[int, Output]]:
    """The reading end of a pipe, and what writes to it in Latin-1."""
    reading, writing = os.pipe()
    set_up_output()
    with os.fdopen(writing, "w", encoding="latin-1") as stream:
        yield reading, Output.over(stream)
    logging.setLogRecordFactory(logging.LogRecord)
    with contextlib.suppress(OSError):
        os.close(reading)


def test_signs_that_a_terminal_does_not_have_get_plain_ones(piped: tuple[int, Output]) -> None:
    reading, output = piped
    print("0.5 ± 0.1 × 3 ≥ 2 ▁█ 猫", file=output, flush=True)
    assert os.read(reading, 99) == "0.5 ± 0.1 × 3 >= 2 18 ?\n".encode("latin-1")


def test_what_is_printed_has_no_passwords(piped: tuple[int, Output]) -> None:
    reading, output = piped
    print("at", "postgresql://me:SECRET@host/db", file=output, flush=True)
    assert os.read(reading, 99) == b"at postgresql://me:***@host/db\n"


def test_a_reader_that_is_gone_ends_nothing(piped: tuple[int, Output]) -> None:
    reading, output = piped
    os.close(reading)
    for _ in range(3):
        print("x" * 100_000, file=output, flush=True)


def test_a_log_has_no_passwords_in_message_and_traceback(piped: tuple[int, Output]) -> None:
    written = io.StringIO()
    logger = logging.getLogger("cifar_hpo.test")
    handler = logging.StreamHandler(written)
    logger.addHandler(handler)
    try:
        raise ValueError("no postgresql://me:SECRET@host")
    except ValueError:
        logger.exception("at %s", "postgresql://me:SECRET@host")
    logger.removeHandler(handler)
    assert "SECRET" not in written.getvalue()
    assert "at postgresql://me:***@host" in written.getvalue()
    assert "ValueError: no postgresql://me:***@host" in written.getvalue()


@pytest.mark.parametrize(
    "closed",
    [*(pytest.param(one, marks=pytest.mark.long) for one in ("2>&-", ">&-")), "<&- >&- 2>&-"],
)
def test_a_sweep_whose_standard_streams_are_closed_runs(closed: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import hydra\n\n\n@hydra.main(version_base='1.3', config_path=None)\n"
        "def task(config):\n    return {'y': float(config.x)}\n\n\n"
        "if __name__ == '__main__':\n    task()\n"
    )
    command = shlex.join([sys.executable, *STUB_SWEEP, "+x=1,2"])
    ended = run_command(tmp_path, ["sh", "-c", f"{command} {closed}"])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/mlruns/studies.db")
    assert [trial.value for trial in study.trials] == [1.0, 2.0]
