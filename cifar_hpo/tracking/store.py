"""MLflow's store: `connect` points MLflow at it, `open_store` says what is wrong with it, and
`experiment` finds or makes an experiment there.

What MLflow raises of its store becomes a StudyError, on one line.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import mlflow
from filelock import FileLock
from mlflow.exceptions import MlflowException

from cifar_hpo import paths
from cifar_hpo.database import CONNECT_TIMEOUT, FORMS, Database, new_file
from cifar_hpo.errors import StudyError, one_line
from cifar_hpo.redaction import redacted
from cifar_hpo.tracking import _mlflow

TITLE = "MLflow's store"
OPTION = "mlflow.tracking_uri (--tracking-uri)"
SERVERS = ("http://", "https://")

EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
SYSTEM_METRICS_VARIABLE = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
"""MLflow's own, which it reads where one starts a run in its own way."""


def connect(tracking_uri: str | None) -> str:
    """Point MLflow at its store and return the store's URI.

    It is the one given, else MLFLOW_TRACKING_URI, else mlflow.db here.
    """
    uri = paths.tracking_uri(tracking_uri)
    mlflow.set_tracking_uri(uri)
    _mlflow.forget_run_id()
    return uri


def experiment_name(given: str | None, otherwise: str) -> str:
    """The experiment's: the one given, else MLFLOW_EXPERIMENT_NAME, else this one."""
    return str(given or os.environ.get(EXPERIMENT_VARIABLE) or otherwise)


def wants_system_metrics(given: bool | None) -> bool:
    """Whether runs log this machine's load: as given, else as MLflow's variable says."""
    if given is not None:
        return given
    return os.environ.get(SYSTEM_METRICS_VARIABLE, "").lower() in ("true", "1")


def open_store(uri: str, *, will_write: bool) -> None:
    """Open the store that MLflow points at; a database that is not there is made if it will be
    written.

    MLflow would wait for minutes where nothing answers. Raises StudyError within some 10 s where
    the store can't be used, and where there is none to read.
    """
    if uri.startswith(SERVERS):
        _ask(uri)
    database = _database(uri)
    if database:
        database.check(will_write=will_write)
        if database.file and not database.file.exists():
            if not will_write:
                raise StudyError(f"{database} is not here; name another by {OPTION}")
            _make(database)
    with store_errors(uri):
        mlflow.MlflowClient().search_experiments(max_results=1)


@contextlib.contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Raise StudyError in place of what MLflow raises where its store can't be used."""
    database = _database(uri)
    if database:
        with database.errors(MlflowException):
            yield
        return
    try:
        yield
    except MlflowException as error:
        raise StudyError(f"{TITLE} {redacted(uri)} {_problem(uri, error)}") from None


def experiment(name: str) -> str:
    """The id of the experiment, made on first use in the store that MLflow points at.

    Two processes at once make one database and one experiment. Raises StudyError where the store
    can't be used, or the experiment was deleted in MLflow's UI.
    """
    name = str(name)  # a name of digits comes as a number
    uri = mlflow.get_tracking_uri()
    with store_lock():
        open_store(uri, will_write=True)
        with store_errors(uri):
            _refuse_deleted(name)
            active = mlflow.set_experiment(name)
            if _mlflow.EXPERIMENT_KIND not in active.tags:
                mlflow.set_experiment_tag(_mlflow.EXPERIMENT_KIND, _mlflow.TRAINING)
    return str(active.experiment_id)


def store_lock() -> FileLock:
    """Held while MLflow looks for something and makes it if it is missing.

    That goes wrong for two processes at once.
    """
    paths.MLFLOW_LOCK.parent.mkdir(exist_ok=True)
    return FileLock(paths.MLFLOW_LOCK)


def _database(uri: str) -> Database | None:
    """The store as a database; None for a server, and for what MLflow does not know."""
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme not in _mlflow.DATABASES:
        return None
    return Database(TITLE, uri, "experiments", OPTION)


def _make(database: Database) -> None:
    """Make the tables of a database that is not there yet, which takes MLflow some seconds."""
    assert database.file is not None
    with database.errors(MlflowException):
        try:
            with new_file(database.file) as draft:
                if draft is not None:
                    _mlflow.create_tables(f"{paths.SQLITE}{draft.absolute()}")
        except (FileExistsError, NotADirectoryError):
            raise StudyError(f"{database} can't be made: its folder is no folder") from None


def _ask(uri: str) -> None:
    """Raise StudyError for a server that does not answer; what it answers is MLflow's matter."""
    server = urlsplit(uri)
    host = server.netloc.rpartition("@")[2]  # a name and a password are MLflow's matter, too
    address = f"{server.scheme}://{host}{server.path.rstrip('/')}/health"
    try:
        urllib.request.urlopen(address, timeout=CONNECT_TIMEOUT).close()  # noqa: S310  of SERVERS
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLError):
            return  # MLflow may know its certificate
        problem = f"does not answer ({redacted(one_line(cause))[:100]})"
        hint = f"start it, or name another by {OPTION}"
        raise StudyError(f"{TITLE} {redacted(uri)} {problem}; {hint}") from None


def _problem(uri: str, error: MlflowException) -> str:
    """What is wrong with a store that is no database."""
    if uri.startswith(SERVERS):
        return f"can't be used ({redacted(one_line(error))[:160]})"
    return f"is none that MLflow 3 takes; give {FORMS} or http://HOST:PORT by {OPTION}"


def _refuse_deleted(name: str) -> None:
    found = mlflow.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        command = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        raise StudyError(
            f"mlflow.experiment: {name} was deleted in {TITLE}; name another, or restore it with "
            f"MLFLOW_TRACKING_URI={redacted(mlflow.get_tracking_uri())} {command}"
        )
