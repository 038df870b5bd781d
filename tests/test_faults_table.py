"""The table of faults in tests/README.md: each row names tests, and each of them is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
ROW = re.compile(r"^\| (?!fault \|)(?!---)(.+?) \| (.+?) \| (.+) \|$", re.MULTILINE)
PATH = re.compile(r"`([\w/]+\.py)::(\w+)`")

ROWS = ROW.findall((TESTS / "README.md").read_text(encoding="utf-8"))


def names_of_tests(file: Path) -> set[str]:
    """The names of a file's tests, those in classes among them."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            names.add(node.name)
    return names


def test_every_test_that_the_table_names_is_there() -> None:
    named = {(path, name) for *_, tests in ROWS for path, name in PATH.findall(tests)}
    assert len(named) > 50
    missing = []
    for path, name in sorted(named):
        if not (TESTS / path).is_file() or name not in names_of_tests(TESTS / path):
            missing.append(f"{path}::{name}")
    assert missing == []


def test_every_fault_has_a_promise_and_a_test() -> None:
    assert len(ROWS) > 70
    assert [fault for fault, promise, _ in ROWS if not promise.strip()] == []
    assert [fault for fault, _, tests in ROWS if not PATH.search(tests)] == []
