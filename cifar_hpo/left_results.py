"""What trials left on disk as they ended, until their study has noted it: a `LeftResults`.

Whoever runs a trial leaves its result before anybody is told of it. So neither the death of the
process that would note it, nor one that is busy or on another machine, costs a finished trial.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cifar_hpo.errors import one_line
from cifar_hpo.paths import LEFT_RESULT, LEFT_RESULT_DRAFT, LEFT_RESULTS
from cifar_hpo.trial import Context, TrialResult
from cifar_hpo.whole_files import whole_file

log = logging.getLogger(__name__)


class Left(NamedTuple):
    """What a trial came to, a `TrialResult`, its value or its values, and the seconds it took."""

    value: Any
    seconds: float


@dataclass(frozen=True)
class LeftResults:
    """The results of one study's trials in a sweep's folder.

    study_id: of the study, unlike its name never another's.
    """

    folder: Path
    study_id: str

    @classmethod
    def in_sweep_folder(cls, folder: Path, study_id: str) -> LeftResults:
        return cls(folder.absolute() / LEFT_RESULTS, study_id)

    @classmethod
    def of_context(cls, context: Context) -> LeftResults | None:
        """Where a trial is to leave its result; None outside a study."""
        if not context.left_results:
            return None
        return cls(Path(context.left_results), context.study_id)

    def write(
        self, number: int, overrides: Sequence[str], value: Any, *, seconds: float = 0.0
    ) -> None:
        """Leave what a trial came to: a `TrialResult`, its value or its values.

        It is whole or not there at all. What can't be written is said and no reason to fail: the
        result goes to the parent anyway.
        """
        plain = asdict(value) if isinstance(value, TrialResult) else value
        content = {"overrides": list(overrides), "value": plain, "seconds": seconds}
        try:
            text = json.dumps(content)
        except (TypeError, ValueError):  # no number, which counts as a trial without a value
            text = json.dumps(content | {"value": None})
        try:
            self._write(self._file(number), text)
        except OSError as error:
            log.warning("the result of trial %d is not kept on disk: %s", number, one_line(error))

    def read(self, number: int, overrides: Sequence[str]) -> Left | None:
        """What a trial left; None where that is nothing that can be read, or of another
        configuration."""
        try:
            content = json.loads(self._file(number).read_text(encoding="utf-8"))
            if content["overrides"] != list(overrides):
                return None
            value = content["value"]
            if isinstance(value, dict):
                value = TrialResult(**value)
            return Left(value, float(content["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remove(self, number: int) -> None:
        """Forget a trial's result, which the study has noted."""
        with contextlib.suppress(OSError):
            self._file(number).unlink()

    def numbers(self) -> list[int]:
        """The trials of this study that left one."""
        numbers = []
        for file in self.folder.glob(LEFT_RESULT.format(study=self.study_id, number="*")):
            number = file.stem.rpartition("-")[2]
            if number.isdecimal():
                numbers.append(int(number))
        return sorted(numbers)

    def clear(self) -> None:
        """Forget all of this study's, and what was half written as its process was killed."""
        for file in self.folder.glob(f"*{self.study_id}*"):
            file.unlink(missing_ok=True)

    def remove_empty_folder(self) -> None:
        """Where nothing is left; nobody may be at work."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _file(self, number: int) -> Path:
        return self.folder / LEFT_RESULT.format(study=self.study_id, number=number)

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(LEFT_RESULT_DRAFT.format(result=path.name, process=os.getpid()))
        with whole_file(path, draft) as file:
            file.write(text.encode())
