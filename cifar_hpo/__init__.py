"""A hyperparameter sweep orchestrator: Hydra's configs, Optuna's studies, Keras' models, MLflow's
runs."""

from __future__ import annotations

import sys
from pathlib import Path

# Hydra loads plugins from the namespace package hydra_plugins alone; ours lies in the package, so
# it is put in reach here. An install puts it in reach of every Hydra app of its environment.
_PLUGINS = str(Path(__file__).parent / "_hydra")
if Path(_PLUGINS).is_dir() and _PLUGINS not in sys.path:
    sys.path.append(_PLUGINS)
