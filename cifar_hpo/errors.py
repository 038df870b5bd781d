"""The exceptions, and the line and the exit code with which they end the program.

    UserError           what the user can mend; exit code 2
        ConfigError     a wrong value in the config
        DataError       images that can't be had or can't be trusted
        StudyError      a study that can't be opened or continued as asked
    SweepFailed         a sweep ended, but not every trial finished; exit code 1
    TrialError          a trial that can't give a value; exit code 1 for a single run
        UnusableResult  a trial whose task did not return what its study needs

Every message is one line: what, where (the config path or the file) and what to do. A bug is any
other exception, and its traceback is shown.
"""

from __future__ import annotations

import errno
import re
import sys
from typing import NoReturn

from cifar_hpo.redaction import redacted


class UserError(Exception):
    """Something the user can mend; ends the program with exit code 2 and no traceback."""


class ConfigError(UserError):
    """A wrong value in the config; the message begins with the key's path: `model.depth: …`."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path

    def __str__(self) -> str:
        return ": ".join(self.args)


class DataError(UserError):
    """Images that can't be had or trusted; the message names the file and what was expected."""


class StudyError(UserError):
    """A study that can't be opened or continued as asked."""


class SweepFailed(Exception):
    """The sweep ran to its end or its limit, but not every trial finished; exit code 1."""


class TrialError(Exception):
    """A trial that can't give a value, such as one that diverged; a retry would end likewise."""


class UnusableResult(TrialError):
    """A task returned something else than its study needs; each of its trials may."""


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_PLACE = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
"""Errors of a disk that the user can mend: make room, change rights, choose another path."""


OF_AN_OVERRIDE = re.compile(r"Error when parsing index: \d+, string: (.*?) out of \[.*?\]\. ")
"""What Hydra 1.4 writes before an override's error: which it is, and all that there are."""


def has_no_space(error: object) -> bool:
    """Whether a disk is full, or what the user may fill of it; NumPy says so without a number."""
    if not isinstance(error, OSError):
        return False
    return error.errno in NO_SPACE or "requested and" in str(error)


def disk_error(error: OSError) -> UserError | None:
    """What the user can mend of a disk; None for any other error."""
    problem = (error.strerror or "").lower()
    if has_no_space(error):
        problem, hint = "no space left", "make room, then the same command goes on"
    elif error.errno in NO_RIGHT:
        hint = "give yourself the right to write there, or go elsewhere"
    elif error.errno in NO_PLACE:
        hint = "move it away, or choose another path"
    else:
        return None
    place = f": {error.filename}" if error.filename else ""
    return UserError(f"{problem}{place}; {hint}")


def exit_with(error: Exception) -> NoReturn:
    """End the program with the error on one line.

    Exit code 1 for what happened in training, 2 for what the user can mend. An error of the system
    that the user can't mend is raised.
    """
    mendable = disk_error(error) if isinstance(error, OSError) else None
    if mendable is not None:
        error = mendable
    elif type(error).__module__ == "builtins":  # Hydra's for a missing config is an OSError, too
        raise error
    happened = isinstance(error, SweepFailed | TrialError)
    line = one_line(error).split(" Config search path:")[0].split(" See https://")[0]
    line = OF_AN_OVERRIDE.sub(r"\1: ", line)
    message, _, place = line.partition(" full_key: ")  # OmegaConf's
    key = place.partition(" ")[0].strip().partition("object_type=")[0]
    line = redacted(f"{key}: {message}" if key and not message.startswith(key) else message)
    print(line if happened else f"error: {line}", file=sys.stderr)
    sys.exit(1 if happened else 2)


def exit_interrupted(interrupt: KeyboardInterrupt) -> NoReturn:
    """End the program after a signal that asked for it, on one line, with exit code 130."""
    print("; ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
    sys.exit(130)


def one_line(error: BaseException) -> str:
    """The message of any exception, folded to one line."""
    return " ".join(str(error).split()) or type(error).__name__


def message_of(error: BaseException) -> str:
    """An error on one line, without OmegaConf's notes of where it stands."""
    return one_line(error).split(" full_key:")[0]


def named_line(error: BaseException, length: int | None = None) -> str:
    """The kind of an exception and its message without passwords, cut to so many characters."""
    return f"{type(error).__name__}: {redacted(one_line(error))[:length]}"
