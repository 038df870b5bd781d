"""`python -m cifar_hpo.config.reference`: conf/README.md, written from the schemas and conf/*.yaml.

A `Choice` is a file of a config group with its values; `keys_table` lists the keys of a schema.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cifar_hpo.config.app import OPTIMIZERS, Data, Mlflow, Model, Training
from cifar_hpo.config.fields import bounds, flat
from cifar_hpo.config.sweep import (
    EXTRAS,
    PRUNER_SCHEMAS,
    SAMPLER_SCHEMAS,
    Launcher,
    Pruner,
    RayLauncher,
    Sampler,
    Sweeper,
)
from cifar_hpo.paths import CONF, KEYS_PAGE, KEYS_TEMPLATE
from cifar_hpo.table import Table

KEYS_PLACE = "<!-- keys -->"
"""The line of the template that the tables take the place of."""

COLUMNS = ("key", "type", "range or choices", "default", "meaning")

TYPES = {
    "bool": "true or false",
    "int": "whole number",
    "float": "number",
    "str": "text",
    "list[str]": "list of texts",
    "list[Any]": "list",
    "dict[str, Any]": "mapping",
}
"""Annotations of the schemas in words."""

HYDRA_KEYS = {
    "hydra.job.name": "the app's name in Hydra's logs",
    "hydra.job.chdir": "whether a trial runs in its own output folder",
    "hydra.run.dir": "output folder of a single run",
    "hydra.sweep.dir": "folder of a sweep: its logs, and below it a folder for each trial",
    "hydra.sweep.subdir": "a trial's folder in it, named by the trial's number",
}
"""Hydra's own keys that conf/config.yaml sets."""


@dataclass(frozen=True)
class Choice:
    """A file of a config group: its name, the comment at its head and all values that it gives."""

    name: str
    comment: str
    values: Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the page, or with `--write` put it where it belongs."""
    parser = argparse.ArgumentParser(
        prog="python -m cifar_hpo.config.reference",
        description="All keys with type, range, default and meaning, as Markdown.",
    )
    parser.add_argument("--write", action="store_true", help="write conf/README.md")
    given = parser.parse_args(arguments)
    if given.write:
        KEYS_PAGE.write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())


def page() -> str:
    """The text of conf/README.md: the template, with the tables in their place."""
    template = KEYS_TEMPLATE.read_text(encoding="utf-8")
    return template.replace(KEYS_PLACE, "\n\n".join(sections()))


def sections() -> list[str]:
    """A text for each config group and each schema of a sweep, in the order of the page."""
    chosen = default_choices()
    parts = [groups_table(chosen)]
    schemas = {"model": Model, "data": Data, "training": Training, "mlflow": Mlflow}
    for group, schema in schemas.items():
        choices = read_group(group)
        values = choices[chosen[group]].values
        parts.append(f"## {group}")
        if len(choices) > 1:
            parts.append(choices_table(choices.values(), values))
        parts.append(keys_table(group, schema, values))
    parts += optimizer_sections(read_group("optimizer"), chosen["optimizer"])
    parts += ["## hydra.sweeper", keys_table("hydra.sweeper", Sweeper)]
    parts += ["## hydra/sweeper/sampler", keys_table("hydra.sweeper.sampler", Sampler)]
    parts += option_sections("sampler", SAMPLER_SCHEMAS, Sampler)
    parts += ["## hydra/sweeper/pruner", keys_table("hydra.sweeper.pruner", Pruner)]
    parts += option_sections("pruner", PRUNER_SCHEMAS, Pruner)
    parts += ["## hydra.launcher", keys_table("hydra.launcher", Launcher)]
    parts += ["### hydra/launcher=ray", "Needs ray: `pip install -e '.[ray]'`."]
    parts += [keys_table("hydra.launcher", RayLauncher)]
    parts += ["## Hydra's own keys that are set here", hydra_table()]
    return parts


def default_choices() -> dict[str, str]:
    """The choice of each group that conf/config.yaml makes."""
    chosen: dict[str, str] = {}
    for entry in read_yaml(CONF / "config.yaml")["defaults"]:
        if isinstance(entry, dict):
            chosen |= entry
    return {group: chosen[group] for group in sorted(chosen) if (CONF / group).is_dir()}


def read_group(group: str) -> dict[str, Choice]:
    """The choices of a group by name, in alphabetical order."""
    paths = sorted((CONF / group).glob("*.yaml"))
    return {path.stem: read_choice(path) for path in paths}


def read_choice(path: Path) -> Choice:
    """A file of a group, with the values of those that its own `defaults` name."""
    own = read_yaml(path)
    values: dict[str, Any] = {}
    for name in own.pop("defaults", []):
        if name != "_self_":
            values |= read_choice(path.with_name(f"{name}.yaml")).values
    return Choice(path.stem, head_comment(path), values | own)


def read_yaml(path: Path) -> dict[str, Any]:
    """A config file as it stands; nothing is resolved."""
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    return dict(content)


def head_comment(path: Path) -> str:
    """The comment lines at the head of a file, as one text."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def groups_table(chosen: Mapping[str, str]) -> str:
    """The groups with their choices, the default one in bold."""
    rows: list[Sequence[str]] = []
    for group, default in chosen.items():
        names = list(read_group(group))
        names[names.index(default)] = f"**{default}**"
        rows.append((f"`{group}=`", ", ".join(names)))
    return "## Groups\n\n" + Table(("group", "choices, the default in bold"), rows).to_markdown()


