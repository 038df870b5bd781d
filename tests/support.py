"""Steps that several tests share: small images, and the command line as a user has it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from cifar_hpo.data.dataset import PREPARED
from cifar_hpo.study.ranking import OUTCOME
from cifar_hpo.study.storage import open_storage
from cifar_hpo.study.study import MEANING
from cifar_hpo.trial import FAILED, FINISHED

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Clock = Callable[[float], None]


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten classes told apart by their brightness and colour, which a CNN learns in a few steps."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 10).astype(np.uint8)
    level = np.stack([labels * 25, 255 - labels * 25, (labels % 3) * 100], axis=-1)
    noise = rng.integers(-20, 20, size=(n, 32, 32, 3))
    return np.clip(level[:, None, None, :] + noise, 0, 255).astype(np.uint8), labels


def clean() -> dict[str, str]:
    """The environment without what other tests in this process left there: MLflow's store, and
    where images were decoded."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("MLFLOW_TRACKING_URI", PREPARED)
    }


def run_in(
    folder: Path, *arguments: str, module: str = "cifar_hpo", **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m cifar_hpo` in a folder, or another of its commands."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=clean() | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def lay_out(
    folder: Path,
    outcomes: Sequence[tuple[Mapping[str, Any], Sequence[float] | str]],
    name: str = "laid",
    seconds: float = 8.0,
) -> Any:
    """A study whose trials came to these values of their replicas, or to an error."""
    (folder / "mlruns").mkdir(exist_ok=True)
    storage = open_storage(f"sqlite:///{folder}/mlruns/studies.db")
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    study.set_user_attr(
        MEANING,
        {
            "metric": "val_accuracy",
            "direction": "maximize",
            "data": ["small:0"],
            "config": {"training": {"seed": 0}},
        },
    )
    trials = []
    for number, (params, values) in enumerate(outcomes):
        mean = None if isinstance(values, str) else float(np.mean(values))
        metrics = (
            {}
            if mean is None
            else {
                "val_accuracy": mean,
                "test_accuracy": mean - 0.01,
                "parameters": 1000.0 + number,
                "train_seconds": 5.0 + number,
            }
        )
        if not isinstance(values, str) and len(values) > 1:
            metrics |= {
                f"replica_{replica}/val_accuracy": value for replica, value in enumerate(values)
            }
            metrics |= {
                f"replica_{replica}/test_accuracy": value - 0.01
                for replica, value in enumerate(values)
            }
        outcome = {
            "state": FAILED if isinstance(values, str) else FINISHED,
            "values": None if mean is None else [mean],
            "metrics": metrics,
        }
        outcome |= {
            "error": values if isinstance(values, str) else "",
            "seconds": seconds,
            "run_id": "",
            "worker": number % 2,
            "ended": 1000.0 + 5 * number,
        }
        forms = {
            key: optuna.distributions.CategoricalDistribution(
                sorted({str(one[0].get(key)) for one in outcomes})
            )
            for key in params
        }
        trials.append(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE
                if mean is not None
                else optuna.trial.TrialState.FAIL,
                value=mean,
                params={key: str(value) for key, value in params.items()},
                distributions=forms,
                user_attrs={OUTCOME: outcome},
            )
        )
    study.add_trials(trials)
    return storage


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Return as soon as the condition holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
