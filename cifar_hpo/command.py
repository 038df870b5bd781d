"""`cifar_hpo.run`: the command line as a process, for notebooks and scripts; what came of it is a
`CompletedSweep`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_hpo.errors import StudyError, UserError
from cifar_hpo.paths import OUTPUTS, SWEEP_CONFIG

if TYPE_CHECKING:
    from cifar_hpo.api import LoadedStudy  # loads Optuna

STUDY_LINE = re.compile(r"study ([A-Za-z0-9_][\w.@-]*): (?:\d+|any number of) trials", re.ASCII)
"""What a sweep prints first."""

STORAGE = "hydra.sweeper.storage"
SWEEP_FOLDER = "hydra.sweep.dir"

ERROR = "error: "
MENDABLE = 2
"""The exit code for what the user can mend, which is on a line that begins with ERROR."""


@dataclass(frozen=True)
class CompletedSweep:
    """A command that has ended.

    returncode: 0 where all trials finished, 1 where some did not, 130 where another process
    interrupted it, below 0 for a signal that killed it. study_name: None for a single run. storage:
    where the study is, as the command or its config file names it; None for mlruns/studies.db. The
    config file is known by what the sweep left of it in its folder, which must be the usual one or
    stand among the arguments.
    """

    arguments: Sequence[str]
    returncode: int
    study_name: str | None
    storage: str | None = None

    @property
    def study(self) -> LoadedStudy:
        """The study as it stands now. Raises StudyError for a single run, which has none."""
        from cifar_hpo.api import load

        if self.study_name is None:
            raise StudyError("a single run has no study; begin with -m to sweep")
        return load(self.study_name, self.storage)


def run(arguments: Sequence[str]) -> CompletedSweep:
    """Run `python -m cifar_hpo` with these arguments, in the current folder, to its end.

    arguments: as on the command line, a text for each: `["-m", "model.filters=4,8"]`. It runs in a
    process of its own, whose output appears here line by line. An interruption is passed on: the
    sweep ends in order, so that the same call goes on from there, and KeyboardInterrupt is raised;
    a second one ends it at once. Where this process is killed, the sweep goes on by itself.

    Raises UserError, with the line that the command line shows, for what the user can mend. Trials
    that failed raise nothing: see `returncode`, and `study.trials` for their errors.
    """
    if isinstance(arguments, str):
        raise TypeError('arguments: a list of texts is wanted, such as ["-m", "model.filters=4,8"]')
    arguments = list(arguments)
    process = subprocess.Popen(  # noqa: S603  our own module
        [sys.executable, "-u", "-m", "cifar_hpo", *arguments],
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        process_group=0,  # so that Ctrl-C reaches it once, through here
    )
    with process:
        try:
            study_name, problem = _follow(process)
        finally:
            if process.poll() is None:
                process.terminate()
    if process.returncode == MENDABLE and problem:
        raise UserError(problem)
    storage = _storage(arguments, study_name) if study_name else None
    return CompletedSweep(arguments, process.returncode, study_name, storage)


def _storage(arguments: Sequence[str], study_name: str) -> str | None:
    """Where the study is: as an argument says, else the config that its sweep has left."""
    from omegaconf import OmegaConf

    given = _values(arguments)
    named = OmegaConf.create({"hydra": {"sweeper": {"study_name": study_name}}})
    for key, value in given.items():
        OmegaConf.update(named, key, value)
    if STORAGE in given:
        return _text(named, STORAGE)
    config = Path(_text(named, SWEEP_FOLDER) or OUTPUTS / study_name, SWEEP_CONFIG)
    return _text(OmegaConf.load(config), STORAGE) if config.is_file() else None


def _values(arguments: Sequence[str]) -> dict[str, Any]:
    """What the command line sets, by its keys, as Hydra understands it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    values = {}
    for argument in arguments:
        if STORAGE not in argument and SWEEP_FOLDER not in argument:
            continue
        with contextlib.suppress(HydraException):  # an option, such as --config-dir=…
            (override,) = OverridesParser.create().parse_overrides([argument])
            values[override.key_or_group] = override.value()
    return values


def _text(config: Any, key: str) -> str | None:
    """A key's value; None where it has none, or an interpolation that a sweep alone resolves."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    with contextlib.suppress(OmegaConfBaseException):
        value = OmegaConf.select(config, key)
        return None if value is None else str(value)
    return None


def _follow(process: subprocess.Popen[str]) -> tuple[str | None, str]:
    """Pass on what a process prints, until it ends; returns its study's name and its last error.

    Raises KeyboardInterrupt once the process that was interrupted has ended.
    """
    assert process.stdout is not None
    interrupt: KeyboardInterrupt | None = None
    study_name, problem = None, ""
    while True:
        try:
            for line in process.stdout:
                sys.stdout.write(line)
                sys.stdout.flush()
                study = STUDY_LINE.match(line)
                if study and study_name is None:
                    study_name = study[1]
                if line.startswith(ERROR):
                    problem = line.removeprefix(ERROR).strip()
            process.wait()
            break
        except KeyboardInterrupt as error:
            interrupt = error
            process.send_signal(signal.SIGINT)
    if interrupt is not None:
        raise interrupt
    return study_name, problem
