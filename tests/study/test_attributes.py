"""Where a study is beside Optuna's storage, as sweeps note it; real SQLite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import study_options

from cifar_hpo.study.attributes import FOLDER, folders_of, run_of
from cifar_hpo.study.space import Space
from cifar_hpo.study.study import Study


def test_a_studys_id_stays_and_is_no_other_studys(space: Callable[..., Space]) -> None:
    wanted = space("+x=1")
    ids = []
    for name in ("s", "s", "t"):
        with Study.open(name, wanted, study_options(), {}) as study:
            ids.append(study.attributes.id)
            assert study.is_exclusive
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]
    with Study.open("s", wanted, study_options(storage="memory"), {}) as study:
        assert not study.is_exclusive


def test_folders_are_noted_once_each_the_latest_last(
    space: Callable[..., Space], tmp_path: Path
) -> None:
    with Study.open("s", space("+x=1"), study_options(), {}) as study:
        for name in "aba":
            study.attributes.set_folder(tmp_path / name)
        assert study.attributes.folders() == [tmp_path / "b", tmp_path / "a"]
    assert folders_of({FOLDER: "of/version/0.1"}) == [Path("of/version/0.1")]
    assert folders_of({}) == []


def test_a_run_is_noted_but_for_passwords(space: Callable[..., Space]) -> None:
    with Study.open("s", space("+x=1"), study_options(), {}) as study:
        known = study.storage.get_study_id_from_name("s")
        study.attributes.set_run("postgresql://me:secret@host/db", "a")
        assert run_of(study.storage.get_study_user_attrs(known)) == (None, None)
        study.attributes.set_run("sqlite:///mlflow.db", "b")
        assert run_of(study.storage.get_study_user_attrs(known)) == ("sqlite:///mlflow.db", "b")


@pytest.mark.parametrize("noted", [None, "uri", ["uri"], ["uri", 3]])
def test_what_another_program_noted_as_a_run_is_none(noted: object) -> None:
    assert run_of({"mlflow": noted}) == (None, None)
