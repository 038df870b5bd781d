"""The worker's door: what it says of the machine before a trial."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from cifar_hpo.config import CONF
from cifar_hpo.objective import _is_fast_in_bfloat16, objective


@pytest.mark.parametrize(
    ("cpuinfo", "is_fast"),
    [
        ("vendor_id : AuthenticAMD\nflags : avx512f avx512_bf16", True),
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16 amx_bf16", True),
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16", False),
        ("vendor_id : GenuineIntel\nflags : avx512f", False),
        ("Features : asimd bf16", True),
        ("Features : asimd", False),
    ],
)
def test_bfloat16_is_warned_of_where_it_gains_nothing(tmp_path: Path, cpuinfo: str, is_fast: bool) -> None:
    (listed := tmp_path / "cpuinfo").write_text(cpuinfo)
    assert _is_fast_in_bfloat16(listed) is is_fast


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], []),
        (["training.replicas=3"], []),
        (
            ["training.replicas=3", "model.filters=16"],
            ["training.replicas: with 16 neurons or more in the first layer they train one after the other"],
        ),
        (
            ["training.replicas=3", "training.early_stopping=2"],
            ["training.replicas: with training.early_stopping they train one after the other"],
        ),
        (["training.replicas=3", "optimizer=muon"], ["training.replicas: with optimizer=muon they train one after the other"]),
        (["model.filters=16"], []),
    ],
)
def test_replicas_that_train_one_after_the_other_are_told_of(overrides: list[str], said: list[str]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert objective.remarks(objective.check(compose("config", overrides))) == said


@pytest.mark.parametrize("is_fast", [True, False])
def test_bfloat16_is_told_of_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, is_fast: bool) -> None:
    monkeypatch.setattr("cifar_hpo.objective._is_fast_in_bfloat16", lambda: is_fast)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        said = objective.remarks(objective.check(compose("config", ["training.precision=mixed_bfloat16"])))
    assert [remark.split(":")[0] for remark in said] == ([] if is_fast else ["training.precision"])
