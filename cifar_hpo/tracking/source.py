"""Where a command was started, as MLflow shows the source of a run: user, program and git's state.

Git is asked as long as it answers soon; without it, or outside of a repository, there is less to
show.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from cifar_hpo import paths
from cifar_hpo.redaction import redacted
from cifar_hpo.source_redaction import redacted_source
from cifar_hpo.tracking import _mlflow

GIT_TIMEOUT = 5.0
"""Seconds after which git is not waited for any more, such as on a slow network drive."""

MAX_DIFF = 200_000
"""Bytes of a diff that are kept."""

MAX_LINE = 1_000
"""Bytes of any other answer of git's."""

QUIETLY = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
DIFF = ("diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv")
"""A diff for which git runs no program that the repository names."""

STATUS = ("status", "--porcelain", "-z", "--untracked-files=normal", "--", ":/")
UNTRACKED = "?? "
GENERATED = (str(paths.GENERATED), f"{paths.MLFLOW_DB}*", "multirun", "outputs")
"""What sweeps and Hydra leave in the folder, and is not looked at."""
BYTECODE = ":(top,exclude)*__pycache__/*"

MAX_UNTRACKED = 1_000
"""Names of untracked files and folders that are listed."""


def source_tags(folder: Path) -> dict[str, str]:
    """The user, the program and, as far as git knows, commit, branch and remote of a folder.

    The program is the app's file; the folder itself where that is this package.
    """
    tags = _mlflow.run_tags({})
    tags = {key: value for key, value in tags.items() if key not in _mlflow.GIT_TAGS}
    program = Path(sys.argv[0] or folder).absolute()
    is_ours = program.is_relative_to(paths.PACKAGE) or program.name == paths.SCRIPT
    tags[_mlflow.SOURCE_NAME] = str(folder.absolute() if is_ours else program)
    commit = _line(folder, "rev-parse", "--verify", "HEAD")
    if not commit:
        return tags
    tags[_mlflow.GIT_COMMIT] = commit
    branch = _line(folder, "symbolic-ref", "--short", "HEAD")  # none where the head is detached
    remote = _line(folder, "config", "--get", "remote.origin.url")
    if branch:
        tags[_mlflow.GIT_BRANCH] = branch
    if remote:
        tags[_mlflow.GIT_REMOTE] = redacted(remote)
    return tags


def is_dirty(folder: Path) -> bool:
    """Whether a folder's repository has changes or files, other than what is generated, that are
    not in its last commit; False where there is none."""
    return bool(_status(folder))


def uncommitted_diff(folder: Path) -> str:
    """How a folder's repository differs from its last commit, without passwords and up to MAX_DIFF.

    Empty where it does not, or there is no repository. Of binary files it has the names, and at its
    end those of untracked files and folders.
    """
    diff = _git(folder, *DIFF, limit=MAX_DIFF + 1)
    text = diff.decode(errors="replace")
    if len(diff) > MAX_DIFF:
        whole_lines = text.rpartition("\n")[0]
        text = f"{whole_lines}\n… and more: cut at {MAX_DIFF:,} bytes\n"
    return redacted_source(text + _untracked(folder))


def _untracked(folder: Path) -> str:
    """A line for each untracked file or folder."""
    names = []
    for entry in _status(folder):
        if entry.startswith(UNTRACKED):
            names.append(entry.removeprefix(UNTRACKED))
    lines = [f"untracked: {name}\n" for name in names[:MAX_UNTRACKED]]
    if len(names) > MAX_UNTRACKED:
        lines.append(f"untracked: … and {len(names) - MAX_UNTRACKED:,} more\n")
    return "".join(lines)


def _status(folder: Path) -> list[str]:
    """What is not committed: of each file two letters, a blank and its name in the repository."""
    generated = [f":(exclude){name}" for name in GENERATED]
    answer = _git(folder, *STATUS, *generated, BYTECODE, limit=MAX_DIFF)
    return answer.decode(errors="replace").split("\0")[:-1]  # each ends with it


def _line(folder: Path, *arguments: str) -> str:
    return _git(folder, *arguments, limit=MAX_LINE).decode(errors="replace").strip()


def _git(folder: Path, *arguments: str, limit: int) -> bytes:
    """What git says, up to so many bytes; empty where it fails or takes too long."""
    program = shutil.which("git")
    if program is None:
        return b""
    try:
        process = subprocess.Popen(  # noqa: S603  its arguments are of this module
            [program, "-c", "core.fsmonitor=false", *arguments],
            cwd=folder,
            env=os.environ | QUIETLY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return b""
    timer = threading.Timer(GIT_TIMEOUT, process.kill)
    timer.start()
    with process, contextlib.closing(process.stdout) as output:  # type: ignore[type-var]
        answer = output.read(limit)  # type: ignore[union-attr]
        is_whole = len(answer) < limit
        if not is_whole:
            process.kill()
        failed = process.wait() != 0 and is_whole
        timer.cancel()
    return b"" if failed else bytes(answer)
