"""A composed config as dataclasses."""

from __future__ import annotations

import pytest
from hydra import compose
from omegaconf import OmegaConf

from cifar_hpo.config import app as config
from cifar_hpo.config.validation import validate_config

pytestmark = pytest.mark.usefixtures("composing")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optimizer=muon", "model=enhanced"],
        ["model.filters=[4,8]", "data.train_size=100"],
        ["model.dropout=0", "training.epochs='3'"],
        ["model.batch_norm=true", "training.seed=1", "training.replicas=1"],
        ["training.seed=${training.epochs}"],
    ],
)
def test_values_that_are_converted_one_by_one_are_those_of_the_whole(overrides: list[str]) -> None:
    composed = compose("config", overrides)
    by_value = validate_config(composed)
    schema = config.Config(optimizer=config.OPTIMIZERS[composed.optimizer.name]())
    whole = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), composed))
    assert by_value == whole
    assert repr(by_value) == repr(whole), "1 is not true"


def test_configs_that_share_a_list_do_not_share_a_change() -> None:
    first, second = (validate_config(compose("config", ["model.filters=[4,8]"])) for _ in "ab")
    assert isinstance(first.model.filters, list)
    first.model.filters.append(16)
    assert second.model.filters == [4, 8]
