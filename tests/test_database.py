"""Databases as they should not be: told on one line before a library opens them, and left as they
are."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy
from support import garble, wait_for

from cifar_hpo import database
from cifar_hpo.database import CONNECT_TIMEOUT, KEEPALIVE, UTC, Database, new_file
from cifar_hpo.errors import StudyError


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def file() -> Path:
    """An SQLite file of some pages, with the table that is looked for."""
    path = Path("a.db")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE studies (name TEXT)")
        connection.executemany("INSERT INTO studies VALUES (?)", [("x" * 900,)] * 100)
    connection.close()
    return path


def at(url: str) -> Database:
    return Database("The storage", url, "studies", "storage")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "garbage": (lambda file: file.write_bytes(b"garbage!" * 5000), "is damaged; restore a copy"),
    "cut short": (lambda file: file.write_bytes(file.read_bytes()[:-9000]), "is damaged; restore"),
    "garbled in its middle": (lambda file: garble(file, 4000), "is damaged; restore a copy"),
    "its head is gone": (lambda file: garble(file, 100, start=0), "is damaged; restore a copy"),
    "empty": (lambda file: file.write_bytes(b""), "is empty; remove it to begin anew"),
    "of something else": (
        lambda file: sqlite3.connect(file).execute("ALTER TABLE studies RENAME TO x"),
        "has no table studies: it is a database of something else; name another by storage",
    ),
}


@pytest.mark.parametrize(("inject", "problem"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_with_a_file_is_told_and_it_stays_as_it_is(
    file: Path, inject: Callable[[Path], object], problem: str
) -> None:
    at("sqlite:///a.db").check(will_write=True)
    inject(file)
    before = file.read_bytes()
    for will_write in (True, False):
        with pytest.raises(StudyError, match=rf"^The storage a\.db {problem}"):
            at("sqlite:///a.db").check(will_write=will_write)
    assert file.read_bytes() == before
    assert [path.name for path in Path().iterdir()] == ["a.db"]


URLS = {
    "sqlite:///folder": "is a folder; name a file by storage",
    "sqlite://": "is no file; give sqlite:///FILE, ",
    "sqlite:///:memory:": "is no file; give sqlite:///FILE, ",
    "sqllite:///a.db": "is no database's URL; give sqlite:///FILE, ",
    "studies.db": "is no database's URL; give sqlite:///FILE, ",
    "postgresql+nothing://me@host/x": "is no database's URL; give sqlite:///FILE, ",
    "mysql+mysqldb://me@127.0.0.1:9/x": "needs the package mysqlclient; pip install mysqlclient",
}


@pytest.mark.parametrize(("url", "problem"), URLS.items())
def test_a_url_that_names_no_database_is_told_with_what_would(url: str, problem: str) -> None:
    Path("folder").mkdir()
    with pytest.raises(StudyError) as refused:
        at(url).check(will_write=False)
    assert problem in str(refused.value)


def test_a_locked_file_is_waited_for_and_then_told(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    released = threading.Timer(0.5, other.rollback)
    released.start()
    at("sqlite:///a.db").check(will_write=True)
    released.join()
    monkeypatch.setattr(database, "LOCK_TIMEOUT", 0.1)
    for kind, will_write in (("EXCLUSIVE", False), ("IMMEDIATE", True)):
        other.execute(f"BEGIN {kind}")
        with pytest.raises(StudyError, match=r"a\.db is locked by another process; wait"):
            at("sqlite:///a.db").check(will_write=will_write)
        other.rollback()
    other.close()


def test_later_errors_are_told_and_a_bug_is_raised(file: Path) -> None:
    engine = sqlalchemy.create_engine("sqlite:///a.db")
    with engine.connect() as connection:
        with (
            pytest.raises(StudyError, match=r"a\.db can't be used \(OperationalError: no such"),
            at("sqlite:///a.db").errors(),
        ):
            connection.execute(sqlalchemy.text("SELECT * FROM missing"))
        connection.rollback()
        garble(file, 40_000)
        with pytest.raises(StudyError, match=r"a\.db is damaged"), at("sqlite:///a.db").errors():
            connection.execute(sqlalchemy.text("SELECT sum(length(name)) FROM studies"))
    engine.dispose()
    with pytest.raises(ZeroDivisionError), at("sqlite:///a.db").errors():
        1 / 0  # noqa: B018


def test_a_server_is_given_up_in_time_by_the_option_of_its_driver() -> None:
    in_time = {"connect_timeout": CONNECT_TIMEOUT}
    assert at("mysql+pymysql://me@host/x").connect_options() == in_time
    for driver in ("postgresql+psycopg2", "postgresql+psycopg", "postgresql"):
        assert at(f"{driver}://me@host/x").connect_options() == in_time | KEEPALIVE | UTC
    assert at("postgresql+pg8000://me@host/x").connect_options() == {"timeout": CONNECT_TIMEOUT}
    assert at("postgresql+asyncpg://me@host/x").connect_options() == {}


def test_a_new_file_is_made_once_and_whole() -> None:
    made: list[Path] = []
    is_made_by_one = threading.Event()

    def make() -> None:
        with new_file(Path("new.db")) as draft:
            if draft is not None:
                made.append(draft)
                draft.write_text("half")
                is_made_by_one.wait(10)
                assert not Path("new.db").exists()
                draft.write_text("whole")

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: made)
    is_made_by_one.set()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert Path("new.db").read_text() == "whole"
    assert [path.name for path in Path().iterdir()] == ["new.db"]


def test_a_new_file_that_could_not_be_made_is_not_there() -> None:
    Path(".new.db.new").write_text("of a process that was killed")
    Path(".new.db.new-journal").write_text("the same")

    def fail() -> None:
        with new_file(Path("new.db")) as draft:
            assert draft is not None
            assert not draft.exists()
            draft.write_text("half")
            raise OSError

    with pytest.raises(OSError, match=r"^$"):
        fail()
    assert [path.name for path in Path().iterdir()] == [".new.db.lock"]


@pytest.mark.parametrize("password", ["ab'SECRETX", "ab SECRETX", "ab<SECRETX"])
def test_no_password_is_told_whatever_its_signs(password: str) -> None:
    with pytest.raises(StudyError) as refused:
        at(f"postgresql://me:{password}@127.0.0.1:1/db").check(will_write=False)
    assert "SECRETX" not in str(refused.value)
