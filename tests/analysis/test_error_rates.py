"""A few studies of each kind of error_rates.py, against limits that they keep by a
wide margin."""

from __future__ import annotations

import pytest
from analysis.error_rates import (
    Truth,
    coverage,
    is_wrong,
    looked_at,
    ours,
    paired_holm,
    rate,
    share_found,
)

STUDIES = 150
"""Of which 5 % make 7.5 give or take 2.7."""


@pytest.mark.parametrize("spread", ["equal", "unequal"])
@pytest.mark.parametrize(("configurations", "seeds"), [(4, 3), (10, 5)])
def test_equal_configurations_are_hardly_ever_said_to_differ(
    configurations: int, seeds: int, spread: str
) -> None:
    for means in ("equal", "half"):
        truth = Truth(configurations, seeds, spread, means=means)
        assert rate(truth, ours, is_wrong, STUDIES) <= 0.1


def test_nor_when_they_are_looked_at_after_each_seed() -> None:
    (row,) = looked_at(40, configurations=[4]).rows
    shares = [float(cell.strip("*").removesuffix(" %")) for cell in row[1:]]
    assert max(shares[:-1]) <= 12.5
    assert shares[-1] > max(shares[:-1]), "paired tests without a plan do"


def test_intervals_hold_the_truth() -> None:
    of_means, of_gaps = coverage(Truth(10, 5), STUDIES)
    assert 0.92 <= of_means <= 0.98
    assert of_gaps >= 0.9


def test_more_is_found_than_by_tests_of_each_pair_alone() -> None:
    truth = Truth(4, 3, means="best")
    alone = rate(truth, paired_holm, share_found, STUDIES)
    assert rate(truth, ours, share_found, STUDIES) > alone + 0.4
