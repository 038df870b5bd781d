"""Who may import whom: the layers of the package, its two wings, and what must load late."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from cifar_hpo.paths import PACKAGE

LAYERS = (
    (
        "__init__",
        "errors",
        "paths",
        "console",
        "metrics",
        "table",
        "trial",
        "task",
        "trust",
        "processor",
        "redaction",
        "confusion",
        "database",
        "gpus",
        "hydra_internals",
        "interruption",
        "left_results",
        "owner",
        "printable",
        "reporting",
        "source_redaction",
        "tracebacks",
        "whole_files",
    ),
    ("config",),
    ("study", "data", "workers"),
    ("sweep", "analysis", "training", "tracking"),
    (
        "api",
        "attempt",
        "command",
        "examination",
        "examples",
        "export",
        "objective",
        "predict",
        "report",
        "results",
        "studies",
        "tracked",
        "ui",
        "ui_server",
    ),
    ("__main__", "_hydra"),
)
"""The ground first; a module may import what stands in its own line or in an earlier one."""

WINGS = {
    "orchestration": ("sweep", "analysis", "study", "workers"),
    "training": ("training", "data"),
    "tracking": ("tracking",),
}
"""None of these may import from another."""

FOREIGN = {
    "optuna": ("study", "analysis", "report", "studies", "results"),
    "keras": ("training",),
    "tensorflow": ("training", "predict", "export"),
    "mlflow": ("tracking",),
    "tensorboard": ("tracking",),
    "multiprocessing": ("workers",),
    "ray": ("workers",),
    "submitit": ("workers",),
    "hydra": (
        "__main__",
        "_hydra",
        "command",
        "hydra_internals",
        "objective",
        "tracked",
        "reporting",
        "study",
        "sweep",
        "workers",
        "examination",
        "examples",
    ),
}
"""Which parts may import a library at all."""

HEAVY = ("tensorflow", "keras", "mlflow", "optuna", "numpy", "matplotlib", "scipy")

Imports = dict[str, set[str]]
"""The modules that a module imports, wherever in it, by its own name; all with their package."""


def imports_of(package: Path) -> Imports:
    """Read from the sources, late imports included; those for type checkers alone are not."""
    names = {module_name(path, package) for path in package.rglob("*.py")}
    found: Imports = {}
    for path in package.rglob("*.py"):
        imported: set[str] = set()
        for node in runtime_nodes(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    deeper = f"{node.module}.{alias.name}"
                    imported.add(deeper if deeper in names else node.module)
        found[module_name(path, package)] = imported
    return found


def runtime_nodes(node: ast.AST) -> list[ast.AST]:
    """All nodes below, without what stands under `if TYPE_CHECKING`."""
    nodes = []
    for child in ast.iter_child_nodes(node):
        is_typing = (
            isinstance(child, ast.If)
            and isinstance(child.test, ast.Name)
            and child.test.id == "TYPE_CHECKING"
        )
        if not is_typing:
            nodes += [child, *runtime_nodes(child)]
    return nodes


def module_name(path: Path, package: Path) -> str:
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts if parts[-1] != "__init__" or len(parts) == 2 else parts[:-1])


def part(module: str) -> str:
    """The package or the module of the first level to which a module belongs."""
    return [*module.split("."), "__init__"][1]


def violations(imports: Imports) -> list[str]:
    """Every arrow that may not be, as a sentence."""
    layer = {name: height for height, names in enumerate(LAYERS) for name in names}
    wing = {name: title for title, names in WINGS.items() for name in names}
    wrong = []
    for module, imported in imports.items():
        here = part(module)
        if here not in layer:
            wrong.append(f"{module} has no place in LAYERS")
            continue
        for target in imported:
            library = target.split(".")[0]
            if library in FOREIGN and here not in FOREIGN[library]:
                wrong.append(f"{module} imports {library}")
            if library != "cifar_hpo":
                continue
            there = part(target)
            if layer[there] > layer[here]:
                wrong.append(f"{module} imports {target}, which stands above it")
            if here in wing and there in wing and wing[here] != wing[there]:
                wrong.append(f"{module} ({wing[here]}) imports {target} ({wing[there]})")
    return wrong + circles(imports)


def circles(imports: Imports) -> list[str]:
    """Modules that import one another on some way."""
    own = {name: {t for t in targets if t in imports} for name, targets in imports.items()}
    done: set[str] = set()
    wrong: list[str] = []

    def follow(module: str, way: list[str]) -> None:
        if module in way:
            wrong.append("a circle: " + " imports ".join([*way[way.index(module) :], module]))
            return
        if module not in done:
            for target in sorted(own[module]):
                follow(target, [*way, module])
            done.add(module)

    for module in own:
        follow(module, [])
    return wrong


def test_imports_point_down_and_the_wings_know_nothing_of_each_other() -> None:
    assert violations(imports_of(PACKAGE)) == []


@pytest.mark.parametrize(
    ("module", "target", "sentence"),
    [
        ("cifar_hpo.study.study", "cifar_hpo.sweep.loop", "which stands above it"),
        ("cifar_hpo.trial", "cifar_hpo.config.app", "which stands above it"),
        ("cifar_hpo.sweep.loop", "cifar_hpo.training.trainer", "(orchestration) imports"),
        ("cifar_hpo.data.dataset", "cifar_hpo.study.space", "(training) imports"),
        ("cifar_hpo.tracking.runs", "cifar_hpo.data.dataset", "(tracking) imports"),
        ("cifar_hpo.sweep.plan", "optuna", "imports optuna"),
        ("cifar_hpo.analysis.comparison", "keras.layers", "imports keras"),
        ("cifar_hpo.errors", "cifar_hpo.console", ""),
    ],
)
def test_a_wrong_arrow_is_found(module: str, target: str, sentence: str) -> None:
    imports = imports_of(PACKAGE)
    imports[module].add(target)
    found = [wrong for wrong in violations(imports) if sentence in wrong]
    assert bool(found) == bool(sentence), violations(imports)


def test_a_circle_is_found() -> None:
    imports = imports_of(PACKAGE)
    imports["cifar_hpo.errors"].add("cifar_hpo.console")
    imports["cifar_hpo.console"].add("cifar_hpo.errors")
    assert any(wrong.startswith("a circle: ") for wrong in violations(imports))


def test_the_command_line_loads_nothing_heavy() -> None:
    """So that help, completion and a typo answer at once."""
    code = "import sys, cifar_hpo.__main__; print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.split(".")[0] for name in ended.stdout.split()}
    assert loaded & set(HEAVY) == set()
