"""Claims of two configurations, with their figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import Outcomes, lay_out

from cifar_hpo.analysis.claims import MODERATED, PAIRED, claim, claims
from cifar_hpo.analysis.comparison import compare_study
from cifar_hpo.analysis.looks import Looks

PLAN = Looks(5, 5)


def seeds(mean: float, first: int = 0) -> dict[int, float]:
    """Five seeds that hardly differ."""
    return {first + place: mean + 0.001 * (place - 2) + 0.0001 * (place % 2) for place in range(5)}


def test_each_other_configuration_is_a_claim_with_gap_interval_p_and_n(tmp_path: Path) -> None:
    outcomes: Outcomes = [
        ({"f": "4"}, [0.50, 0.511, 0.523]),
        ({"f": "8"}, [0.70, 0.712, 0.722]),
        ({"f": "16"}, [0.69, 0.725, 0.709]),
    ]
    comparison = compare_study("laid", lay_out(tmp_path, outcomes))
    tied, better = claims(comparison)
    assert (tied.first, tied.second, tied.shows) == ("f=8", "f=16", "tied")
    assert (better.first, better.second, better.shows) == ("f=8", "f=4", "better")
    assert better.gap == pytest.approx(0.2, abs=1e-3)
    assert better.interval is not None
    assert 0.16 < better.interval[0] < better.gap < better.interval[1] < 0.24
    assert better.p is not None
    assert better.p < 0.05
    assert (better.n, better.n_second, better.pairs, better.test) == (3, 3, 3, MODERATED)
    assert [made.p for made in (tied, better)] == [
        configuration.p_value for configuration in comparison.complete[1:]
    ]


def test_an_interval_has_the_gap_inside_and_zero_outside_exactly_where_p_is_small() -> None:
    for distance in (0.0, 0.0005, 0.001, 0.01):
        for start in (0, 3, 100):
            made = claim(
                "a", seeds(0.7 + distance), "b", seeds(0.7, start), direction="maximize", looks=PLAN
            )
            assert made.interval is not None
            assert made.p is not None
            low, high = made.interval
            assert low - 1e-12 <= made.gap <= high + 1e-12
            assert (made.p < 0.05) == (not low <= 0 <= high)


def test_where_less_is_better_the_smaller_is_ahead() -> None:
    made = claim("a", seeds(0.5), "b", seeds(0.6), direction="minimize", looks=PLAN)
    assert made.shows == "better"
    assert made.gap == pytest.approx(0.1)
    assert made.interval is not None
    assert made.interval[0] > 0
    back = claim("b", seeds(0.6), "a", seeds(0.5), direction="minimize", looks=PLAN)
    assert back.shows == "worse"
    assert back.gap == pytest.approx(-0.1)
    assert back.interval == pytest.approx((-made.interval[1], -made.interval[0]))


def test_seeds_are_compared_in_pairs_where_they_move_both_alike() -> None:
    alike = claim("a", seeds(0.7), "b", seeds(0.6), direction="maximize", looks=PLAN)
    assert (alike.n, alike.n_second, alike.test) == (5, 5, PAIRED)
    some = claim("a", seeds(0.7), "b", seeds(0.6, 2), direction="maximize", looks=PLAN)
    assert (some.n, some.n_second, some.test) == (5, 5, MODERATED), "all seeds of each count"
    back = {seed: 1.3 - value for seed, value in seeds(0.6).items()}
    assert claim("a", seeds(0.7), "b", back, direction="maximize", looks=PLAN).test == MODERATED


def test_with_one_seed_nothing_is_known() -> None:
    made = claim("a", {0: 0.9}, "b", seeds(0.6), direction="maximize", looks=PLAN)
    assert (made.shows, made.p, made.interval, made.test) == ("unknown", None, None, "")
    assert made.gap == pytest.approx(0.3, abs=1e-3)


def test_equal_values_are_tied_with_a_gap_of_nothing() -> None:
    made = claim("a", seeds(0.7), "b", seeds(0.7), direction="maximize", looks=PLAN)
    assert (made.shows, made.gap, made.interval, made.p) == ("tied", 0, (0, 0), 1)


def test_a_study_without_anything_to_compare_makes_no_claims(tmp_path: Path) -> None:
    assert claims(compare_study("laid", lay_out(tmp_path, [({"a": "1"}, "diverged")]))) == []
    storage = lay_out(tmp_path, [({"a": "1"}, [0.5])], "one")
    assert claims(compare_study("one", storage)) == []
