"""The code that a study's trials run, as far as it is the user's or this package's: a `Code` has
its digests, `note_code` says what has changed since.

Other code is no refusal, as another config would be: it is told. Sources are read, not imported.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

import cifar_hpo
from cifar_hpo.config.secrets import TARGET_IN_TEXT
from cifar_hpo.paths import PACKAGE
from cifar_hpo.study.space import Choices, Space
from cifar_hpo.trust import TARGET

if TYPE_CHECKING:  # a sweep is checked before Optuna is loaded
    from cifar_hpo.study.study import Study

MAX_FILES = 500
"""Of an app's sources, those that are looked at."""

MAX_NAMED = 5
"""Files that a line names."""

OWN = ("cifar_hpo", "hydra_plugins")
"""What the digest of the package stands for."""

LIBRARIES = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Code:
    """files: digests of the app's own sources, by their path in the folder from which they are
    imported. package, version: of this package."""

    files: Mapping[str, str] = field(default_factory=dict)
    package: str = ""
    version: str = ""


class _Source(NamedTuple):
    """A module's file, and the folder from which its first package or it is imported."""

    name: str
    file: Path
    folder: Path


def code_of(
    function: Callable[..., Any], configs: Iterable[DictConfig], called: Iterable[str] = ()
) -> Code:
    """The code of a task function: its own module, those of the user's that it imports in turn, and
    those that its configs call by `_target_`.

    called: dotted names of what trials call beside that.
    """
    first = _source_of_function(function)
    folders = [first.folder] if first else []
    pending = [first] if first else []
    names = dict.fromkeys(called)  # in their order, each once
    for config in configs:
        names |= dict.fromkeys(targets(OmegaConf.to_container(config, resolve=False)))
    for name in names:
        pending += _sources(name, folders)
    files: dict[str, str] = {}
    while pending and len(files) < MAX_FILES:
        source = pending.pop()
        name = source.file.relative_to(source.folder).as_posix()
        if name in files:
            continue
        content = source.file.read_bytes()
        files[name] = _digest([content])
        for imported in _imported(content, source):
            pending += _sources(imported, folders)
    modules = sorted(PACKAGE.rglob("*.py"))
    package = _digest(module.read_bytes() for module in modules)
    return Code(dict(sorted(files.items())), package, cifar_hpo.__version__)


def varied_targets(space: Space) -> list[str]:
    """What the values of a space's dimensions call, as dotted names."""
    found = []
    for key, dimension in space.dimensions.items():
        for value in dimension.texts if isinstance(dimension, Choices) else ():
            if key.rpartition(".")[2] == TARGET:
                found.append(str(value).strip("'\""))
            else:
                found += TARGET_IN_TEXT.findall(str(value))
    return found


def note_code(study: Study, code: Code) -> list[str]:
    """Note what code the study's trials run from now on.

    Returns a line for the app and one for this package, where counted trials ran other code.
    """
    history = study.attributes.code()
    if not history or _code(history[-1]) != code:
        study.attributes.add_code(asdict(code))
        history = study.attributes.code()
    app: list[Code] = []
    package: list[Code] = []
    for trial in study.finished_trials():
        then = _code_of_trial(history, trial.number)
        if then is not None and then.files != code.files:
            app.append(then)
        if then is not None and then.package != code.package:
            package.append(then)
    lines = []
    if app:
        changed = {name for then in app for name in _differing(then.files, code.files)}
        lines.append(_line("code", _listed(sorted(changed)), len(app)))
    if package:
        versions = sorted({then.version for then in package} - {code.version})
        changed_to = " → ".join([*versions, code.version])
        lines.append(_line("cifar_hpo", changed_to, len(package)))
    return lines


def _line(what: str, changed: str, trials: int) -> str:
    count = f"{trials} trial is" if trials == 1 else f"{trials} trials are"
    return f"{what} changed since this study began: {changed}; {count} of the earlier code"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _code(entry: Mapping[str, Any]) -> Code:
    return Code(entry["files"], entry["package"], entry["version"])


def _code_of_trial(history: Sequence[Mapping[str, Any]], number: int) -> Code | None:
    """The code that was noted last before a trial began; None where none was."""
    then = None
    for entry in history:
        if entry["first"] <= number:
            then = _code(entry)
    return then


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> set[str]:
    return {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}


def _source_of_function(function: Callable[..., Any]) -> _Source | None:
    """None where it has no file of the user's, as in a notebook or in this package."""
    function = inspect.unwrap(function)
    name = getattr(function, "__module__", None) or type(function).__module__
    module = sys.modules.get(name)
    file = Path(getattr(module, "__file__", None) or "")
    if name == "__main__":  # of `python -m package.module` the name is in its spec
        spec = getattr(module, "__spec__", None)
        name = spec.name if spec else file.stem
    if not file.is_file() or _is_of_others(file):
        return None
    depth = len(name.split(".")) + (file.name == "__init__.py")
    return _Source(name, file.resolve(), file.resolve().parents[depth - 1])


def _sources(name: str, folders: Sequence[Path]) -> list[_Source]:
    """The sources of a dotted name, its packages' among them, as far as they are the user's.

    folders: where to look before Python's own search path.
    """
    first, *rest = name.split(".")
    folder = _folder_of(first, folders) if first not in OWN else None
    if folder is None:
        return []
    found = []
    for length in range(len(rest) + 1):
        path = folder.joinpath(first, *rest[:length])
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                found.append(_Source(".".join([first, *rest[:length]]), file, folder))
                break
    return found


def _folder_of(package: str, folders: Sequence[Path]) -> Path | None:
    """Where a module or package of the user's is imported from; None for those of libraries."""
    for folder in folders:
        if (folder / f"{package}.py").is_file() or (folder / package).is_dir():
            return folder
    if package in sys.stdlib_module_names:
        return None
    with contextlib.suppress(ImportError, ValueError, AttributeError):
        spec = importlib.util.find_spec(package)
        origins = [spec.origin] if spec and spec.origin else []
        origins += list(spec.submodule_search_locations or []) if spec else []
        for origin in origins:
            path = Path(origin).resolve()
            if path.exists() and not _is_of_others(path):
                return path.parents[1] if path.name == "__init__.py" else path.parent
    return None


def _is_of_others(file: Path) -> bool:
    """Whether a file is Python's, a library's or this package's."""
    resolved = file.resolve()
    if any(part in LIBRARIES for part in resolved.parts) or resolved.is_relative_to(PACKAGE):
        return True
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    return resolved.is_relative_to(standard)


def _imported(content: bytes, source: _Source) -> Iterator[str]:
    """The dotted names that a module imports, wherever in it, of which the last part may be a
    function; none where it can't be parsed."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    is_package = source.file.name == "__init__.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = source.name.split(".")
                kept = len(parents) - node.level + is_package
                base = ".".join([*parents[:kept], *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names if base)


def targets(node: Any) -> Iterator[str]:
    """What a config calls by `_target_`, as dotted names."""
    if isinstance(node, dict):
        target = node.get(TARGET)
        if isinstance(target, str) and target.isascii():
            yield target
    children: Iterable[Any] = node.values() if isinstance(node, dict) else ()
    for child in node if isinstance(node, list) else children:
        yield from targets(child)


def _digest(contents: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:12]
