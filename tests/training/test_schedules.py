"""Schedules of the learning rate, by the share of steps done."""

from __future__ import annotations

import pytest
import tensorflow as tf

from cifar_hpo.training.schedules import SCHEDULES, WARMUP_SHARE


@pytest.mark.parametrize(
    ("schedule", "shares"), [("cosine", [1, 0.5, 0]), ("one_cycle", [0.04, 2 / 3, 0])]
)
def test_a_schedule_goes_from_its_first_share_to_none(schedule: str, shares: list[float]) -> None:
    given = []
    for done in (0.0, 0.5, 1.0):
        given.append(float(SCHEDULES[schedule](tf.constant(done))))
    assert given == pytest.approx(shares, abs=1e-6)


def test_one_cycle_is_at_its_peak_after_the_warmup() -> None:
    assert float(SCHEDULES["one_cycle"](tf.constant(WARMUP_SHARE))) == pytest.approx(1)
