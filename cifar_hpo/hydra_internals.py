"""What is used of Hydra beyond its documented interface, and where its versions 1.3 and 1.4 differ.

tests/test_hydra_internals.py says what broke when a new Hydra changes one of these.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import yaml
from hydra._internal import hydra as hydra_app
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser, run_and_report
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from cifar_hpo.errors import UserError, message_of, one_line
from cifar_hpo.paths import short_path
from cifar_hpo.trust import PRIVATE_FOLDER

HAS_WHITELIST = "execution_whitelist" in inspect.signature(hydra.main).parameters
"""Whether trusted code tells Hydra what a config may have called, as from Hydra 1.4 on. Such a
Hydra warns of the `version_base` that earlier ones need."""


TELLS_OF_EVERY_END = HAS_WHITELIST
"""Whether callbacks are told of a sweep's end also where it raises, as from Hydra 1.4 on."""


def hydra_main(
    task: Callable[[DictConfig], Any],
    config_path: str,
    config_name: str,
    allowed_prefixes: Callable[[], Sequence[str]],
) -> Callable[[], None]:
    """`hydra.main` on a task function, with the behaviour of Hydra 1.3 or later.

    allowed_prefixes: gives the dotted names below which a config may have code called.
    """
    options: dict[str, Any] = {"version_base": "1.3"}
    if HAS_WHITELIST:
        options = {"execution_whitelist": execution_whitelist(allowed_prefixes())}
    decorate = hydra.main(config_path=config_path, config_name=config_name, **options)
    return decorate(task)  # type: ignore[no-any-return]


def execution_whitelist(prefixes: Sequence[str]) -> list[str]:
    """What may be called below these prefixes, and what installed packages have registered, as
    Hydra 1.4 spells it."""
    patterns = sorted(registered_targets())
    for prefix in prefixes:
        package, _, rest = prefix.partition(".")
        patterns += [prefix, f"{prefix}.*"]
        if rest:
            patterns.append(f"{package}.{PRIVATE_FOLDER}.{rest}.*")
    return patterns


def store_config(group: str, name: str, node: Any) -> None:
    """Let a group have this choice in any Hydra app.

    A launcher's process restores what its parent has stored, and scans the plugins then, which
    store theirs again.
    """
    options: dict[str, Any] = {"replace": True} if HAS_WHITELIST else {}
    ConfigStore.instance().store(name, node, group=group, provider="cifar_hpo", **options)


def return_value(returned: JobReturn) -> Any:
    """What a job returned or raised; Hydra's own property prints and raises the latter."""
    return returned._return_value  # noqa: SLF001


def parsed_value(override: Override) -> Any:
    """What Hydra's parser made of an override's text; its own `value()` forgets quotes."""
    return override._value  # noqa: SLF001


COMMAND_LINE = "command-line"
"""What Hydra calls where a folder of configs is from that -cd names."""

SEARCH_PATH = "hydra.searchpath="

LOG_OF_JOB = "${hydra.job.name}.log"
OUTPUT_FOLDER = "${hydra.runtime.output_dir}/"


def range_value(sweep: RangeSweep, value: float) -> float:
    """What a range has for one of its numbers: `int(range(…))` casts each, from Hydra 1.4 on, where
    it cast the range's ends before."""
    for transformer in getattr(sweep, "transformers", ()):
        value = transformer(value)
    return value


class ConfigChecks(NamedTuple):
    """What looks at configs before anything that they name is imported or called.

    of_file: at the file that the command names, before Hydra follows its search path. of_config: at
    each composed config, Hydra's own part included. Both raise UserError.
    """

    of_file: Callable[[Any], None]
    of_config: Callable[[DictConfig], None]


OF_ANOTHER_FORM = (ValueError, TypeError, LookupError, AssertionError, AttributeError)
"""Errors of Hydra's own for configs of another form than it expects."""


