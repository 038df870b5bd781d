"""Which code of the user's a config may have called."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from cifar_hpo import trust
from cifar_hpo.config.secrets import refuse_secrets_and_calls
from cifar_hpo.errors import ConfigError, UserError
from cifar_hpo.trust import Call

MODELS = """
import os
from collections import OrderedDict
from functools import cache, partial
from os import system as build_quickly
from their_models import resnet as theirs

class Net:
    def __init__(self, depth, inner=None, shape=None):
        self.values = depth, inner, shape

    @classmethod
    def small(cls, **given):
        return cls(2, **given)

class Odd(OrderedDict):
    pass

def block(width):
    return f"block of {width}"

def fails():
    raise RuntimeError("no luck")

@cache
def kept():
    return "kept"

variable = cache(os.getenv)
half = partial(block, 1)
table = {}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that allows the user's models, as the current one."""
    (tmp_path / "pyproject.toml").write_text('[tool.cifar_hpo]\nallow = ["our_models"]\n')
    (tmp_path / "our_models.py").write_text(MODELS)
    (tmp_path / "their_models.py").write_text("def resnet(): pass\n")
    (tmp_path / "broken_models.py").write_text("import no_such_library\n")
    (tmp_path / "wrong_models.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("our_models", "their_models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    trust.allowed_prefixes.cache_clear()
    return tmp_path


def allow(folder: Path, text: str) -> None:
    (folder / "pyproject.toml").write_text(text)
    trust.allowed_prefixes.cache_clear()


def test_what_is_allowed_is_called_with_its_arguments_and_those_given() -> None:
    node = {"_target_": "our_models.Net", "depth": 3, "inner": {"_target_": "our_models.block"}}
    node["inner"] |= {"width": 8}  # type: ignore[operator]
    built = trust.call("model", Call.parse(node), shape=(8, 8, 1))
    assert built.values == (3, "block of 8", (8, 8, 1))
    assert trust.call("model", Call("our_models.Net.small")).values == (2, None, None)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "our_models.os.system",
        "our_models.build_quickly",
        "our_models.theirs",
        "our_models.partial",
        "our_models.half",
        "our_models.table",
        "our_models.Odd.fromkeys",
        "our_models.block.__globals__",
        "our_models.Net.__init__",
        "our_models_of_others.block",
        "our_models",
        "our_models.",
        "our_models. os.system",
        "their_models.resnet",
        "${oc.env:HOME}",
        "",
    ],
)
def test_anything_else_is_refused_however_it_is_spelled(target: str) -> None:
    with pytest.raises(ConfigError, match=r"^model: refused: "):
        trust.resolve("model", target)
    with pytest.raises(ConfigError, match="refused"):
        refuse_secrets_and_calls({"model": {"_target_": target}})


def test_the_refusal_has_the_line_that_would_allow_it() -> None:
    with pytest.raises(ConfigError) as refused:
        trust.resolve("model", "our_models.theirs")
    line = 'put allow = ["their_models"] into [tool.cifar_hpo] of ./pyproject.toml'
    assert line in str(refused.value)


@pytest.mark.parametrize("target", ["os.system", "our_models.build_quickly", "builtins.eval"])
def test_no_line_is_given_that_would_allow_all_of_a_module_of_python_s(target: str) -> None:
    with pytest.raises(ConfigError) as refused:
        trust.resolve("model", target)
    assert "allow =" not in str(refused.value)
    assert "it is Python's own: call it in a function of yours, and allow that" in str(
        refused.value
    )


@pytest.mark.parametrize("key", ["_partial_", "_args_", "_convert_", "_recursive_"])
def test_hydra_s_other_words_are_no_arguments(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^our_models\.Net: {key} is not taken"):
        Call.parse({"_target_": "our_models.Net", key: True})


def test_what_a_decorator_wraps_is_looked_at() -> None:
    assert trust.call("data", Call("our_models.kept")) == "kept"
    with pytest.raises(ConfigError, match=r"is os\.getenv|is posix|is os\."):
        trust.resolve("data", "our_models.variable")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("our_models.resnt", "there is no our_models.resnt"),
        ("our_models.Net.large", "there is no our_models.Net.large"),
        ("broken_models.net", "broken_models needs no_such_library"),
        ("wrong_models.net", "importing wrong_models raised ZeroDivisionError"),
        ("missing_models.net", "there is no missing_models"),
    ],
)
def test_what_is_not_there_is_told(folder: Path, target: str, told: str) -> None:
    names = ["our_models", "broken_models", "wrong_models", "missing_models"]
    allow(folder, f"[tool.cifar_hpo]\nallow = {names}\n")
    with pytest.raises(ConfigError, match="^training: .*" + told):
        trust.resolve("training", target)


