"""Runs whose process is gone: `end_dead_runs` ends them, or deletes those that are too many."""

from __future__ import annotations

from typing import Any

from cifar_hpo.owner import is_alive
from cifar_hpo.trial import KILLED

RUNNING = "RUNNING"

OWNER = "cifar_hpo.owner"
"""The tag that says which process writes a run."""

ATTEMPT = "cifar_hpo.attempt"
"""The tag that no other run has; by it a run is found of which nobody knows whether it was made."""


def end_dead_runs(client: Any, experiment_id: str, condition: str, *, of_all: bool = False) -> None:
    """Mark as KILLED the runs of an experiment that say RUNNING and whose owner is gone.

    One that was made by a request that came through late, after its attempt had got another run, is
    deleted. condition: a filter of `search_runs`. of_all: whether no owner can be alive, whatever
    it is called; else a run that names none is left alone.
    """
    for run in client.search_runs([experiment_id], condition):
        if not of_all and is_alive(run.data.tags.get(OWNER, "::")):
            continue
        # Since it was found it may have come to its end, and its process with it.
        if client.get_run(run.info.run_id).info.status != RUNNING:
            continue
        if _is_late_twin(client, experiment_id, run):
            client.delete_run(run.info.run_id)
        else:
            client.set_terminated(run.info.run_id, KILLED)


def _is_late_twin(client: Any, experiment_id: str, run: Any) -> bool:
    """Whether nothing was ever written to it, and its attempt has another run."""
    attempt = run.data.tags.get(ATTEMPT)
    if attempt is None or run.data.params or run.data.metrics:
        return False
    return len(client.search_runs([experiment_id], f"tags.`{ATTEMPT}` = '{attempt}'")) > 1
