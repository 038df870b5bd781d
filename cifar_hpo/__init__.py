"""A hyperparameter sweep orchestrator: Hydra's configs, Optuna's studies, Keras' models, MLflow's
runs.

A function of data may return a `Dataset`. The task of any Hydra app may call `report`, to say how
its trial goes, and `folder`, for its checkpoints; it lets `Pruned` pass. In Python, `run` starts a
sweep and `load` gives a study.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cifar_hpo.api import load
    from cifar_hpo.command import run
    from cifar_hpo.data.given import Dataset
    from cifar_hpo.reporting import folder, report
    from cifar_hpo.trial import Pruned

__all__ = ["Dataset", "Pruned", "__version__", "folder", "load", "report", "run"]

# Hydra loads plugins from the namespace package hydra_plugins alone; ours lies in the package, so
# it is put in reach here. An install puts it in reach of every Hydra app of its environment.
_PLUGINS = str(Path(__file__).parent / "_hydra")
if Path(_PLUGINS).is_dir() and _PLUGINS not in sys.path:
    sys.path.append(_PLUGINS)

UNKNOWN_VERSION = "0+unknown"
"""The version of a copy of the sources that was never installed."""

_WHERE = {
    "Dataset": "cifar_hpo.data.given",
    "Pruned": "cifar_hpo.trial",
    "folder": "cifar_hpo.reporting",
    "load": "cifar_hpo.api",
    "report": "cifar_hpo.reporting",
    "run": "cifar_hpo.command",
}
"""The modules of what is offered here, which are imported when it is asked for."""

__version__: str


def __getattr__(name: str) -> Any:
    """What the package offers, looked up when it is asked for: importlib.metadata alone takes
    longer to import than the rest of this module."""
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:
        return UNKNOWN_VERSION
