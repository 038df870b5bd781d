"""Every file and folder name: where the configs lie, and what a sweep leaves in the current folder.

Two functions, `storage_url` and `tracking_uri`, say where studies and runs are when nobody says.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

PACKAGE = Path(__file__).parent
SCRIPT = "cifar-hpo"
"""The command that an install puts beside Python's."""

ROOT = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent
"""Where conf/ and sweeps/ lie: in the checkout, or in the package that a wheel installed."""

CONF = ROOT / "conf"
SWEEPS = ROOT / "sweeps"
REPORT_TEMPLATE = PACKAGE / "report" / "page.html"
BESIDE_TEMPLATE = PACKAGE / "report" / "beside.html"
KEYS_TEMPLATE = PACKAGE / "config" / "reference.md"
KEYS_PAGE = CONF / "README.md"

PROJECT_FILE = "pyproject.toml"
"""Of the user, in the folder where a command starts."""

GENERATED = Path("mlruns")
"""All that is generated, under the current folder."""

STUDIES_DB = GENERATED / "studies.db"
MLFLOW_DB = Path("mlflow.db")
MLFLOW_LOCK = GENERATED / ".mlflow.lock"
DECODED_IMAGES = GENERATED / "data"
SCRATCH = "CIFAR_HPO_SCRATCH"
"""The environment variable that names where a command which leaves nothing decodes those of its
images that are not here yet."""
REPORTS = GENERATED / "reports"
EXPORTS = GENERATED / "exports"
UI_LOG = GENERATED / "ui.log"
OUTPUTS = GENERATED / "outputs"
"""The sweeps' folders, by the study's name, unless hydra.sweep.dir says otherwise."""

SQLITE = "sqlite:///"
SQLITE_URL = re.compile(r"sqlite(?:\+\w+)?:///([^?]+)")
IN_MEMORY = "memory"
"""The storage that keeps nothing."""

STUDY_LOCK = ".{storage}-{study}.lock"
LOCK_HOLDER = ".holder"
"""Ends the name of the file that says which process has the lock."""
SHARED_LOCKS = "cifar_hpo-{digest}"
"""Begins the names of locks for storages that are no file; digest: of the storage's URL."""

NEW_DATABASE = ".{database}.new"
NEW_DATABASE_LOCK = ".{database}.lock"
"""Beside an SQLite file that is being made."""

STUDY_NAME = re.compile(r"[A-Za-z0-9_][\w.@-]{0,119}", re.ASCII)
"""Names of studies that may become names of files and folders."""

# In a sweep's folder, which hydra.sweep.dir names.
SWEEP_CONFIG = "multirun.yaml"
FINAL_FOLDER = "final"  # of its final stage, where hydra.sweep.dir does not name the study
WORKER_LOG = "worker_{slot}.log"
LEFT_RESULTS = ".results"
LEFT_RESULT = "{study}-{number}.json"
LEFT_RESULT_DRAFT = ".{result}.{process}"

# In a trial's folder.
HYDRA_FOLDER = ".hydra"
HYDRA_CONFIG = "config.yaml"
HYDRA_OVERRIDES = "overrides.yaml"
HYDRA_SETTINGS = "hydra.yaml"
TRACEBACK = "traceback.log"
CHECKPOINT = "replica_{replica}.checkpoint"
CHECKPOINTS = "replica_*.checkpoint*"
CHECKPOINT_BEFORE = "{checkpoint}.before"
CHECKPOINT_DRAFT = "{checkpoint}.draft"
KEPT_CHECKPOINT = "kept_{digest}.checkpoint"
TENSORBOARD = "tensorboard"
TENSORBOARD_EVENTS = "events.out.tfevents.{seconds:010}.{process}"
TENSORBOARD_FILES = "events.out.tfevents.*"
TEMPORARY = "cifar_hpo-"
"""Begins the name of the folder of a sweep's temporary files, where TMPDIR says."""

UNDELIVERED = "undelivered-"
"""Begins the names of folders with what MLflow has not got yet of an attempt."""
UNDELIVERED_ENTRIES = "entries.json"
UNDELIVERED_DRAFT = "entries.draft"
UNDELIVERED_MODEL = "model"

# In a report's folder.
REPORT_PAGE = "report.html"
REPORT_CHART = "{chart}.png"
REPORT_CHARTS = "*.png"
REPORT_BESIDE = "{first}.beside.{second}"
"""The folder of the report of two studies."""

# In the folder of an exported model.
EXPORT_DRAFT = ".export-"
"""Begins the name of the folder in which one is made."""
EXPORT_ABOUT = "{artifact}.json"

# Where decoded datasets lie, and in the folder of one.
DECODING_LOCK = ".lock"
DATASET_FOLDER = "{name}-{fingerprint}"
DATASET_DRAFT = "{folder}.draft"
DATASET_DRAFTS = ("*.draft", "tmp????????")
"""The latter are an earlier version's."""
DATASET_ABOUT = "about.json"
DATASET_ARRAY = "{array}.npy"

# Among the artifacts of an MLflow run.
ARTIFACT_CONFIG = "config.yaml"
ARTIFACT_OVERRIDES = "overrides.json"
ARTIFACT_CONFUSION = "confusion_matrix.json"
ARTIFACT_PREDICTIONS = "test_predictions.npz"
ARTIFACT_TRACEBACK = "traceback.txt"
ARTIFACT_RANKING = "report.md"
ARTIFACT_BEST = "best.json"
ARTIFACT_REPORT = "report"
ARTIFACT_DIFF = "source/{commit}.diff"
"""How the user's folder differed from its last commit."""


def storage_url(given: str | None) -> str:
    """Optuna's storage: the one given, else studies.db among what is generated."""
    return given or f"{SQLITE}{STUDIES_DB}"


def tracking_uri(given: str | None) -> str:
    """MLflow's store: the one given, else MLFLOW_TRACKING_URI, else mlflow.db here.

    The same from any folder: a trial may run in its own.
    """
    here = f"{SQLITE}{MLFLOW_DB}"
    return absolute_url(given or os.environ.get("MLFLOW_TRACKING_URI") or here)


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite URL; None for any other."""
    file = SQLITE_URL.match(url)
    return Path(file[1]) if file and file[1] != ":memory:" else None


def absolute_url(url: str) -> str:
    """The URL with the whole path of an SQLite file; any other as it is."""
    file = SQLITE_URL.match(url)
    if file is None or file[1].startswith((":memory:", "file:")):
        return url
    return f"{url[: file.start(1)]}{Path(file[1]).absolute()}{url[file.end(1) :]}"


def short_path(path: Path) -> Path:
    """The path as seen from the current folder, where it lies in it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
