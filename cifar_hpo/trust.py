"""Which code of the user's a config may have called: a `Call` is a target with its arguments.

Trust is given by code and by the folder where a command starts, never by a config:
`allow = ["my_models"]` in `[tool.cifar_hpo]` of its pyproject.toml, and entry points of installed
packages in the group `cifar_hpo.allow`, whose values are prefixes, too. A target must be spelled
below an allowed prefix, and what it names must be defined below one, so that `my_models.os.system`
stays refused. The rule is that of Hydra 1.4's execution whitelist.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cifar_hpo.errors import ConfigError, UserError, named_line, one_line
from cifar_hpo.paths import PROJECT_FILE
from cifar_hpo.processor import quiet_tensorflow, set_tensorflow_switches

ENTRY_POINTS = "cifar_hpo.allow"

TARGET = "_target_"

DOTTED_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
OF_INSTANTIATE = re.compile(r"_[a-z]+_")
"""Keys that say how Hydra's `instantiate` calls a target."""

SPECIAL_NAME = re.compile(r"(^|\.)__")
"""What leads from a function to everything else, such as `__globals__`."""

PRIVATE_FOLDER = "src"
"""Keras and others define in `keras.src.applications` what they offer as `keras.applications`."""


@dataclass(frozen=True)
class Call:
    """A target, as its dotted name, and its arguments by name; among these may be further calls."""

    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, node: Mapping[str, Any]) -> Call:
        """From `{_target_: …, argument: …}` with its interpolations resolved.

        Raises ConfigError for what else Hydra knows beside a target, such as `_partial_`.
        """
        for name in node:
            if name != TARGET and OF_INSTANTIATE.fullmatch(str(name)):
                problem = f"{name} is not taken; give arguments by their names"
                raise ConfigError(str(node[TARGET]), problem)
        arguments = {str(name): _parsed(value) for name, value in node.items() if name != TARGET}
        return cls(node[TARGET], arguments)

    @property
    def targets(self) -> list[str]:
        """Its own, and those of the calls among its arguments."""
        return [self.target, *_targets(self.arguments)]

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.target}({arguments})"


def _parsed(value: Any) -> Any:
    """A value whose dicts with a target have become calls."""
    if isinstance(value, Mapping):
        if TARGET in value:
            return Call.parse(value)
        return {str(name): _parsed(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_parsed(child) for child in value]
    return value


def _targets(value: Any) -> list[str]:
    if isinstance(value, Call):
        return value.targets
    children: Iterable[Any] = value.values() if isinstance(value, Mapping) else ()
    found = []
    for child in value if isinstance(value, list) else children:
        found += _targets(child)
    return found


def call(path: str, wanted: Call, **given: Any) -> Any:
    """Call a target with its arguments and those given, the calls among its arguments first.

    path: of the call in the config, for errors. Raises ConfigError where a target is not allowed,
    takes no such arguments or is not there; what it raises by itself passes.
    """
    function = resolve(path, wanted.target)
    arguments = {name: _called(path, value) for name, value in wanted.arguments.items()}
    return function(**arguments, **given)


def _called(path: str, value: Any) -> Any:
    if isinstance(value, Call):
        return call(path, value)
    if isinstance(value, dict):
        return {name: _called(f"{path}.{name}", child) for name, child in value.items()}
    if isinstance(value, list):
        return [_called(f"{path}[{place}]", child) for place, child in enumerate(value)]
    return value


def is_allowed(target: str) -> bool:
    """Whether a target is spelled below an allowed prefix; nothing is imported."""
    if not DOTTED_NAME.fullmatch(target) or SPECIAL_NAME.search(target):
        return False
    return _has_prefix(target)


def resolve(path: str, target: str) -> Callable[..., Any]:
    """The function or class that a target names, imported.

    path: where the target stands in the config, for errors. Raises ConfigError where it is not
    allowed, by its spelling or by where it is defined, or is not there. What was imported before
    for the same target is returned again.
    """
    if not isinstance(target, str) or not is_allowed(target):
        problem = f"refused: a config does not call {target!r}; {_how_to_allow(target)}"
        raise ConfigError(path, problem)
    found = _find(path, target)
    defined = _definition(found)
    if not defined:
        raise ConfigError(path, f"refused: {target} is no function or class")
    if not _has_prefix(defined) and not _has_prefix(_public(defined)):
        problem = f"refused: {target} is {defined}, which a config does not call"
        raise ConfigError(path, f"{problem}; {_how_to_allow(defined)}")
    return found  # type: ignore[no-any-return]


def code_digest(path: str, target: str) -> str:
    """Of the file that defines a target; empty where there is none to read.

    Raises what `resolve` raises.
    """
    module = sys.modules.get(inspect.unwrap(resolve(path, target)).__module__)
    file = getattr(module, "__file__", None)
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    except OSError:
        return ""


@functools.cache
def allowed_prefixes() -> tuple[str, ...]:
    """Dotted names below which code may be called, of this folder and of installed packages.

    Raises UserError where the folder's pyproject.toml can't be read or says something else.
    """
    from importlib.metadata import entry_points

    prefixes = _of_folder()
    for entry in entry_points(group=ENTRY_POINTS):
        prefixes.append(entry.value)
    return tuple(prefixes)


def _of_folder() -> list[str]:
    """What pyproject.toml of the current folder allows, whose modules can be imported then."""
    import tomllib

    file = Path(PROJECT_FILE)
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: can't be read ({one_line(error)})") from error
    section = project.get("tool", {}).get("cifar_hpo", {})
    prefixes = section.get("allow", []) if isinstance(section, dict) else None
    if not isinstance(prefixes, list) or not all(map(_is_prefix, prefixes)):
        expected = 'expected prefixes of modules, such as allow = ["my_models"]'
        raise UserError(f"{file}: [tool.cifar_hpo] allow is {prefixes!r}; {expected}")
    here = str(Path.cwd())
    if prefixes and here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # as `python -m` has it
    return list(prefixes)


def _is_prefix(value: object) -> bool:
    return isinstance(value, str) and all(part.isidentifier() for part in value.split("."))


def _has_prefix(name: str) -> bool:
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in allowed_prefixes())


