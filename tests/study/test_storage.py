"""Storages that can't be opened, and studies that another process holds."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from support import clean, finished, garble, no_space_beyond, study_options

from cifar_hpo.errors import StudyError
from cifar_hpo.study.space import Space
from cifar_hpo.study.storage import (
    as_file_name,
    load_study,
    open_existing,
    open_storage,
    read_holder,
    storage_errors,
    study_lock,
)
from cifar_hpo.study.study import Study

DB = Path("mlruns/studies.db")


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


def test_several_processes_make_one_storage_in_a_new_folder(tmp_path: Path) -> None:
    """Each makes a study of its own as soon as all have loaded what they need."""
    code = """if True:
        import sys, time
        from pathlib import Path
        import optuna
        from cifar_hpo.study.storage import open_storage
        Path(sys.argv[1]).touch()
        while len(list(Path().glob("ready-*"))) < 3:
            time.sleep(0.01)
        optuna.create_study(study_name=sys.argv[1], storage=open_storage(None))
    """
    processes = []
    for number in range(3):
        command = [sys.executable, "-c", code, f"ready-{number}"]
        processes.append(subprocess.Popen(command, env=clean(), stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert len(optuna.get_all_study_names(open_storage(None))) == 3
    assert [path.name for path in (tmp_path / "mlruns").iterdir()] == ["studies.db"]


def test_a_first_storage_without_room_is_told_and_made_when_there_is_some() -> None:
    with (
        no_space_beyond(20_000),
        pytest.raises(StudyError, match=r"^Optuna's storage mlruns/studies\.db can't be .*room"),
    ):
        open_storage(None)
    assert [path.name for path in Path("mlruns").iterdir()] == [".studies.db.lock"]
    assert optuna.get_all_study_names(open_storage(None)) == []


def test_a_storage_that_fills_the_disk_is_told_and_goes_on_when_there_is_room(
    space: Callable[..., Space],
) -> None:
    """The outcome that had no room is lost, and nothing else."""
    cells = space("+x=1,2,3,4")

    def sweep(room: int) -> None:
        with storage_errors(None), Study.open("s", cells, study_options(), {"a": 1}) as study:
            for spec in study.specs():
                assert spec
                padding = {f"metric_{n}": 1.0 for n in range(1000)}
                with no_space_beyond(room):
                    study.tell(spec, finished(1.0, **padding))

    open_storage(None)
    with pytest.raises(StudyError, match=r"mlruns/studies\.db can't be read or written"):
        sweep(room=DB.stat().st_size + 40_000)
    counted = [
        trial for trial in load_study(open_storage(None)).trials if trial.state.is_finished()
    ]
    assert 0 < len(counted) < 4
    sweep(room=10**9)
    states = [trial.state.name for trial in load_study(open_storage(None)).trials]
    assert states == ["COMPLETE"] * 4


def test_a_storage_that_is_garbled_while_it_is_used_is_told() -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(None))

    def use() -> None:
        for number in range(40):
            study.set_user_attr(str(number), "x" * 2000)

    use()
    garble(DB, 60_000)
    with pytest.raises(StudyError, match=r"mlruns/studies\.db is damaged"), storage_errors(None):
        use()
    with pytest.raises(StudyError, match=r"mlruns/studies\.db is damaged"):
        open_storage(None)


def test_a_value_that_is_no_json_is_told() -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(None))
    study.set_user_attr("a", 1)
    with sqlite3.connect(DB) as database:
        database.execute("UPDATE study_user_attributes SET value_json = '{'")
    database.close()
    with (
        pytest.raises(StudyError, match=r"holds what Optuna can't read \(JSONDecodeError: .*copy"),
        storage_errors(None),
    ):
        load_study(open_storage(None)).user_attrs  # noqa: B018
    with pytest.raises(KeyError), storage_errors(None):
        raise KeyError("a bug")


@pytest.mark.parametrize(
    ("revision", "hint"),
    [
        ("v3.0.0.a", r"is of an older Optuna; .* storage upgrade --storage sqlite:///mlruns/stud"),
        ("v9.0.0.a", r"is of a newer Optuna; pip install --upgrade optuna$"),
    ],
)
def test_a_storage_of_another_optuna_is_told_with_what_mends_it(revision: str, hint: str) -> None:
    open_storage(None)
    with sqlite3.connect(DB) as database:
        database.execute("UPDATE alembic_version SET version_num = ?", [revision])
    database.close()
    with pytest.raises(StudyError, match=hint):
        open_storage(None)


def test_a_storage_whose_folder_is_a_file_is_told() -> None:
    Path("mlruns").write_text("x")
    with pytest.raises(StudyError, match=r"studies\.db can't be made: mlruns is no folder"):
        open_storage(None)


def test_a_storage_in_memory_has_nothing_to_read() -> None:
    with pytest.raises(StudyError, match="the storage in memory keeps no studies"):
        open_existing("memory")


def test_a_holder_that_has_just_taken_the_lock_is_named(tmp_path: Path) -> None:
    """Not the one that had it before, whose name is still there."""
    holder = tmp_path / "holder"
    holder.write_text("process 99999999")
    noted = threading.Timer(0.3, holder.write_text, [f"process {os.getpid()}"])
    noted.start()
    assert read_holder(holder) == f"process {os.getpid()}"
    noted.join()


@pytest.mark.parametrize(
    "name", ["../../victim", "/etc/x", "..", ".x", "", "a b", "a\n", "x" * 200]
)
def test_a_name_that_leads_out_of_its_folder_is_refused(name: str) -> None:
    storage = open_storage(None)
    with pytest.raises(StudyError, match="is no name that files can have"):
        as_file_name(name)
    with pytest.raises(StudyError, match="is no name"), study_lock(storage, name):
        pass
    assert as_file_name("filters-depth@x_1.2-a0b1c2") == "filters-depth@x_1.2-a0b1c2"
