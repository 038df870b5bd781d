"""The worker's door: what it says of the machine before a trial."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir

from cifar_hpo.objective import objective
from cifar_hpo.paths import CONF
from cifar_hpo.processor import fused_below

WIDE = fused_below()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], []),
        (["training.replicas=3"], []),
        (
            ["training.replicas=3", "model.filters=16"],
            [
                (
                    f"training.replicas: with {WIDE} neurons or more in the first layer they train "
                    "one after the other"
                )
            ],
        ),
        (
            ["training.replicas=3", "training.early_stopping=2"],
            ["training.replicas: with training.early_stopping they train one after the other"],
        ),
        (
            ["training.replicas=3", "optimizer=muon"],
            ["training.replicas: with optimizer=muon they train one after the other"],
        ),
        (["model.filters=16"], []),
    ],
)
def test_replicas_that_train_one_after_the_other_are_told_of(
    overrides: list[str], said: list[str]
) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert objective.remarks(objective.check(compose("config", overrides))) == said


@pytest.mark.parametrize(
    ("can", "is_fast", "said"),
    [(True, True, ""), (True, False, "slower than float32"), (False, False, "it is float32")],
)
def test_bfloat16_is_told_of_where_it_gains_nothing(
    monkeypatch: pytest.MonkeyPatch, can: bool, is_fast: bool, said: str
) -> None:
    monkeypatch.setattr("cifar_hpo.processor.can_compute_in_bfloat16", lambda: can)
    monkeypatch.setattr("cifar_hpo.processor.is_fast_in_bfloat16", lambda: is_fast)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = objective.check(compose("config", ["training.precision=mixed_bfloat16"]))
    remarks = objective.remarks(config)
    assert len(remarks) == bool(said)
    assert all(one.startswith("training.precision: ") and said in one for one in remarks)
