"""What a config must not hold: passwords, which would end in logs and runs, and calls.

Hydra calls what a config names: callbacks, the classes of logs, sweeper and launcher. Configs are
looked at as they were parsed, before Hydra does. What else a config may have called `trust` says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from omegaconf import OmegaConf

from cifar_hpo import trust
from cifar_hpo.config.fields import as_list
from cifar_hpo.errors import ConfigError
from cifar_hpo.hydra_internals import OUTPUT_FOLDER, registered_targets
from cifar_hpo.redaction import has_secret
from cifar_hpo.trust import TARGET

LOGS = ("hydra.job_logging", "hydra.hydra_logging")
LOG_CLASSES = (
    "logging.Formatter",
    "logging.StreamHandler",
    "logging.FileHandler",
    "logging.NullHandler",
    "colorlog.ColoredFormatter",
)
LOG_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
ENVIRONMENT = ("hydra.job.env_set", "hydra.job.env_copy")
NAMES = ("hydra.output_subdir", "hydra.job.name")
"""Become names of a folder and of a file in the output folder."""
CALLBACKS = "hydra.callbacks."
SPACE = ("hydra.sweeper.params.", "hydra.sweeper.cells[", "hydra.sweeper.enqueue[")
"""Below these stand keys of the app, which become overrides."""
CHOICES = re.compile(r"\s*(?:choice|shuffle|sort)\((.*)\)\s*")
"""Hydra's words for several values."""

TARGET_IN_TEXT = re.compile(TARGET + r"['\"]?\s*[:=]\s*['\"]?([\w.]+)")

DECODED_VARIABLE = re.compile(r"\$\{oc\.decode:\s*\$\{oc\.env:[^{}]*\}\s*\}")
MADE_OF_TEXT = re.compile(r"oc\.(?:create|decode)|\$\{[^:{}]*\$\{")
"""Interpolations that make dicts of texts, and ones whose own name is interpolated: they could hide
a call. A variable of the environment may be decoded, to be a number."""


def refuse_secrets_and_calls(config: Any) -> None:
    """Raise ConfigError where a URI spells out a password, or something names code to be called.

    Configs are written to logs, runs and artifacts, where a password would be read. An
    interpolation such as `${oc.env:NAME}` stays as it is in all of these, so it may hold one.

    Of Hydra's own part, what installed packages have registered with Hydra may be called; logs may
    have Hydra's own classes, and files in the output folder; nothing may be put into the
    environment; the folder of the configs' copies is one in the output folder.

    config: an OmegaConf config, or nested dicts, with or without Hydra's part.
    """
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    _refuse_parts_that_are_none(config.get("hydra"))
    for path, key, value in _leaves(config, ""):
        _refuse_call(path, key, value)
        if path.startswith(LOGS):
            _refuse_call_of_log(path, key, value)
        if path.startswith(ENVIRONMENT) and value not in ({}, []):
            problem = "refused: set environment variables where you start the command"
            raise ConfigError(path, problem)
        if path in NAMES and isinstance(value, str) and _leaves_folder(value):
            raise ConfigError(path, f"{value!r} is no plain name of a file or folder")
        if isinstance(value, str) and has_secret(value):
            hint = "put the URI in an environment variable and write '${oc.env:NAME}'"
            raise ConfigError(path, f"carries a password, which would end in logs and runs; {hint}")


def refuse_search_path_of_packages(file: Any) -> None:
    """Raise ConfigError where a config file searches packages, whose code would be imported."""
    paths: Any = OmegaConf.select(file, "hydra.searchpath") if OmegaConf.is_dict(file) else None
    if isinstance(paths, str) or OmegaConf.is_list(paths):
        for path in as_list(paths):
            if not str(path).startswith("file://") and "://" in str(path):
                problem = f"refused: {path}; a config file may search file:// paths alone"
                raise ConfigError("hydra.searchpath", problem)