def test_what_a_package_offers_above_its_private_sources_is_allowed_there(folder: Path) -> None:
    inner = folder / "big_library" / "src" / "nets"
    inner.mkdir(parents=True)
    (inner / "resnet.py").write_text("def ResNet(): return 'a net'\n")
    (inner.parent / "files.py").write_text("def remove(): pass\n")
    nets = folder / "big_library" / "nets"
    nets.mkdir()
    offered = "from big_library.src.nets.resnet import ResNet\nfrom big_library.src import files\n"
    (nets / "__init__.py").write_text(offered)
    allow(folder, '[tool.cifar_hpo]\nallow = ["big_library.nets"]\n')
    assert trust.call("model", Call("big_library.nets.ResNet")) == "a net"
    with pytest.raises(ConfigError, match=r"is big_library\.src\.files\.remove"):
        trust.resolve("model", "big_library.nets.files.remove")


@pytest.mark.parametrize(
    "text",
    [
        "[tool.cifar_hpo]\nallow = 'our_models'\n",
        "[tool.cifar_hpo]\nallow = [1]\n",
        "[tool.cifar_hpo]\nallow = ['']\n",
        "[tool.cifar_hpo]\nallow = ['our models']\n",
        "[tool]\ncifar_hpo = 3\n",
        "[tool.cifar_hpo\n",
    ],
)
def test_a_wrong_list_is_told(folder: Path, text: str) -> None:
    allow(folder, text)
    with pytest.raises(UserError, match=r"^pyproject\.toml: "):
        trust.is_allowed("our_models.block")


@pytest.mark.parametrize("text", ["", "[tool.other]\nallow = ['our_models']\n"])
def test_a_folder_without_a_list_allows_nothing(folder: Path, text: str) -> None:
    allow(folder, text)
    assert not trust.is_allowed("our_models.block")


def test_an_installed_package_may_allow_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = folder / "their_models-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their_models\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[cifar_hpo.allow]\nmodels = their_models\n")
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    trust.allowed_prefixes.cache_clear()
    assert trust.is_allowed("their_models.resnet")
    assert callable(trust.resolve("model", "their_models.resnet"))


@pytest.mark.parametrize(
    "config",
    [
        {"model": {"_target_": "our_models.Net", "inner": {"_target_": "our_models.block"}}},
        {"training": {"callbacks": [{"_target_": "our_models.Net"}]}},
        {"training.callbacks": "[{_target_: our_models.Net, depth: 3}]"},
        {"model._target_": "our_models.Net,our_models.block"},
        {"model._target_": "choice(our_models.Net, our_models.block)"},
        {"hydra": {"sweeper": {"params": {"model._target_": "our_models.Net,our_models.block"}}}},
        {"hydra": {"sweeper": {"params": {"model": {"_target_": "our_models.Net"}}}}},
        {"hydra": {"sweeper": {"cells": [{"model._target_": "our_models.Net"}]}}},
        {"hydra": {"sweeper": {"enqueue": [{"model": {"_target_": "our_models.Net"}}]}}},
        {"hydra": {"callbacks": {"mine": {"_target_": "our_models.Net"}}}},
    ],
)
def test_a_config_may_name_what_is_allowed(config: dict[str, object]) -> None:
    refuse_secrets_and_calls(config)


@pytest.mark.parametrize(
    "config",
    [
        {"model": {"_target_": "our_models.Net", "inner": {"_target_": "our_models.os.system"}}},
        {"training.callbacks": "[{_target_: our_models.Net}, {_target_ : os.system}]"},
        {"training.callbacks": "[{_target_: our_models.Net}, {_target_ = (os.system)}]"},
        {"training.callbacks": "[{_target_: our_models.build_quickly}]"},
        {"model._target_": "our_models.Net,os.system"},
        {"model._target_": "choice(our_models.Net, os.system)"},
        {"hydra": {"sweeper": {"params": {"model._target_": "our_models.Net,os.system"}}}},
        {"hydra": {"sweeper": {"cells": [{"model._target_": "our_models.build_quickly"}]}}},
        {"hydra": {"sweeper": {"sampler": {"_target_": "our_models.Net"}}}},
        {"model": {"x_target_": "our_models.Net"}},
        {"hydra": {"callbacks": {"mine": {"_target_": "our_models.build_quickly"}}}},
        {"hydra": {"launcher": {"_target_": "our_models.Net"}}},
    ],
)
def test_what_is_allowed_lets_nothing_else_in(config: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="refused"):
        refuse_secrets_and_calls(config)
