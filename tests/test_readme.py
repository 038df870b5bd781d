"""The Markdown pages: links lead somewhere, commands are understood, nothing is of one machine."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins

from cifar_hpo.paths import CONF, PACKAGE, ROOT

FOLDERS = (
    ".",
    ".github",
    "cifar_hpo",
    "cifar_hpo/examples",
    "cifar_hpo/report",
    "conf",
    "mlruns",
    "sweeps",
    "tests",
    "tests/benchmarks",
)
PAGES = [page for folder in FOLDERS for page in sorted(Path(ROOT, folder).glob("*.md"))]
WITH_COMMANDS = (
    "README.md",
    "conf/README.md",
    "sweeps/README.md",
    "sweeps/clusters.md",
    "cifar_hpo/README.md",
    "cifar_hpo/report/README.md",
)

LINK = re.compile(r"\]\(([^)\s]+)\)")
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
TEMPLATE = re.compile(r"\$|\b(?:NAME|STUDY|IMAGE)\b| -cd ")
"""A shell variable, a word that stands for a name, or a folder of the user's configs."""

MACHINE = re.compile(r"(?<![\w.~*>])/(?:home|root|tmp|Users|usr|opt|work|mnt)/")
"""A path that exists on somebody's machine only."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def code_of(text: str) -> list[str]:
    """Every line of a page's blocks of code, and every text between backticks."""
    code: list[str] = []
    for number, part in enumerate(text.replace("\\\n", " ").split("```")):
        is_block = number % 2 == 1
        code += part.splitlines() if is_block else SPAN.findall(part)
    return code


def commands(program: str) -> list[list[str]]:
    """The arguments of every command of the pages that begins with this program."""
    every = []
    for page in WITH_COMMANDS:
        for code in code_of(Path(ROOT, page).read_text(encoding="utf-8")):
            for command in code.removeprefix("$ ").split(" && "):
                arguments = arguments_of(command.strip().removeprefix(".venv/bin/"), program)
                if arguments is not None:
                    every.append(arguments)
    return every


def arguments_of(command: str, program: str) -> list[str] | None:
    """What a command gives to a program; None where it starts another one or is a template."""
    if not command.startswith(program) or TEMPLATE.search(command):
        return None
    words = shlex.split(command, comments=True)
    length = len(program.split())
    return words[length:] if shlex.join(words[:length]) == program else None


def first_value(override: Override) -> str:
    """The override with the first of its values."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return f"{override.get_key_element()}={value.start}"
    if override.is_sweep_override():
        return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
    return override.input_line or ""


def test_there_are_pages_and_commands() -> None:
    assert {"README.md", "conf/README.md", ".github/CONTRIBUTING.md"} <= set(map(name_of, PAGES))
    assert ["-m", "model.filters=4,8,16"] in commands("python -m cifar_hpo")
    assert ["list"] in commands("python -m cifar_hpo.studies")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if not link.startswith(("https://", "http://", "#")):
            assert (page.parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_path_is_of_one_machine(page: Path) -> None:
    assert MACHINE.findall(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("arguments", commands("python -m cifar_hpo"), ids=" ".join)
def test_every_command_of_the_pages_composes(arguments: list[str]) -> None:
    Plugins.instance()
    name = "config"
    if "-cn" in arguments:
        at = arguments.index("-cn")
        name = arguments[at + 1]
        arguments = arguments[:at] + arguments[at + 2 :]
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        compose(name, [first_value(override) for override in parsed], return_hydra_config=True)


@pytest.mark.parametrize(
    "module", ["report", "studies", "results", "ui", "predict", "config.reference"]
)
def test_the_options_of_every_command_of_the_pages_are_known(module: str) -> None:
    known = subprocess.run(
        [sys.executable, "-m", f"cifar_hpo.{module}", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    for arguments in commands(f"python -m cifar_hpo.{module}"):
        if module == "studies":  # options stand behind its commands
            assert arguments[0] in known
            continue
        for argument in arguments:
            if argument.startswith("-"):
                assert argument in known


def test_every_module_stands_in_the_map() -> None:
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w.]+", text))
    modules = {path.stem for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert modules - named == set(), "not in cifar_hpo/README.md"
