"""A study that goes on in another space keeps its kinds of distributions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support import finished, study_options, swept

from cifar_hpo.errors import StudyError
from cifar_hpo.study.space import Space
from cifar_hpo.study.study import Study


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("range(0,3)", "0,1,2,5"),
        ("0,1,2", "range(0,4)"),
        ("range(0,3)", "range(0,7,2)"),
        ("choice(0)", "range(0,2)"),
    ],
)
def test_a_grid_grows_however_it_is_written(
    first: str, then: str, space: Callable[..., Space]
) -> None:
    before, _ = swept(space(f"+x={first}"), lambda spec: finished(0))
    wanted = space(f"+x={then}")
    after, _ = swept(wanted, lambda spec: finished(0))
    cells = [cell["+x"] for cell in wanted.cells()]
    assert [spec.params["+x"] for spec in after] == [
        x for x in cells if x not in {spec.params["+x"] for spec in before}
    ]
    assert len(after) in (1, 2)


def test_a_study_of_whole_numbers_takes_no_others(space: Callable[..., Space]) -> None:
    swept(space("+x=range(0,3)"), lambda spec: finished(0))
    with pytest.raises(
        StudyError,
        match=r"study s has \+x as whole numbers; choose another hydra\.sweeper\.study_name",
    ):
        Study.open("s", space("+x=0,1.5"), study_options(), {"a": 1})
