"""conf/README.md against the schemas and the configs that it describes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cifar_hpo.config import reference
from cifar_hpo.config.fields import flat, key, meant
from cifar_hpo.paths import CONF, KEYS_PAGE

ROW = re.compile(r"\| `([\w.]+)` \|.*\| ([^|]+) \|")
"""A row of the page: its key, and its last cell, which is the meaning."""

GROUP_FILES = sorted(CONF.glob("*/*.yaml"))


def meanings(text: str) -> dict[str, str]:
    """The keys that a text of the page lists, with their meanings."""
    return {found[1]: found[2].strip() for found in map(ROW.fullmatch, text.splitlines()) if found}


def field_of(annotation: str, value: Any) -> dataclasses.Field[Any]:
    """The field of a schema that has this one key."""
    schema = dataclasses.make_dataclass("Schema", [("name", annotation, value)])
    return dataclasses.fields(schema)[0]


def test_the_page_of_keys_is_what_the_schemas_say() -> None:
    assert KEYS_PAGE.read_text(encoding="utf-8") == reference.page(), (
        "conf/README.md is of an earlier schema: python -m cifar_hpo.config.reference --write"
    )


@pytest.mark.parametrize("path", GROUP_FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_key_of_a_group_has_a_meaning_on_the_page(path: Path) -> None:
    keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    keys.pop("defaults", None)
    listed = meanings(reference.page())
    for name in keys:
        assert listed[f"{path.parent.name}.{name}"]


def test_every_hydra_key_that_is_set_has_a_meaning_on_the_page() -> None:
    config = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    listed = meanings(reference.page())
    for path in flat(config["hydra"], "hydra"):
        assert listed[path]


def test_defaults_are_those_of_the_files() -> None:
    page = reference.page()
    assert "| `model.kernel_size` | whole number | ≥ 1, ≤ 32 | `7` |" in page
    optimizers = page.partition("### optimizer=nesterov")[2]
    assert "| `optimizer.momentum` | number | ≥ 0, < 1 | `0.9` |" in optimizers.partition("###")[0]


def test_a_choice_has_the_values_of_the_files_that_it_builds_on(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("# The first\n# of two.\na: 1\nb: [x]\n")
    (tmp_path / "second.yaml").write_text("defaults: [first, _self_]\na: 2\n")
    assert reference.read_choice(tmp_path / "second.yaml").values == {"a": 2, "b": ["x"]}
    assert reference.read_choice(tmp_path / "first.yaml").comment == "The first of two."


@pytest.mark.parametrize(
    ("field", "kind", "allowed"),
    [
        (field_of("int", key("m", low=1, high=2**31 - 1)), "whole number", "≥ 1, ≤ 2147483647"),
        (field_of("float | None", key("m", above=0, below=1)), "number or null", "> 0, < 1"),
        (field_of("bool | None", key("m")), "true, false or null", ""),
        (field_of("str", key("m", choices=("a", "b"))), "text", "`a`, `b`"),
        (field_of("Any", key("m", low=1, whole=True)), "whole number or a list", "≥ 1"),
        (
            field_of("Any | None", key("m", low=0, whole=True, words=("auto",), listed=True)),
            "whole number, a list, `auto` or null",
            "≥ 0",
        ),
        (field_of("Any", key("m", above=0, words=("test",))), "number or `test`", "> 0"),
        (field_of("Any", key("m", choices=())), "text or a list", ""),
    ],
)
def test_types_and_ranges_are_told_in_words(
    field: dataclasses.Field[Any], kind: str, allowed: str
) -> None:
    assert (reference.type_text(field), reference.range_text(field)) == (kind, allowed)


def test_a_key_of_a_free_form_has_no_range() -> None:
    field = field_of("dict[str, Any]", meant("m", {}))
    assert (reference.type_text(field), reference.range_text(field)) == ("mapping", "")
    assert reference.default_of(field) == {}


def test_it_prints_the_page_or_writes_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reference, "KEYS_PAGE", tmp_path / "README.md")
    reference.main([])
    assert capsys.readouterr().out == reference.page()
    assert not (tmp_path / "README.md").exists()
    reference.main(["--write"])
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == reference.page()
