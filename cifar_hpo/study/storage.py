"""Optuna's storage: opened (`open_storage`, `kept`), a study of it `held` by one process, its choices
made wider (`extend_choices`)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.storages import InMemoryStorage, RDBStorage

from cifar_hpo.errors import StudyError, one_line
from cifar_hpo.paths import GENERATED

WIDEN = """
UPDATE trial_params SET distribution_json = :new WHERE param_name = :key AND trial_id IN (
    SELECT trial_id FROM trials JOIN studies ON trials.study_id = studies.study_id
    WHERE study_name = :study)
"""
"""Old choices keep their places in a wider distribution, so that trials, which hold places, keep
their values."""


def open_storage(url: str | None) -> Any:
    """Optuna's storage; None is studies.db among what is generated, `memory` keeps nothing.

    Raises StudyError when it can't be opened, with no password in the message.
    """
    url = url or f"sqlite:///{GENERATED}/studies.db"
    if url == "memory":
        return InMemoryStorage()
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        options = {"connect_args": {"timeout": 60}}
    try:
        return RDBStorage(url, engine_kwargs=options)
    except Exception as error:  # noqa: BLE001  SQLAlchemy's and the drivers' errors share no base
        where = re.sub(r"//.*@", "//***@", url)
        raise StudyError(
            f"hydra.sweeper.storage: {where} can't be opened ({type(error).__name__}: "
            f"{one_line(error)[:120]})"
        ) from None


def open_existing(url: str | None) -> Any:
    """The storage of studies that are there already. Raises StudyError where this folder has
    none."""
    if not url and not Path(GENERATED, "studies.db").exists():
        raise StudyError(
            f"{GENERATED}/studies.db is not here; go to the folder where the sweep was started, "
            "or give --storage"
        )
    return open_storage(url)


@contextlib.contextmanager
def study_lock(storage: Any, study: str) -> Iterator[None]:
    """One asker for a study: two would lay out the same cells, and take each other's running trials
    for abandoned ones.

    The lock lies beside an SQLite file; for other storages it keeps out the commands of this
    machine only. Raises StudyError when another process holds the study.
    """
    if isinstance(storage, InMemoryStorage):
        yield
        return
    url = str(storage.url)
    shared = Path(
        tempfile.gettempdir(), f"cifar_hpo-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    )
    beside = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else shared
    path = beside.with_name(f".{beside.name}-{study}.lock")
    holder = path.with_suffix(".holder")
    try:
        lock = FileLock(path, timeout=0).acquire()
    except Timeout:
        who = holder.read_text() if holder.exists() else "another process"
        raise StudyError(
            f"study {study}: {who} is working on it; wait for its end, or use "
            "hydra.sweeper.fresh=true"
        ) from None
    with lock:
        holder.write_text(f"process {os.getpid()}")
        yield


def extend_choices(storage: Any, study: str, key: str, choices: Sequence[Any]) -> None:
    """Give a parameter's trials these choices, which begin with those that they have; Optuna takes
    no new ones once a study has begun."""
    if isinstance(storage, RDBStorage):
        wider = optuna.distributions.distribution_to_json(
            optuna.distributions.CategoricalDistribution(choices)
        )
        with storage.engine.begin() as connection:
            connection.execute(sqlalchemy.text(WIDEN), {"new": wider, "key": key, "study": study})