class CheckedConfigLoader(ConfigLoaderImpl):
    """Hydra's, with checks, and with errors of files and of their composition on one line.

    checks: those of `configs_checked` where they are not given.
    """

    checks = ConfigChecks(of_file=lambda _: None, of_config=lambda _: None)

    def __init__(self, config_search_path: Any, checks: ConfigChecks | None = None) -> None:
        super().__init__(config_search_path)
        self.checks = checks or type(self).checks  # goes along to other processes

    def _process_config_searchpath(
        self, config_name: str | None, parsed_overrides: list[Override], repo: Any
    ) -> None:
        file = repo.load_config(config_name) if config_name else None
        if file is not None:
            self.checks.of_file(file.config)
        super()._process_config_searchpath(config_name, parsed_overrides, repo)

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any
    ) -> DictConfig:
        compose = super().load_configuration
        if hasattr(ConfigLoaderImpl, "_load_configuration"):
            return compose(config_name, overrides, *args, **kwargs)  # by the method below
        return self._checked(config_name, lambda: compose(config_name, overrides, *args, **kwargs))

    # Hydra 1.3 has none of the following; 1.4 reads the file in each.

    def _load_configuration(self, config_name: str | None, **given: Any) -> DictConfig:
        compose = super()._load_configuration  # type: ignore[misc]
        return self._checked(config_name, lambda: compose(config_name, **given))

    def parse_overrides(
        self, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any
    ) -> list[Override]:
        parse = super().parse_overrides  # type: ignore[misc]
        with self._errors_on_one_line(config_name), contextlib.suppress(*OF_ANOTHER_FORM):
            return parse(config_name, overrides, *args, **kwargs)  # type: ignore[no-any-return]
        return OverridesParser.create().parse_overrides(overrides)  # composing says what is wrong

    def get_mode(self, config_name: str | None, *args: Any, **kwargs: Any) -> Any:
        get = super().get_mode  # type: ignore[misc]
        with self._errors_on_one_line(config_name), contextlib.suppress(*OF_ANOTHER_FORM):
            return get(config_name, *args, **kwargs)
        return None

    def _checked(self, config_name: str | None, compose: Callable[[], DictConfig]) -> DictConfig:
        with self._errors_on_one_line(config_name):
            config = compose()
        with read_write(config):
            _log_to_output_folder(config)
        self.checks.of_config(config)
        return config

    @contextlib.contextmanager
    def _errors_on_one_line(self, config_name: str | None) -> Iterator[None]:
        """Raise UserError for what is wrong with a file, or with what is composed of files."""
        try:
            yield
        except (UserError, OmegaConfBaseException):
            raise
        except HydraException as error:
            cause = error.__cause__
            if not isinstance(cause, OmegaConfBaseException) or "Could not" in str(error):
                raise
            what = one_line(error) if str(error) else cause.full_key or config_name
            raise UserError(f"{what}: {message_of(cause)}") from error
        except Exception as error:
            problem = self._problem(config_name, error)
            if problem is None:
                raise
            raise UserError(problem) from error

    def _problem(self, config_name: str | None, error: Exception) -> str | None:
        """What is wrong with a config that Hydra stumbled over; None where it is no config's."""
        match error:
            case yaml.YAMLError():
                return _place_in_yaml(error)
            case UnicodeDecodeError():
                return self._place_of(error)
            case _ if isinstance(error, OF_ANOTHER_FORM):
                return f"{config_name}: can't be composed: {message_of(error)}"
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


@contextlib.contextmanager
def configs_checked(checks: ConfigChecks) -> Iterator[None]:
    """Let these look at each config that `hydra.main` composes, also for each job of a sweep."""
    checks_before = CheckedConfigLoader.checks
    class_before = hydra_app.ConfigLoaderImpl  # type: ignore[attr-defined]
    hydra_app.ConfigLoaderImpl = CheckedConfigLoader  # type: ignore[attr-defined]
    CheckedConfigLoader.checks = checks
    try:
        yield
    finally:
        hydra_app.ConfigLoaderImpl = class_before  # type: ignore[attr-defined]
        CheckedConfigLoader.checks = checks_before


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
            if node.get("_target_"):
                targets.add(str(node["_target_"]))
        elif isinstance(node, list):
            pending.extend(node)
    return frozenset(targets)


def is_rerun_of_pickle() -> bool:
    """Whether the command line asks for `--experimental-rerun`, in full or abbreviated, which reads
    a pickle up to Hydra 1.3."""
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


def search_arguments(hydra: Mapping[str, Any]) -> list[str]:
    """What of a command line says where configs are searched: `-cd` and `hydra.searchpath`.

    hydra: Hydra's own part of a composed config.
    """
    arguments = []
    for source in hydra["runtime"]["config_sources"]:
        if source["provider"] == COMMAND_LINE:
            arguments += ["-cd", str(short_path(Path(source["path"])))]
    for override in hydra_overrides(hydra):
        if override.lstrip("+").startswith(SEARCH_PATH):
            arguments.append(override)
    return arguments


def hydra_overrides(hydra: Mapping[str, Any]) -> list[str]:
    """A command line's overrides of Hydra's own keys as they were typed: what they interpolate may
    not be known yet."""
    overrides: Any = hydra["overrides"]["hydra"]
    if OmegaConf.is_config(overrides):
        overrides = OmegaConf.to_container(overrides, resolve=False)
    return [str(override) for override in overrides or []]