def _refuse_parts_that_are_none(hydra: Any) -> None:
    """Raise ConfigError for a sweeper, launcher or log that Hydra could not begin with."""
    if not isinstance(hydra, dict):
        return
    for part in ("sweeper", "launcher", "job_logging", "hydra_logging"):
        given = hydra.get(part, {})
        is_log_without_root = part.endswith("logging") and given and "root" not in given
        if not isinstance(given, dict) or is_log_without_root:
            problem = f"{str(given)[:60]!r} is none; choose one by hydra/{part}=NAME"
            raise ConfigError(f"hydra.{part}", problem)


def _leaves(node: Any, path: str, key: str = "") -> Iterator[tuple[str, str, Any]]:
    """Each value of nested dicts and lists with its path and its key; an empty dict or list is
    one."""
    if isinstance(node, dict) and node:
        for name, child in node.items():
            last = str(name).rpartition(".")[2]  # an override's key is a path
            yield from _leaves(child, f"{path}.{name}" if path else str(name), last)
    elif isinstance(node, list) and node:
        for place, child in enumerate(node):
            yield from _leaves(child, f"{path}[{place}]", key)
    else:
        yield path, key, node


def _refuse_call(path: str, key: str, value: Any) -> None:
    """Raise ConfigError for a `_target_`, also one in a text, which could become an override, that
    is not allowed."""
    if key == TARGET and value is None:
        return  # it stands in a schema, and nobody has given it
    is_app_s = not path.startswith("hydra.") or path.startswith((CALLBACKS, *SPACE))
    if key == TARGET and not is_app_s:
        if str(value) not in registered_targets():  # an empty list is one, too
            problem = f"refused: no installed package has registered {value!r} with Hydra"
            raise ConfigError(path, problem)
    elif key == TARGET:
        text = str(value)
        choices = CHOICES.fullmatch(text)
        _refuse_targets(path, (choices[1] if choices else text).split(","))
    elif TARGET in key:
        raise ConfigError(path, "refused: a config does not call functions")
    elif isinstance(value, str) and TARGET in value:
        targets = TARGET_IN_TEXT.findall(value)
        if len(targets) != value.count(TARGET):
            raise ConfigError(path, "refused: a config does not call functions")
        _refuse_targets(path, targets)
    if isinstance(value, str) and MADE_OF_TEXT.search(DECODED_VARIABLE.sub("", value)):
        problem = "refused: of texts only ${oc.decode:${oc.env:NAME}} becomes a value"
        raise ConfigError(path, problem)


def _refuse_targets(path: str, targets: Sequence[str]) -> None:
    """Raise ConfigError for the first target that is not allowed.

    A single one stands in a config and is about to be called, so it is imported, too; several are
    the choices of an override.
    """
    for target in targets:
        name = target.strip(" '\"")
        if len(targets) == 1 or not trust.is_allowed(name):
            trust.resolve(path, name)


def _refuse_call_of_log(path: str, key: str, value: Any) -> None:
    """Raise ConfigError for what `logging.config` would call or import, or a file elsewhere."""
    text = value if isinstance(value, str) else ""
    if key == "filename":
        name = text.removeprefix(OUTPUT_FOLDER).replace("${hydra.job.name}", "NAME")
        if not text.startswith(OUTPUT_FOLDER) or _leaves_folder(name) or not name.endswith(".log"):
            problem = f"refused: {value!r}; a log's file is {OUTPUT_FOLDER}NAME.log"
            raise ConfigError(path, problem)
    elif key in ("()", "class") and value not in LOG_CLASSES:
        problem = f"refused: {value!r}; a log has the classes {', '.join(LOG_CLASSES)}"
        raise ConfigError(path, problem)
    elif "${" in text or ("://" in text and text not in LOG_STREAMS):
        problem = f"refused: {value!r}; a log goes to a file, {' or '.join(LOG_STREAMS)}"
        raise ConfigError(path, problem)


def _leaves_folder(name: str) -> bool:
    """Whether a name, joined to a folder, is more than a name within it."""
    return name != PurePath(name).name or name == ".." or "${" in name
