"""Signals that ask the program to end: once, and once more."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, time
from cifar_hpo.interruption import ECHO, GRACE, Interruption

with Interruption("in order") as interruption:
    for number in NUMBERS:
        os.kill(os.getpid(), number)
        time.sleep(0.1)
    time.sleep(GRACE + 0.5)
    try:
        interruption.check()
    except KeyboardInterrupt as ended:
        print(ended)
"""


@pytest.mark.parametrize(
    ("numbers", "printed", "code"),
    [
        ([signal.SIGTERM, signal.SIGTERM, signal.SIGTERM], "in order\n", 0),
        ([signal.SIGINT, signal.SIGINT], "", 130),
        ([signal.SIGHUP, signal.SIGTERM], "", 143),
    ],
)
def test_a_second_signal_ends_at_once_but_not_the_echo_of_a_schedulers(
    numbers: list[signal.Signals], printed: str, code: int
) -> None:
    program = PROGRAM.replace("NUMBERS", str([int(number) for number in numbers]))
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (shown.stdout, shown.returncode) == (printed, code), shown.stderr
