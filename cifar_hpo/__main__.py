"""`python -m cifar_hpo`: Hydra's command line, with errors on one line and a true exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from hydra.core.utils import configure_log
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from cifar_hpo import interruption, trial
from cifar_hpo.config.secrets import refuse_search_path_of_packages, refuse_secrets_and_calls
from cifar_hpo.console import set_up_output
from cifar_hpo.errors import SweepFailed, UserError, exit_interrupted, exit_with, one_line
from cifar_hpo.hydra_internals import (
    ConfigChecks,
    configs_checked,
    hydra_main,
    is_rerun_of_pickle,
)
from cifar_hpo.objective import objective
from cifar_hpo.paths import CONF
from cifar_hpo.trust import allowed_prefixes


def terminated(number: int, _: object) -> None:
    """Exit, so that a run that is ended is KILLED, not left RUNNING; an exit that a destructor
    swallowed comes again after the epoch. A second signal, which is no echo of the first, does not
    break the end in order, which may take a second from then on."""
    echo = interruption.Echo()
    echo.is_heard(number)

    def end_soon(later: int, _: object) -> None:
        if not echo.is_heard(later):
            interruption.end_soon(128 + number)

    def end(*_: object) -> NoReturn:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    for later in interruption.SIGNALS:
        if signal.getsignal(later) is terminated:
            signal.signal(later, end_soon)
    trial.set_reporter(end)
    end()


def main() -> None:
    """Run one trial or a sweep; exit 0 when all finished, 1 when a trial failed, 2 for what the
    user can mend."""
    is_full_error_wanted = "HYDRA_FULL_ERROR" in os.environ
    # Hydra would end the program itself, with many lines and exit code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    for number in interruption.SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as it is under nohup
            signal.signal(number, terminated)
    set_up_output()
    checks = ConfigChecks(refuse_search_path_of_packages, refuse_secrets_and_calls)
    try:
        refuse_secrets_and_calls(_overrides(sys.argv[1:]))
        if is_rerun_of_pickle():
            problem = "up to Hydra 1.3 it reads one; give the overrides"
            raise UserError(f"--experimental-rerun: a pickle may run anything, and {problem}")
        with configs_checked(checks):
            hydra_main(objective, str(CONF), "config", allowed_prefixes)()
    except KeyboardInterrupt as interrupt:
        exit_interrupted(interrupt)
    except (HydraException, OmegaConfBaseException, UserError, SweepFailed, OSError) as error:
        if is_full_error_wanted:
            raise
        exit_with(error)
    except (ValueError, LookupError, TypeError) as error:
        if is_full_error_wanted or not _is_of_hydra(error):
            raise
        exit_with(UserError(one_line(error)))


def _overrides(arguments: Sequence[str]) -> dict[str, str]:
    """The values among the arguments, by their keys."""
    values = {}
    for argument in arguments:
        key, sign, value = argument.lstrip("+").partition("=")
        if sign:
            values[key] = value
    return values


def _is_of_hydra(error: Exception) -> bool:
    """Whether Hydra raised it, which has errors without its base class for wrong arguments, or
    Python's logging as Hydra configured it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    is_of_logging = any(frame.f_code is configure_log.__code__ for frame in frames)
    return is_of_logging or str(frames[-1].f_globals.get("__name__")).startswith("hydra.")


if __name__ == "__main__":
    main()
