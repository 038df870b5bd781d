"""What a configuration must fulfil to be tried."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from cifar_hpo.errors import ConfigError
from cifar_hpo.sweep.constraints import Constraint

CONFIG = OmegaConf.create({"model": {"filters": 8, "activation": "relu"}})


@pytest.mark.parametrize(
    ("text", "is_fulfilled"),
    [
        ("parameters <= 100", True),
        ("parameters < 100", False),
        ("parameters>=1e2", True),
        (" parameters > 100 ", False),
        ("model.filters <= 8", True),
        ("model.filters < 8", False),
    ],
)
def test_a_measure_or_a_key_is_held_against_a_limit(text: str, is_fulfilled: bool) -> None:
    problem = Constraint.parse(text).problem(CONFIG, {"parameters": 100})
    assert (problem == "") == is_fulfilled


def test_the_problem_names_value_and_constraint() -> None:
    problem = Constraint.parse("parameters <= 50").problem(CONFIG, {"parameters": 100.0})
    assert problem == "parameters is 100, against 'parameters <= 50'"


@pytest.mark.parametrize("text", ["parameters", "<= 3", "parameters = 3", "parameters <= many", ""])
def test_what_is_no_constraint_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^hydra\.sweeper\.constraints: .*is not like"):
        Constraint.parse(text)


@pytest.mark.parametrize("text", ["a <= 1e", "a <= ..", "a <= 1.2.3"])
def test_a_limit_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no number"):
        Constraint.parse(text)


@pytest.mark.parametrize("name", ["model.activation", "model.width", "nothing"])
def test_what_is_no_number_of_the_configuration_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is no number of this configuration"):
        Constraint.parse(f"{name} <= 3").problem(CONFIG, {})