def choices_table(choices: Iterable[Choice], default: Mapping[str, Any]) -> str:
    """What each choice is, and the values in which it differs from the default one."""
    rows: list[Sequence[str]] = []
    for choice in choices:
        differing = []
        for key, value in choice.values.items():
            if default[key] != value:
                differing.append(f"`{key}: {value_text(value)}`")
        rows.append((f"`{choice.name}`", choice.comment, ", ".join(differing)))
    return Table(("choice", "what it is", "differs in"), rows).to_markdown()


def optimizer_sections(choices: Mapping[str, Choice], default: str) -> list[str]:
    """A table for each optimizer, since each has keys of its own; the default one first."""
    parts = ["## optimizer"]
    for name in sorted(choices, key=lambda name: name != default):
        choice = choices[name]
        schema = OPTIMIZERS[choice.values["name"]]
        parts.append(f"### optimizer={name}")
        if choice.comment:
            parts.append(choice.comment)
        parts.append(keys_table("optimizer", schema, choice.values))
    return parts


def option_sections(kind: str, schemas: Mapping[str, type], base: type) -> list[str]:
    """A table for each sampler or pruner, without the keys that all of them have."""
    shared = {field.name for field in dataclasses.fields(base)}
    parts = []
    for name, schema in schemas.items():
        parts.append(f"### hydra/sweeper/{kind}={name}")
        if name in EXTRAS:
            parts.append(f"Needs {', '.join(EXTRAS[name])}: `pip install -e '.[{name}]'`.")
        parts.append(keys_table(f"hydra.sweeper.{kind}", schema, without=shared))
    return parts


def keys_table(
    path: str,
    schema: type,
    values: Mapping[str, Any] | None = None,
    without: Iterable[str] = (),
) -> str:
    """The keys of a schema, a row each.

    values: the defaults, where they stand in conf/ and not in the schema. without: keys that are
    described elsewhere.
    """
    rows: list[Sequence[str]] = []
    for field in dataclasses.fields(schema):
        if "meaning" not in field.metadata or field.name in without:
            continue
        default = default_of(field) if values is None else values[field.name]
        rows.append(
            (
                f"`{path}.{field.name}`",
                type_text(field),
                range_text(field),
                f"`{value_text(default)}`",
                field.metadata["meaning"],
            )
        )
    return Table(COLUMNS, rows).to_markdown()


def hydra_table() -> str:
    """Hydra's own keys that conf/config.yaml sets, with the values that it gives them."""
    values = flat(read_yaml(CONF / "config.yaml")["hydra"], "hydra")
    rows: list[Sequence[str]] = []
    for key, value in values.items():
        rows.append((f"`{key}`", f"`{value_text(value)}`", HYDRA_KEYS[key]))
    return Table(("key", "value", "meaning"), rows).to_markdown()


def default_of(field: dataclasses.Field[Any]) -> Any:
    """What a key is when nobody says."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def type_text(field: dataclasses.Field[Any]) -> str:
    """The type of a key in words; an open one takes a value or a list of such values."""
    name, _, optional = str(field.type).partition(" | ")
    text = open_type_text(field) if name == "Any" else TYPES[name]
    if not optional:
        return text
    return f"{text.replace(' or ', ', ')} or null"


def open_type_text(field: dataclasses.Field[Any]) -> str:
    """The type of a key whose annotation leaves it open, by what its limits ask for."""
    if "words" not in field.metadata:
        return "mapping or null"
    words = field.metadata["words"]
    if words and field.metadata["listed"]:
        return f"whole number, a list or `{'` or `'.join(words)}`"
    if words:
        return f"number or `{'` or `'.join(words)}`"
    if field.metadata["whole"]:
        return "whole number or a list"
    return "text or a list"


def range_text(field: dataclasses.Field[Any]) -> str:
    """What a value may be: the choices, or the limits with their signs; empty for anything."""
    limits = field.metadata
    if limits.get("choices"):
        return f"`{'`, `'.join(limits['choices'])}`"
    return ", ".join(f"{sign} {limit}" for sign, limit in bounds(limits))


def value_text(value: Any) -> str:
    """A value as YAML spells it."""
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    main()
