"""What can go wrong, by whose hand: `UserError` is mended by the user, `SweepFailed` tells how a
sweep ended.

Every message is one line: what, where (the config path) and what to do. A bug is any other
exception.
"""

from __future__ import annotations

import sys
from typing import NoReturn


class UserError(Exception):
    """Something the user can mend; ends the program with exit code 2 and no traceback."""


class ConfigError(UserError):
    """A wrong value in the config; its message begins with the path of the key, as in `model.depth:
    …`."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path

    def __str__(self) -> str:
        return ": ".join(self.args)


class DataError(UserError):
    """Images that can't be had or can't be trusted; the message names the file and what was
    expected."""


class StudyError(UserError):
    """A study that can't be opened or continued as asked."""


class SweepFailed(Exception):
    """The sweep ran to its end or its limit, but not every trial finished; exit code 1."""


class TrialError(Exception):
    """A trial that can't give a value, such as one that diverged; a retry would end the same
    way."""


def exit_with(error: Exception) -> NoReturn:
    """End the program with the error on one line: exit code 1 for what happened in training, else
    2."""
    happened = isinstance(error, SweepFailed | TrialError)
    line = one_line(error).split(" Config search path:")[0].split(" See https://")[0]
    print(line if happened else f"error: {line}", file=sys.stderr)
    sys.exit(1 if happened else 2)


def one_line(error: BaseException) -> str:
    """The message of any exception, folded to one line."""
    return " ".join(str(error).split()) or type(error).__name__
