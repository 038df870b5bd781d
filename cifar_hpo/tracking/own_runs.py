"""What an app logs by itself while one of its trials is tracked: `below` puts its runs below the
attempt's own.

So an app that has used MLflow before goes on doing so, whichever experiment or store it chooses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import mlflow

from cifar_hpo.owner import owner
from cifar_hpo.tracking import _mlflow
from cifar_hpo.tracking.attempts import AttemptRun
from cifar_hpo.tracking.ownership import OWNER
from cifar_hpo.trial import FAILED, FINISHED, KILLED, Context, Pruned

KIND = "app"
"""The tag `kind` of a run that an app has started by itself."""


@contextlib.contextmanager
def below(attempt: AttemptRun, context: Context, number: int) -> Iterator[None]:
    """Let the runs that are started in this process lie below an attempt's run, and in the study's
    experiment unless the app chooses another.

    What the app leaves open at the end is closed, with a true status. number: of the trial.
    """

    def tags() -> dict[str, str]:
        attempt.wait()  # for its run to be there
        own = {"kind": KIND, "study": context.study, "trial": str(number), OWNER: owner()}
        own |= {_mlflow.STUDY_RUN: context.parent_run_id, _mlflow.RUN_NAME: attempt.name}
        if attempt.run_id:
            own[_mlflow.PARENT_RUN] = attempt.run_id
        return own

    before = mlflow.active_run()
    status = FAILED
    try:
        with _mlflow.runs_tagged(tags), _experiment_chosen(context.experiment_id):
            yield
        status = FINISHED
    except Pruned:
        status = FINISHED
        raise
    except Exception:
        raise
    except BaseException:
        status = KILLED
        raise
    finally:
        _end_those_after(before, status)


@contextlib.contextmanager
def _experiment_chosen(experiment_id: str) -> Iterator[None]:
    """Let runs for which nobody names an experiment go into this one."""
    before = {name: os.environ.pop(name, None) for name in _mlflow.EXPERIMENT_VARIABLES}
    os.environ[_mlflow.EXPERIMENT_ID_VARIABLE] = experiment_id
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _end_those_after(before: mlflow.ActiveRun | None, status: str) -> None:
    """End the runs that were started after one, None for all, the innermost first.

    A store of the app's own that is away by now is none of its trial's faults.
    """
    with contextlib.suppress(mlflow.MlflowException, OSError):
        while (active := mlflow.active_run()) is not None:
            if before is not None and active.info.run_id == before.info.run_id:
                return
            mlflow.end_run(status)
