"""Decisions from groups of values, and the sentences of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
import pytest

from cifar_hpo.analysis.comparison import Comparison, Configuration
from cifar_hpo.analysis.looks import Looks
from cifar_hpo.analysis.separation import separate
from cifar_hpo.analysis.variances import moderated
from cifar_hpo.analysis.verdict import (
    SELECTED_ON_TEST,
    Best,
    Decision,
    NothingComplete,
    NothingFinished,
    OnlyOne,
    SeveralMetrics,
    Tied,
    Unknown,
    decide,
    sentences,
    verdict,
)
from cifar_hpo.study.ranking import FinishedTrial
from cifar_hpo.trial import FINISHED

JITTER = np.random.default_rng(0).normal(0, 0.003, (3, 5))
JITTER -= JITTER.mean(axis=1, keepdims=True)


def comparison_of(
    *groups: Sequence[float],
    metrics: Sequence[str] = ("val_accuracy",),
    validation: str | float = 0.1,
) -> Comparison:
    """Configurations a, b, c, … of these values of their replicas, the best first."""
    values = [dict(enumerate(group)) for group in groups]
    configurations: list[Configuration] = []
    looks = Looks(5, 5)
    standings = separate(values, looks=looks).standings if values else []
    variances = moderated(values) if values else []
    for name, by_seed, standing, variance in zip(
        "abcdefghijkl", values, standings, variances, strict=False
    ):
        trial = FinishedTrial(
            number=len(configurations),
            params={"x": name},
            state=FINISHED,
            values=[float(np.mean(list(by_seed.values())))],
            metrics={},
            error="",
            seconds=1.0,
            run_id="",
        )
        configurations.append(
            Configuration(trial, {"x": name}, by_seed, {}, 1.0, name, standing, variance)
        )
    return Comparison(
        name="study",
        metrics=metrics,
        directions=["maximize"] * len(metrics),
        keys=["x"],
        trials=[configuration.trial for configuration in configurations],
        configurations=configurations,
        study=optuna.create_study(),
        meaning={"config": {"data": {"validation": validation}}},
        looks=looks,
    )


def test_a_study_without_finished_trials() -> None:
    assert decide(comparison_of()) == NothingFinished()


def test_several_metrics_are_not_compared() -> None:
    comparison = comparison_of([0.6], [0.5], metrics=("val_accuracy", "parameters"))
    assert decide(comparison) == SeveralMetrics("val_accuracy")


def test_one_configuration_has_nothing_to_be_compared_with() -> None:
    assert decide(comparison_of([0.5])) == OnlyOne("a", "val_accuracy", 0.5, None)
    decision = decide(comparison_of([0.5, 0.52, 0.51]))
    assert isinstance(decision, OnlyOne)
    assert decision.value == pytest.approx(0.51)
    assert decision.confidence_interval == pytest.approx((0.4852, 0.5348), abs=1e-4)


def test_with_one_replica_it_says_that_it_cannot_know() -> None:
    decision = decide(comparison_of([0.65], [0.61], [0.6]))
    assert isinstance(decision, Unknown)
    assert (decision.best, decision.second, decision.one_seed) == ("a", "b", "all")
    assert decision.gap == pytest.approx(0.04)
    assert decision.replicas is not None


@pytest.mark.parametrize(
    ("groups", "one_seed"),
    [
        (([0.7], list(0.6 + JITTER[0])), "best"),
        ((list(0.7 + JITTER[0]), [0.6]), "others"),
        ((list(0.7 + JITTER[0]), [0.65], [0.6]), "others"),
        (([0.7], [0.6]), "all"),
    ],
)
def test_it_says_who_was_trained_with_one_seed(
    groups: Sequence[Sequence[float]], one_seed: str
) -> None:
    decision = decide(comparison_of(*groups))
    assert isinstance(decision, Unknown)
    assert decision.one_seed == one_seed


def test_a_best_that_is_better_than_all_others() -> None:
    comparison = comparison_of(list(0.7 + JITTER[0]), list(0.6 + JITTER[1]), list(0.5 + JITTER[2]))
    assert decide(comparison) == Best("a", compared=3, family=3, unknown=[])


def test_what_was_not_compared_is_not_said_to_be_worse() -> None:
    comparison = comparison_of(list(0.7 + JITTER[0]), [0.65], list(0.6 + JITTER[0]))
    assert decide(comparison) == Best("a", compared=2, family=3, unknown=["b"])


def test_ties_are_told_from_differences() -> None:
    comparison = comparison_of(
        list(0.70 + JITTER[2]), list(0.699 + JITTER[1]), list(0.57 + JITTER[0]), [0.5]
    )
    decision = decide(comparison)
    assert isinstance(decision, Tied)
    assert (decision.best, decision.tied, decision.unknown) == ("a", ["b"], ["d"])
    assert (decision.worse, decision.family) == (["c"], 4)
    assert decision.gap == pytest.approx(0.001)
    assert 0 < decision.seed_std < 0.006


def test_the_next_to_be_told_apart_is_one_that_is_tied() -> None:
    comparison = comparison_of(list(0.70 + JITTER[2]), list(0.69 + JITTER[1]), [0.68, 0.70])
    decision = decide(comparison)
    assert isinstance(decision, Tied)
    assert (decision.worse, decision.tied) == (["b"], ["c"])
    assert decision.gap == pytest.approx(0.01)


SENTENCES: list[tuple[Decision, str]] = [
    (NothingFinished(), "No trial has finished, so there is nothing to compare."),
    (
        NothingComplete(),
        "No configuration finished with all of its seeds, so none is called the best.",
    ),
    (
        SeveralMetrics("f1"),
        (
            "Several metrics: trials on the Pareto front come first, by f1; which differences are "
            "luck is not tested."
        ),
    ),
    (
        OnlyOne("a=1", "f1", 0.5, None),
        (
            "One configuration finished: a=1, f1 0.5000 (with one replica, nobody knows how far "
            "the seed carries it)."
        ),
    ),
    (
        OnlyOne("a=1", "f1", 0.51, (0.4852, 0.5348)),
        "One configuration finished: a=1, f1 0.5100 (0.4852 to 0.5348 at 95 %).",
    ),
    (
        Unknown("a=2", "a=1", 0.1, "all", 4),
        (
            "a=2 is ahead of a=1 by 0.1000, and it cannot be known whether that is luck: each was "
            "trained with one seed.\n"
            "If seeds spread results by 0.01, 4 replicas of each would tell, four times in five; "
            "repeat the best with training.replicas=5."
        ),
    ),
    (
        Unknown("a=2", "a=1", 0.1, "best", None),
        (
            "a=2 is ahead of a=1 by 0.1000, and it cannot be known whether that is luck: a=2 was "
            "trained with one seed.\n"
            "If seeds spread results by 0.01, more than 200 replicas of each would be needed to "
            "tell; repeat the best with training.replicas=5."
        ),
    ),
    (
        Unknown("a=2", "a=1", 0.1, "others", 4),
        (
            "a=2 is ahead of a=1 by 0.1000, and it cannot be known whether that is luck: each of "
            "the others was trained with one seed.\n"
            "If seeds spread results by 0.01, 4 replicas of each would tell, four times in five; "
            "repeat the best with training.replicas=5."
        ),
    ),
    (
        Best("a=8", compared=2, family=2, unknown=[]),
        "a=8 is the best of these 2, and that is not luck (95 %).",
    ),
    (
        Best("a=8", compared=2, family=3, unknown=["a=16"]),
        (
            "a=8 is the best of these 2, and that is not luck (95 %, all pairs of 3).\n"
            "Nobody knows of a=16, trained with one seed."
        ),
    ),
    (
        Tied("a=1", list("bcdefg"), ["i"], 9, ["h"], 0.001, 0.003, 142),
        (
            "Tied with a=1, as far as these replicas can tell: b; c; d; e; f; … (95 %, all pairs "
            "of 9).\n"
            "Worse, and that is not luck: i.\n"
            "Nobody knows of h, trained with one seed.\n"
            "To tell the best from the next (0.0010 apart, seeds spread by 0.0030), 142 replicas "
            "of each would tell, four times in five."
        ),
    ),
]
"""A decision of each kind, and its sentences, a line each."""


@pytest.mark.parametrize(("decision", "expected"), SENTENCES)
def test_the_sentences_of_each_decision(decision: Decision, expected: str) -> None:
    assert "\n".join(sentences(decision)) == expected


def test_a_selection_by_the_test_images_is_said() -> None:
    assert verdict(comparison_of([0.65], [0.61], validation="test"))[-1] == SELECTED_ON_TEST
    assert SELECTED_ON_TEST not in verdict(comparison_of([0.65], [0.61]))
    assert SELECTED_ON_TEST not in verdict(comparison_of([0.65], validation="test"))
