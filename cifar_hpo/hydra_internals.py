"""What is used of Hydra beyond its documented interface.

tests/test_hydra_internals.py says what broke when a new Hydra changes one of these.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra._internal import hydra as hydra_app
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser, run_and_report
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cifar_hpo.errors import UserError, one_line


def return_value(returned: JobReturn) -> Any:
    """What a job returned or raised; Hydra's own property prints and raises the latter."""
    return returned._return_value  # noqa: SLF001


def parsed_value(override: Override) -> Any:
    """What Hydra's parser made of an override's text; its own `value()` forgets quotes."""
    return override._value  # noqa: SLF001


LOG_OF_JOB = "${hydra.job.name}.log"
OUTPUT_FOLDER = "${hydra.runtime.output_dir}/"


class ConfigChecks(NamedTuple):
    """What looks at configs before anything that they name is imported or called.

    of_file: at the file that the command names, before Hydra follows its search path. of_config: at
    each composed config, Hydra's own part included. Both raise UserError.
    """

    of_file: Callable[[Any], None]
    of_config: Callable[[DictConfig], None]


class CheckedConfigLoader(ConfigLoaderImpl):
    """Hydra's, with checks, and with errors of files and of their composition on one line."""

    def __init__(self, config_search_path: Any, checks: ConfigChecks) -> None:
        super().__init__(config_search_path)
        self.checks = checks

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any
    ) -> DictConfig:
        try:
            file = self.repository.load_config(config_name) if config_name else None
            if file is not None:
                self.checks.of_file(file.config)
            config = super().load_configuration(config_name, overrides, *args, **kwargs)
        except (UserError, OmegaConfBaseException):
            raise
        except HydraException as error:
            cause = error.__cause__
            if not isinstance(cause, OmegaConfBaseException) or "Could not" in str(error):
                raise
            what = one_line(error) if str(error) else config_name
            raise UserError(f"{what}: {_message(cause)}") from error
        except Exception as error:
            problem = self._problem(config_name, error)
            if problem is None:
                raise
            raise UserError(problem) from error
        _log_to_output_folder(config)
        self.checks.of_config(config)
        return config

    def _problem(self, config_name: str | None, error: Exception) -> str | None:
        """What is wrong with a config that Hydra stumbled over; None where it is no config's."""
        match error:
            case yaml.YAMLError():
                return _place_in_yaml(error)
            case UnicodeDecodeError():
                return self._place_of(error)
            case ValueError() | TypeError() | LookupError() | AssertionError() | AttributeError():
                # Of Hydra's own, for configs of another form than it expects.
                return f"{config_name}: can't be composed: {_message(error)}"
            case RecursionError():
                return f"{config_name}: a config that contains itself"
            case OSError() if error.errno is None:  # OmegaConf's
                return self._place_of_value(str(error))
        return None

    def _place_of_value(self, problem: str) -> str:
        """Which file of the search path is a single value, such as 3, where keys are expected."""
        for path in self._files():
            with contextlib.suppress(yaml.YAMLError, ValueError):
                content = yaml.safe_load(path.read_text(encoding="utf-8"))
                if content is not None and not isinstance(content, list | dict | str):
                    return f"{path}: {content!r} is no mapping; write KEY: VALUE"
        return f"a config file is no mapping of keys to values ({problem})"

    def _files(self) -> Iterator[Path]:
        """Each config file of the search path."""
        for source in self.repository.get_sources():
            if source.scheme() == "file":
                yield from sorted(Path(source.path).rglob("*.yaml"))

    def _place_of(self, error: UnicodeDecodeError) -> str:
        """Which file of the search path it is that can't be decoded, and where in it."""
        for path in self._files():
            content = path.read_bytes()
            start = content.find(error.object)
            if start < 0:
                continue
            before = content[: start + error.start]
            line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
            place = f"{path}, line {line}, column {column}"
            return f"{place}: not UTF-8 text; save the file as UTF-8"
        return "a config file is no UTF-8 text"


def _log_to_output_folder(config: DictConfig) -> None:
    """Let the log of a job lie in its output folder.

    The colorlog plugin names its file as if jobs ran in their folders, which they did before Hydra
    1.2; all jobs would share one file where the command was started.
    """
    handlers = OmegaConf.select(config, "hydra.job_logging.handlers")
    if not OmegaConf.is_dict(handlers):
        return
    written: Any = OmegaConf.to_container(handlers, resolve=False)
    for name, handler in written.items():
        if isinstance(handler, dict) and handler.get("filename") == LOG_OF_JOB:
            handlers[name].filename = OUTPUT_FOLDER + LOG_OF_JOB


def _place_in_yaml(error: yaml.YAMLError) -> str:
    """A YAML error with file, line and column, as far as they are known."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return one_line(error)


def _message(error: BaseException) -> str:
    """An error's message without OmegaConf's notes of where it stands."""
    return one_line(error).split(" full_key:")[0]


@contextlib.contextmanager
def configs_checked(checks: ConfigChecks) -> Iterator[None]:
    """Let these look at each config that `hydra.main` composes, also for each job of a sweep."""
    before = hydra_app.ConfigLoaderImpl  # type: ignore[attr-defined]
    loader = functools.partial(CheckedConfigLoader, checks=checks)
    hydra_app.ConfigLoaderImpl = loader  # type: ignore[attr-defined, assignment]
    try:
        yield
    finally:
        hydra_app.ConfigLoaderImpl = before  # type: ignore[attr-defined]


@contextlib.contextmanager
def job_config(config: DictConfig) -> Iterator[None]:
    """Let `${hydra:…}` have the values of this composed config, as it does while its job runs."""
    hydra_config = HydraConfig.instance()
    before = hydra_config.cfg
    hydra_config.set_config(config)
    try:
        yield
    finally:
        hydra_config.cfg = before


@functools.cache
def registered_targets() -> frozenset[str]:
    """Each `_target_` of the nodes that installed packages have given to Hydra's ConfigStore."""
    Plugins.instance()  # loads them
    targets: set[str] = set()
    pending: list[Any] = list(ConfigStore.instance().repo.values())
    while pending:
        node = pending.pop()
        if isinstance(node, ConfigNode):
            node = OmegaConf.to_container(node.node, resolve=False)
        if isinstance(node, dict):
            pending.extend(node.values())
            targets.add(str(node.get("_target_")))
        elif isinstance(node, list):
            pending.extend(node)
    return frozenset(targets)


def is_rerun_of_pickle() -> bool:
    """Whether the command line asks for `--experimental-rerun`, in full or abbreviated."""
    arguments, _ = get_args_parser().parse_known_args()
    return arguments.experimental_rerun is not None


def single_run_arguments() -> list[str]:
    """What of the command line chooses the configs, and makes a single run of a config that is a
    sweep by itself."""
    given, _ = get_args_parser().parse_known_args()
    arguments = []
    for option in ("config_path", "config_name", "config_dir"):
        value = getattr(given, option)
        if value is not None:
            arguments += [f"--{option.replace('_', '-')}", value]
    return arguments if given.multirun else [*arguments, "hydra.mode=RUN"]


def ends_program() -> bool:
    """Whether `hydra.main` runs this program and would end it for an error, with many lines."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        return False
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not run_and_report.__code__:
        frame = frame.f_back
    return frame is not None
