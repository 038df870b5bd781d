"""What runs before a change is taken: an audit of what is installed, exemptions from bandit."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from cifar_hpo.paths import ROOT

PIP_AUDIT = """#!/usr/bin/env bash
case "$*" in
    "-m pip freeze"*) echo "keras==3.15.1" ;;
    *--strict*) echo "strict $(cat "${{@: -1}}")"; exit {found} ;;
    *) echo '{told}'; exit 1 ;;
esac
"""
"""Stands in for the environment's Python: what pip-audit says of a version with known
vulnerabilities, and how it ends for what is installed."""

SKIPPED = "audit skipped: the index of packages does not tell of vulnerabilities\n"
KNOWN = "pip 19.0 PYSEC-2020-1 20.0"


@pytest.mark.parametrize(
    ("told", "found", "environment", "expected"),
    [
        (KNOWN, 0, {}, (0, "strict keras==3.15.1\n")),
        (KNOWN, 1, {}, (1, "strict keras==3.15.1\n")),
        ("pip not found", 1, {}, (0, SKIPPED)),
        ("pip not found", 1, {"GITHUB_ACTIONS": "true"}, (1, "strict keras==3.15.1\n")),
    ],
)
def test_the_audit_fails_where_something_is_found_and_says_where_it_is_skipped(
    told: str,
    found: int,
    environment: dict[str, str],
    expected: tuple[int, str],
    tmp_path: Path,
) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "audit", tmp_path / ".ci")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP_AUDIT.format(told=told, found=found))
    python.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if name != "GITHUB_ACTIONS"}
    shown = subprocess.run(
        [tmp_path / ".ci" / "audit"],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert shown.stderr == ""
    assert (shown.returncode, shown.stdout) == expected


def test_every_exemption_from_bandits_rules_has_its_reason() -> None:
    without = []
    for folder in ("cifar_hpo", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line in path.read_text(encoding="utf-8").splitlines():
                if re.search(r"# noqa: (?:\w+, *)*S\d{3}(?:, *\w+)*\s*$", line):
                    without.append(f"{path.relative_to(ROOT)}: {line.strip()}")
    assert without == []
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lint = tomllib.loads(settings)["tool"]["ruff"]["lint"]
    exempt = [*lint["ignore"], *itertools.chain(*lint["per-file-ignores"].values())]
    rules = [rule for rule in exempt if re.fullmatch(r"S\d*", rule)]
    assert rules, "tests are exempt from some"
    for rule in rules:
        assert re.search(rf'"{rule}",.*# \w', settings), f"{rule} has no reason"


def test_the_workflow_runs_what_a_contributor_runs() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    commands = [step.get("run") for job in jobs.values() for step in job["steps"]]
    assert ".ci/run" in commands
    assert ".venv/bin/python -m pytest -m long" in commands
    assert ".ci/audit" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
