"""What is asked of a running sweep from another terminal or host: a `Request`, and its answer.

Both are attributes of Optuna's study, so that they reach a sweep wherever its storage does: `ask`
leaves a request and waits, a sweep's `Inbox` finds it and answers. There is one request at a time;
all commands that work on the study when it is made obey it, and none that starts later.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.exc import OperationalError

from cifar_hpo.errors import StudyError
from cifar_hpo.study.storage import is_held, load_study, storage_errors, storage_if_there
from cifar_hpo.study.stored import choose_name

PAUSE, RESUME, STOP, ENQUEUE, ADD = "pause", "resume", "stop", "enqueue", "add"

REQUEST = "request"
"""The attribute of Optuna's study with the latest request."""

ANSWER = "answer"
"""The attribute of Optuna's study with the latest answer."""

ADDED = "added"
"""The attribute of Optuna's study with the values by key that a grid was given while it ran, as an
override writes them."""

LOOK_INTERVAL = 0.4
"""Seconds between two looks for a request, each a query of some milliseconds."""

ANSWER_TIMEOUT = 5.0
"""Seconds that an answer is waited for."""

LONG_TIMEOUT = 600.0
"""The same of a request that a sweep has begun to obey: a study of many trials is copied before it
has further values."""


@dataclass(frozen=True)
class Request:
    """What a sweep is to do.

    what: PAUSE, RESUME, STOP, ENQUEUE or ADD. overrides: `key=value` of a configuration, or
    `key=value,value` of new values. after_running: whether the trials that run are to end before
    the sweep stops. id: unlike that of any other.
    """

    what: str
    overrides: Sequence[str] = ()
    after_running: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


class Inbox:
    """Where a sweep finds requests; those that are there when it begins are not for it."""

    def __init__(self, storage: BaseStorage, study: str) -> None:
        self._storage, self._study = storage, study
        self._seen = _id(self._attributes().get(REQUEST))
        self._looked = time.monotonic()

    def look(self) -> Request | None:
        """A new request; None where there is none, and for LOOK_INTERVAL after each look."""
        if time.monotonic() - self._looked < LOOK_INTERVAL:
            return None
        found = None
        # A database that is away is left alone: the next look may find it.
        with contextlib.suppress(OperationalError, StorageInternalError):
            found = self._attributes().get(REQUEST)
        self._looked = time.monotonic()
        if not isinstance(found, dict) or _id(found) == self._seen:
            return None
        self._seen = _id(found)
        return Request(**found)

    def answer(self, request: Request, text: str, *, is_refused: bool = False) -> None:
        """Say what became of a request; empty where it takes a while. Whoever asked has no answer
        where the database is away."""
        answer = {"id": request.id, "text": text, "is_refused": is_refused}
        with contextlib.suppress(OperationalError, StorageInternalError):
            self._load().set_user_attr(ANSWER, answer)

    def _load(self) -> optuna.Study:
        return optuna.load_study(study_name=self._study, storage=self._storage)

    def _attributes(self) -> dict[str, Any]:
        return _attributes(self._storage, self._study)


def ask(storage: BaseStorage, name: str, request: Request) -> str:
    """Ask a running sweep, and return what it answers.

    Raises StudyError for a study that is not there or that no sweep works on, and with the answer
    of a sweep that refuses.
    """
    study = load_study(storage, name)
    nobody = f"study {name}: no sweep works on it now; the command that began it goes on with it"
    held = is_held(storage, name)
    if held is False:
        raise StudyError(nobody)
    study.set_user_attr(REQUEST, asdict(request))
    started = time.monotonic()
    timeout = ANSWER_TIMEOUT
    while time.monotonic() - started < timeout:
        answer = _attributes(storage, name).get(ANSWER) or {}
        if _id(answer) == request.id and not answer["text"]:
            timeout = LONG_TIMEOUT
        elif _id(answer) == request.id:
            if answer["is_refused"]:
                raise StudyError(f"study {name}: {answer['text']}")
            return f"study {name}: {answer['text']}"
        time.sleep(0.05)
    if held:
        return f"study {name}: asked; through a launcher of batches it is obeyed as a batch ends"
    raise StudyError(nobody)


def added_values(
    given: str | None, name: str, earlier_name: str | None
) -> tuple[str, dict[str, list[str]]]:
    """The name of a study that is to be opened, and the values that it was given while it ran, by
    key; none where it is not there."""
    storage = storage_if_there(given)
    if storage is None:
        return name, {}
    with storage_errors(given):
        name = choose_name(storage, name, earlier_name, is_fresh=False)
        if name not in optuna.get_all_study_names(storage):
            return name, {}
        attributes = optuna.load_study(study_name=name, storage=storage).user_attrs
    values: dict[str, list[str]] = attributes.get(ADDED, {})
    return name, values


def _attributes(storage: BaseStorage, study: str) -> dict[str, Any]:
    """A study's; none while it is copied, as it is where a grid gains values."""
    try:
        return storage.get_study_user_attrs(storage.get_study_id_from_name(study))
    except KeyError:
        return {}


def _id(noted: Any) -> str:
    """Of a request or an answer as it is stored; empty where there is none."""
    return str(noted.get("id", "")) if isinstance(noted, dict) else ""
