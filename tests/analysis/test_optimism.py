"""How much better the best looks because it was chosen, beside a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from cifar_hpo.analysis.optimism import optimism


@pytest.mark.parametrize(("configurations", "gap"), [(4, 0.0), (10, 0.0), (4, 0.2)])
def test_the_optimism_is_that_of_the_truth_on_average(configurations: int, gap: float) -> None:
    """The best one is better by the gap; seeds spread by 0.02, five of each."""
    random = np.random.default_rng(configurations)
    said, true = [], []
    for _ in range(150):
        means = np.where(np.arange(configurations) == 0, 0.5 + gap, 0.5)
        values = random.normal(means[:, None], 0.02, (configurations, 5))
        best = int(values.mean(axis=1).argmax())
        true.append(values[best].mean() - means[best])
        said.append(optimism([dict(enumerate(row.tolist())) for row in values]) or 0.0)
    assert np.mean(said) == pytest.approx(np.mean(true), abs=0.0035)


def test_where_one_alone_stands_out_it_is_said_to_be_larger_rather_than_smaller() -> None:
    random = np.random.default_rng(3)
    said, true = [], []
    for _ in range(100):
        values = random.normal(0.5, 0.02, (10, 5))
        values[0] += 0.02
        best = int(values.mean(axis=1).argmax())
        true.append(values[best].mean() - (0.52 if best == 0 else 0.5))
        said.append(optimism([dict(enumerate(row.tolist())) for row in values]) or 0.0)
    assert np.mean(true) - 0.001 < np.mean(said) < 3 * np.mean(true)


def test_the_best_of_more_is_flattered_more_and_a_clear_best_hardly() -> None:
    values = np.random.default_rng(1).normal(0, 0.01, (20, 3))
    groups = [dict(enumerate((0.5 + row).tolist())) for row in values]
    few, many = optimism(groups[:3]), optimism(groups)
    clear = optimism([*groups[:3], {0: 0.9, 1: 0.91, 2: 0.89}])
    assert few is not None
    assert many is not None
    assert clear is not None
    assert clear < few < many


def test_where_less_is_better_it_is_the_same() -> None:
    groups = [{0: 0.5, 1: 0.52}, {0: 0.51, 1: 0.55}]
    negative = [{seed: -value for seed, value in group.items()} for group in groups]
    assert optimism(groups, "minimize") == pytest.approx(optimism(negative))


def test_without_a_spread_or_another_nothing_is_known() -> None:
    assert optimism([{0: 0.5, 1: 0.6}]) is None
    assert optimism([]) is None
    assert optimism([{0: 0.5}, {0: 0.6}]) is None
    assert optimism([{0: 0.5, 1: 0.5}, {0: 0.6, 1: 0.6}]) == 0
    assert (optimism([{0: 0.5}, {0: 0.55, 1: 0.6}]) or 0) > 0
