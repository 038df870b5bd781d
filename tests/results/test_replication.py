"""The article's tables beside studies laid out in a real storage whose truth is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from results.laid_out import JITTER, lay_out_article
from support import lay_out

from cifar_hpo.analysis.comparison import Comparison, compare_study
from cifar_hpo.analysis.looks import Looks
from cifar_hpo.results.article import CLAIMS, STUDIES, Claim
from cifar_hpo.results.replication import (
    Gap,
    accuracy_table,
    claim_verdict,
    claims_table,
    gaps_of,
    mean_text,
    times_table,
)


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Comparison]:
    storage = lay_out_article(tmp_path_factory.mktemp("article"))
    return {study: compare_study(study, storage) for study in STUDIES}


def test_accuracies_stand_beside_the_article_s(comparisons: Mapping[str, Comparison]) -> None:
    table = accuracy_table(comparisons)
    assert table.columns[3] == "ours, mean of 5 seeds (95 %)"
    assert len(table.rows) == 11
    tests = 0.64 - 0.01 + JITTER[0]
    first = table.rows[0]
    assert list(first[:3]) == ["neuron_count", "4, 8, 16 neurons, kernel 7", "0.6339"]
    assert first[3].startswith(f"{tests.mean():.4f} (")
    assert first[4] == f"{tests.min():.4f} – {tests.max():.4f}"
    assert first[5] == f"no, {0.6339 - tests.max():.3f} above"
    below = 0.70 - 0.01 + JITTER[0].min() - 0.6469
    assert table.rows[3][5] == f"no, {below:.3f} below"


def test_a_claim_is_confirmed_wrong_or_not_shown(comparisons: Mapping[str, Comparison]) -> None:
    rows = claims_table(comparisons).rows
    assert [row[1] for row in rows] == ["**not shown**", "**wrong**", "**confirmed**"]
    assert rows[1][2].startswith("5 over 7: -0.0")


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [
        ([(0.1, 0.01), (0.1, 0.04)], "confirmed"),
        ([(0.1, 0.01), (0.1, 0.06)], "not shown"),
        ([(0.1, 0.01), (0.1, None)], "not shown"),
        ([(0.1, 0.01), (-0.1, 0.01)], "wrong"),
        ([(0.1, 0.01), (-0.1, 0.06)], "not shown"),
    ],
)
def test_a_verdict_needs_differences_that_are_not_luck(
    gaps: list[tuple[float, float | None]], verdict: str
) -> None:
    assert claim_verdict([Gap(("a", "b"), difference, p) for difference, p in gaps]) == verdict


def test_a_claim_of_which_a_configuration_is_missing_is_left_out(
    comparisons: Mapping[str, Comparison],
) -> None:
    assert gaps_of(CLAIMS[0], {}) == []
    claim = Claim("more is better", "neuron_count", ((8, 4), (32, 16)))
    assert gaps_of(claim, comparisons) == []


def test_a_claim_of_a_study_that_adds_seeds_pays_for_its_looks(
    comparisons: Mapping[str, Comparison],
) -> None:
    claim = CLAIMS[STUDIES.index("depth")]
    growing = dataclasses.replace(comparisons["depth"], looks=Looks(2, 16))
    planned = gaps_of(claim, comparisons)
    for gap, with_looks in zip(planned, gaps_of(claim, {"depth": growing}), strict=True):
        assert gap.difference == with_looks.difference
        assert gap.p is not None
        assert gap.p < (with_looks.p or 0)


def test_times_are_at_most_a_share_where_one_of_the_article_s_is_not_known(
    comparisons: Mapping[str, Comparison],
) -> None:
    rows = {row[0]: list(row[1:]) for row in times_table(comparisons).rows}
    assert rows["depth"][:3] == ["15 models", "0", "29 min for 3"]
    assert rows["neuron_count"][2] == "at least 52 min for 3"
    assert rows["neuron_count"][3].startswith("at most ")


def test_one_seed_has_no_interval() -> None:
    assert mean_text({0: 0.5}) == "0.5000 (one seed)"
    assert mean_text({0: 0.5, 1: 0.5}) == "0.5000 (0.5000 – 0.5000)"


def test_seeds_that_differ_in_number_are_a_range(tmp_path: Path) -> None:
    outcomes = [({"model.filters": "4"}, [0.5]), ({"model.filters": "8"}, [0.5, 0.6, 0.7])]
    comparison = compare_study("neuron_count", lay_out(tmp_path, outcomes, "neuron_count"))
    assert (
        accuracy_table({"neuron_count": comparison})
        .columns[3]
        .startswith("ours, mean of 1 to 3 seeds")
    )
    assert np.isclose(comparison.finished[0].value or 0, 0.6)
