"""Where a study is beside Optuna's storage, and what code it ran: `StudyAttributes`, as sweeps note
them with Optuna's study."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_hpo.redaction import has_secret

if TYPE_CHECKING:
    import optuna

RUN = "mlflow"
"""Where MLflow has the study: a URI and a run's id."""

FOLDER = "folder"
"""Where its last sweep left its trials' folders."""

FOLDERS = "folders"
"""The same of all of its sweeps, where hydra.sweep.dir was not always the same."""

CODE = "code"
"""By digests what code its trials run."""

PROGRAM = "program"
"""How its app is started for one trial, without what varies; of this package's own nothing."""

ID = "id"
"""What tells it from all other studies, whatever their names."""


def run_of(attributes: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Where MLflow has a study, by its attributes: a URI and a run's id; None where nobody says."""
    match attributes.get(RUN):
        case [str(uri), str(run_id)]:
            return uri, run_id
    return None, None


def folders_of(attributes: Mapping[str, Any]) -> list[Path]:
    """Where all of a study's sweeps have left their trials' folders, by its attributes; the latest
    last."""
    latest = [attributes[FOLDER]] if FOLDER in attributes else []  # of earlier versions the one
    return [Path(folder) for folder in attributes.get(FOLDERS, latest)]


class StudyAttributes:
    """Attributes of Optuna's study; each is read from its storage when it is asked for."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    @property
    def id(self) -> str:
        """What tells this study from all others; made when it is first asked for."""
        known: str | None = self._study.user_attrs.get(ID)
        if known is None:
            known = uuid.uuid4().hex
            self._study.set_user_attr(ID, known)
        return known

    def set_run(self, uri: str, run_id: str) -> None:
        """Note where MLflow has this study, for the report; not where the URI holds a password."""
        if not has_secret(uri):
            self._study.set_user_attr(RUN, [uri, run_id])

    def code(self) -> list[dict[str, Any]]:
        """What code its trials run, each entry from the trial with the number `first` on."""
        entries: list[dict[str, Any]] = self._study.user_attrs.get(CODE, [])
        return entries

    def add_code(self, entry: Mapping[str, Any]) -> None:
        """Note what code trials run that begin from now on."""
        known = {"first": len(self._study.get_trials(deepcopy=False)), **entry}
        self._study.set_user_attr(CODE, [*self.code(), known])

    def set_folder(self, folder: Path) -> None:
        """Note where the sweep leaves its trials' folders, for whoever looks for their configs."""
        path = str(folder.absolute())
        self._study.set_user_attr(FOLDER, path)
        known = self._study.user_attrs.get(FOLDERS, [])
        if known[-1:] != [path]:
            others = [folder for folder in known if folder != path]
            self._study.set_user_attr(FOLDERS, [*others, path])

    def set_program(self, command: str) -> None:
        """Note how the app is started, for whoever runs a trial again."""
        if self._study.user_attrs.get(PROGRAM) != command:
            self._study.set_user_attr(PROGRAM, command)

    def folders(self) -> list[Path]:
        """Where all of its sweeps have left their trials' folders, the latest last."""
        return folders_of(self._study.user_attrs)
