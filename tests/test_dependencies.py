"""What the package imports against what pyproject.toml declares."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

from cifar_hpo.paths import PACKAGE, ROOT

OWN = {"cifar_hpo", "hydra_plugins"}


def imported_libraries() -> set[str]:
    """The top modules that the sources import, without Python's own and ours."""
    names: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "examples":  # one of which is for those who have an extra
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - OWN


def declared_distributions() -> set[str]:
    """The names of the package's dependencies, without versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {normal(re.split(r"[<>=!~\[; ]", wanted)[0]) for wanted in project["dependencies"]}


def extras() -> set[str]:
    """The names of what the extras for users bring, without versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names: set[str] = set()
    for extra, dependencies in project["optional-dependencies"].items():
        if extra != "test":
            names.update(normal(re.split(r"[<>=!~\[; ]", wanted)[0]) for wanted in dependencies)
    return names


def normal(name: str) -> str:
    """A distribution's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_library_that_is_imported_is_declared() -> None:
    distributions = packages_distributions()
    declared = declared_distributions() | extras()
    undeclared = []
    for library in sorted(imported_libraries()):
        offered_by = {normal(name) for name in distributions.get(library, [library])}
        if not offered_by & declared:
            undeclared.append(library)
    assert undeclared == [], "imported, and not among pyproject.toml's dependencies"


def test_every_library_that_is_declared_is_imported() -> None:
    distributions = packages_distributions()
    imported: set[str] = set()
    for library in imported_libraries():
        imported.update(normal(name) for name in distributions.get(library, [library]))
    assert declared_distributions() - imported == set(), "declared, and nowhere imported"
