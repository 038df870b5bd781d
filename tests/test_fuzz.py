"""Any override, any option and any config file either is valid or is refused on one line, and
nothing is written.

    FUZZ_CASES=10000 python -m pytest -n 0 tests/test_fuzz.py
"""

from __future__ import annotations

import itertools
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from support import config_loader

from cifar_hpo.__main__ import _is_of_hydra
from cifar_hpo.config.fields import flat
from cifar_hpo.config.secrets import refuse_search_path_of_packages, refuse_secrets_and_calls
from cifar_hpo.config.sweep import Pruner, Sampler, Sweeper
from cifar_hpo.config.validation import validate_config
from cifar_hpo.errors import UserError, one_line
from cifar_hpo.hydra_internals import OF_ANOTHER_FORM, CheckedConfigLoader, ConfigChecks
from cifar_hpo.objective import objective
from cifar_hpo.paths import CONF
from cifar_hpo.study.space import Space, identity
from cifar_hpo.sweep.options import settle_metrics, settle_options, validate_forms
from cifar_hpo.task import as_task

CASES = int(os.environ.get("FUZZ_CASES", "1000"))
"""In all; one in a hundred is a config file, which takes Hydra longest."""


def fuzzed(share: float) -> settings:
    return settings(
        max_examples=math.ceil(CASES * share),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module", autouse=True)
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Nothing is written, neither in the current folder nor beside it."""
    folder = tmp_path_factory.mktemp("around") / "current"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        setup_globals()
        yield
    assert [path.name for path in folder.parent.rglob("*")] == ["current"]


WHOLE = config_loader().load_configuration("config", [], RunMode.MULTIRUN)
CONFIG = pickle.dumps(WHOLE)
"""This project's config with Hydra's part; a pickle copies fastest."""

KEYS = sorted(flat(OmegaConf.to_container(WHOLE, resolve=False)))
SWEEPER_KEYS = sorted(set(Sweeper.__dataclass_fields__) - {"_target_", "_recursive_", "defaults"})

special = st.sampled_from(
    [
        *("nan", "inf", "1e400", "-0.0", "١٢", "null", "True", "''", "???", "..", "a: b"),
        *("${training.epochs}", "${hydra:job.num}", "${oc.env:HOME}", "${oc.env:NOPE}"),
        *("${", "${a.${b}}", "${oc.decode:3}", "postgresql://me:x@host/db", "../../x"),
        *("pkg://this", "ext://os.environ", "_target_", "{_target_: os.system}"),
        *("adam", "sgd", "val_loss", "optimizer=sgd", "parameters <= 1e"),
    ]
)
numbers = st.integers() | st.floats() | st.integers(-3, 300)
scalars = st.none() | st.booleans() | numbers | special | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
written_numbers = st.integers(-10, 10**12).map(str) | st.floats().map(str) | special
calls = st.builds(
    lambda name, given: f"{name}({','.join(given)})",
    st.sampled_from(
        ["interval", "range", "choice", "sort", "shuffle", "int", "glob", "tag", "str"]
    ),
    st.lists(written_numbers, max_size=3),
)
grammar = st.text("0123456789.,[]{}()':\"=+-~@$eE_abnultr \\", max_size=12)
texts = (
    written_numbers
    | calls
    | grammar
    | st.lists(written_numbers | calls, max_size=4).map(",".join)
    | st.lists(written_numbers, max_size=4).map(lambda items: f"[{','.join(items)}]")
    | calls.map(lambda call: f"tag(log,{call})")
)
overrides = st.builds(
    lambda sign, key, text: f"{sign}{key}={text}",
    st.sampled_from(["", "", "", "+", "++", "~"]),
    st.sampled_from(KEYS) | grammar,
    texts,
)


def outcome(step: Callable[[], object]) -> str:
    """What the user is told; empty for what is valid. Any other exception passes."""
    try:
        step()
    except (HydraException, OmegaConfBaseException, UserError) as error:
        return one_line(error)
    except (ValueError, LookupError, TypeError) as error:
        if not _is_of_hydra(error):
            raise
        return one_line(error)
    return ""


def validate_override(text: str) -> None:
    """As a single run does, without the defaults list, which no plain override changes."""
    parsed = OverridesParser.create().parse_overrides([text])
    changed: DictConfig = pickle.loads(CONFIG)
    ConfigLoaderImpl.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=True)
    ConfigLoaderImpl._apply_overrides_to_config(parsed, changed)  # noqa: SLF001
    refuse_secrets_and_calls(changed)
    validate_config(changed)


def sweep(text: str) -> None:
    """As a sweep does before it composes: some cells, each with its overrides."""
    space = Space.parse([text], {}, config_loader())
    space = space.with_whole_numbers(objective.whole_keys(pickle.loads(CONFIG)))
    cells = space.cells() if space.is_finite else space.corners()
    for cell in itertools.islice(cells, 5):
        identity(cell)
        OverridesParser.create().parse_overrides(list(space.overrides(cell)))
        assert space.holds(cell)


def settle(given: dict[str, Any]) -> None:
    """The options of a sweep from their schema to the last check."""
    schema = OmegaConf.structured(Sweeper(sampler=Sampler(), pruner=Pruner()))
    try:
        with open_dict(schema):
            merged = OmegaConf.merge(schema, given)
    except OF_ANOTHER_FORM as error:  # as while Hydra composes
        raise UserError("can't be composed") from error
    options: Any = OmegaConf.to_container(merged, resolve=True)
    for name in ("_target_", "_recursive_", "defaults"):
        options.pop(name)
    validate_forms(options)
    swept = ["model.filters=4,8", "optimizer=adam,sgd"]
    space = Space.parse(swept, options["params"], config_loader(), options["conditions"])
    task = as_task(objective)
    options = settle_options(options, space, {}, task)
    if options["metric"] is not None:
        settle_metrics(options, task)


@fuzzed(0.4)
@given(overrides)
def test_any_override_is_valid_or_refused(text: str) -> None:
    outcome(lambda: validate_override(text))


@fuzzed(0.4)
@given(overrides)
def test_any_sweep_is_parsed_or_refused(text: str) -> None:
    outcome(lambda: sweep(text))


@fuzzed(0.19)
@given(st.dictionaries(st.sampled_from(SWEEPER_KEYS), values, max_size=2))
def test_any_options_of_a_sweep_are_settled_or_refused(given: dict[str, Any]) -> None:
    outcome(lambda: settle(given))


@pytest.mark.filterwarnings("ignore:In 'any'. Defaults list is missing:UserWarning")  # Hydra's own
@fuzzed(0.01)
@given(
    st.binary(max_size=60)
    | st.builds(
        lambda nested, parts: yaml.safe_dump({"defaults": ["config", "_self_"], **nested, **parts}),
        st.dictionaries(st.sampled_from(["model", "hydra", "training", "optimizer"]), values),
        st.dictionaries(st.text(max_size=5) | st.sampled_from(["hydra", "defaults"]), values),
    ).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_config_file_is_composed_or_refused(content: bytes) -> None:
    file = Path("any.yaml")
    file.write_bytes(content)
    search_path = create_config_search_path(f"file://{CONF}")
    search_path.prepend("test", f"file://{file.parent.absolute()}")
    checks = ConfigChecks(refuse_search_path_of_packages, refuse_secrets_and_calls)
    loader = CheckedConfigLoader(search_path, checks)
    try:
        outcome(lambda: validate_config(loader.load_configuration("any", [], RunMode.RUN)))
    finally:
        file.unlink()
