"""The place of the results in a Markdown file: `replace_parts` writes its parts anew.

The place lies between two marker lines. In it, each part stands behind a line with its name, and
stays as it is where its studies are not all here: the studies of a page need not be on one machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cifar_hpo.errors import StudyError

BEGIN = "<!-- results: python -m cifar_hpo.results --readme sweeps/README.md -->"
END = "<!-- end of results -->"
NAME = re.compile(r"^<!-- (\w+) -->$", re.MULTILINE)
"""The line before a part."""


def replace_parts(path: Path, parts: Mapping[str, str], order: Sequence[str]) -> list[str]:
    """Put these parts into a file in this order; returns the names of those that stay.

    Raises StudyError where the file has no place for them.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    present, end, after = rest.partition(END)
    if not begin or not end:
        raise StudyError(f"{path} has no lines {BEGIN} and {END}")
    staying = _split(present)
    written = ""
    for name in order:
        part = parts.get(name, staying.get(name))
        if part:
            written += f"<!-- {name} -->\n\n{part}\n\n"
    path.write_text(f"{before}{BEGIN}\n\n{written}{END}{after}", encoding="utf-8")
    return [name for name in order if name in staying and name not in parts]


def _split(text: str) -> dict[str, str]:
    """The parts of what lies between the marker lines, by name."""
    _, *names_and_parts = NAME.split(text)
    names, parts = names_and_parts[::2], names_and_parts[1::2]
    return {name: part.strip() for name, part in zip(names, parts, strict=True)}
