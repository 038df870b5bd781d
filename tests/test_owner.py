"""Whose a run is, and that the runs of the dead are ended."""

from __future__ import annotations

import psutil
from support_tracking import GONE

from cifar_hpo.owner import is_alive, owner


def test_the_owner_of_a_run_is_alive_while_its_process_is() -> None:
    host, pid, started = owner().rsplit(":", 2)
    assert is_alive(owner())
    assert not is_alive(GONE)
    assert not is_alive(f"{host}:{max(psutil.pids()) + 100_000}:{started}")
    assert is_alive(f"elsewhere:{pid}:{started}"), "nobody can say, so it is believed"
