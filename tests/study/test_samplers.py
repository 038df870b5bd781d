"""Samplers: each of them in every kind of space; no training, real SQLite."""

from __future__ import annotations

import importlib.util
import math
import random
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from support import finished, swept

from cifar_hpo.config import sweep as schema
from cifar_hpo.study.space import Space
from cifar_hpo.trial import TrialResult, TrialSpec

KINDS = {
    "choices": ["model.filters=4,8,16", "model.activation=relu,elu"],
    "range": ["model.filters=range(4,33,4)", "model.depth=range(1,4)"],
    "interval": ["model.dropout=interval(0,0.5)", "model.dense_units=interval(8,64)"],
    "log": [
        "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
        "model.dense_units=tag(log,interval(8,64))",
    ],
    "lists and groups": ["optimizer=adam,sgd", "model.filters=[4,8],[8,16]"],
    "mixed": [
        "optimizer=glob(*)",
        "model.depth=range(1,4)",
        "optimizer.learning_rate=tag(log,interval(1e-4,1e-1))",
        "training.epochs=3",
    ],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "cmaes", "nsgaii", "qmc"])
def test_every_sampler_in_every_kind_of_space(
    sampler: str, kind: str, space: Callable[..., Space]
) -> None:
    if missing := [
        package
        for package in schema.EXTRAS.get(sampler, ())
        if not importlib.util.find_spec(package)
    ]:
        pytest.skip(f"{missing} not installed")
    wanted = space(*KINDS[kind])
    rng = random.Random(0)
    done, ranking = swept(wanted, lambda spec: finished(rng.random()), sampler=sampler, n_trials=14)
    assert len(done) == min(14, wanted.size)
    assert len({spec.overrides for spec in done}) == len(done), "a configuration was tried twice"
    assert all(wanted.holds(spec.params) for spec in done)
    values = [trial.value or 0.0 for trial in ranking]
    assert values == sorted(values, reverse=True)


def test_a_seed_makes_a_sequential_study_repeatable(space: Callable[..., Space]) -> None:
    for sampler in ("random", "tpe", "nsgaii"):
        runs = []
        for name in ("one", "other"):
            done, _ = swept(
                space(*KINDS["mixed"]),
                lambda spec: finished(float(len(str(spec.params)))),
                f"{sampler}-{name}",
                sampler=sampler,
                n_trials=15,
            )
            runs.append([spec.overrides for spec in done])
        assert runs[0] == runs[1]


def test_tpe_beats_random_in_the_median_of_ten_seeds(space: Callable[..., Space]) -> None:
    def branin(spec: TrialSpec) -> TrialResult:
        """Least 0.397887, at three places (Dixon and Szegö 1978)."""
        x, y = float(spec.params["+x"]), float(spec.params["+y"])
        value = (
            (y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6) ** 2
            + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x)
            + 10
        )
        return finished(value)

    best: dict[str, list[float]] = {"tpe": [], "random": []}
    for sampler, values in best.items():
        for seed in range(10):
            given: dict[str, Any] = {
                "sampler": sampler,
                "seed": seed,
                "n_trials": 40,
                "direction": "minimize",
                "storage": "memory",
            }
            _, ranking = swept(
                space("+x=interval(-5.0,10.0)", "+y=interval(0.0,15.0)"), branin, **given
            )
            values.append(ranking[0].value or 0)
    assert statistics.median(best["tpe"]) < statistics.median(best["random"])
