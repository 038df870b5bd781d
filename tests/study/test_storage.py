"""Storages that can't be opened, and studies that another process holds."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from support import study_options

from cifar_hpo.errors import StudyError
from cifar_hpo.study.space import Space
from cifar_hpo.study.storage import load_study, open_existing, open_storage, study_lock
from cifar_hpo.study.study import Study


def test_a_garbled_storage_is_told_and_never_replaced() -> None:
    Path("mlruns").mkdir()
    Path("mlruns/studies.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StudyError, match=r"mlruns/studies\.db is damaged; restore"):
        Study.open("s", Space({}), study_options(), {})
    assert Path("mlruns/studies.db").read_bytes() == b"not a database" * 100


def test_a_password_is_in_no_message() -> None:
    with pytest.raises(StudyError) as refused:
        open_storage("postgresql://me:secret@127.0.0.1:9/db")
    assert "secret" not in str(refused.value)


def test_a_study_is_held_by_one_process_at_a_time() -> None:
    storage = open_storage(None)
    with study_lock(storage, "s"):
        with study_lock(storage, "other"):
            pass
        with (
            pytest.raises(StudyError, match=r"study s: process \d+ is working on it; wait"),
            study_lock(storage, "s"),
        ):
            pass
    with study_lock(storage, "s"):
        assert Path("mlruns/.studies.db-s.lock").exists()


def test_a_study_in_memory_is_held_by_nobody() -> None:
    storage = open_storage("memory")
    with study_lock(storage, "s"), study_lock(storage, "s"):
        pass
    assert not Path("mlruns").exists()


def test_a_folder_without_studies_says_where_to_go() -> None:
    with pytest.raises(StudyError, match=r"mlruns/studies\.db is not here; go to the folder"):
        open_existing(None)
    open_storage(None)
    assert open_existing(None)


def test_the_study_that_was_worked_on_last_is_loaded_unless_one_is_named() -> None:
    storage = open_storage("memory")
    with pytest.raises(StudyError, match=r"^there is no study here; there are: none$"):
        load_study(storage)
    studies = {
        name: optuna.create_study(study_name=name, storage=storage) for name in ("a", "b", "c")
    }
    for name in ("c", "a", "b", "a"):
        studies[name].ask()
    assert load_study(storage).study_name == "a"
    assert load_study(storage, "c").study_name == "c"
    with pytest.raises(StudyError, match=r"^there is no study d; there are: a, b, c$"):
        load_study(storage, "d")