def _how_to_allow(name: object) -> str:
    module = str(name).rpartition(".")[0] or str(name)
    if _is_python_s_own(module):
        return "it is Python's own: call it in a function of yours, and allow that"
    return f'to allow it put allow = ["{module}"] into [tool.cifar_hpo] of ./{PROJECT_FILE}'


def _is_python_s_own(module: str) -> bool:
    """Whether it belongs to Python, and not to a user's file of such a name."""
    name = module.partition(".")[0]
    if name not in sys.stdlib_module_names:
        return False
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # of a module without one
        return True
    file = spec.origin if spec else None
    return not file or not Path(file).is_relative_to(Path.cwd())


def _find(path: str, target: str) -> Any:
    """What a dotted name leads to: modules as far as there are, then their attributes."""
    set_tensorflow_switches()  # the user's module may load TensorFlow
    names = target.split(".")
    found: Any = _imported(path, target, names[0])
    for number, name in enumerate(names[1:], start=2):
        inner = ".".join(names[:number])
        if not hasattr(found, name) and isinstance(found, types.ModuleType):
            _imported(path, target, inner)
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigError(path, f"{target}: there is no {inner}") from None
    return found


def _imported(path: str, target: str, module: str) -> types.ModuleType:
    """Raises ConfigError where the module is not there, or can't be imported."""
    try:
        with quiet_tensorflow():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            problem = f"{target}: {module} needs {error.name}, which is not installed"
            raise ConfigError(path, problem) from error
        raise ConfigError(path, f"{target}: there is no {module}") from None
    except Exception as error:
        problem = f"{target}: importing {module} raised {named_line(error)}"
        raise ConfigError(path, problem) from error


def _definition(found: Any) -> str:
    """The dotted name by which a function or class was defined; empty for anything else.

    Of one with decorators, such as functools.cache, that of the innermost.
    """
    found = inspect.unwrap(found)
    is_code = isinstance(found, type | types.FunctionType | types.MethodType)
    if not is_code and not isinstance(found, types.BuiltinFunctionType):
        return ""
    return f"{found.__module__}.{found.__qualname__}"


def _public(defined: str) -> str:
    """The same without a package's folder of private sources."""
    return ".".join(name for name in defined.split(".") if name != PRIVATE_FOLDER)
