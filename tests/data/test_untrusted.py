"""Errors of libraries and names from outside, made fit to be shown."""

from __future__ import annotations

import pytest

from cifar_hpo.data.untrusted import damage_refused
from cifar_hpo.errors import DataError
from cifar_hpo.printable import is_printable, printable


@pytest.mark.parametrize("error", [ValueError("x\ny"), MemoryError(), AssertionError(), KeyError()])
def test_whatever_a_library_raises_is_one_line(error: Exception) -> None:
    with (
        pytest.raises(DataError, match=r"^a\.npz \(.+\); expected b$"),
        damage_refused("a.npz", "expected b"),
    ):
        raise error


def test_long_messages_are_cut_and_ours_are_not() -> None:
    with pytest.raises(DataError) as cut, damage_refused("a"):
        raise ValueError("x" * 10_000)
    assert len(str(cut.value)) < 300
    with pytest.raises(DataError, match=r"^ours$"), damage_refused("a"):
        raise DataError("ours")


def test_a_system_s_error_is_its_cause_alone() -> None:
    with pytest.raises(DataError, match=r"^a \(Is a directory\)$"), damage_refused("a"):
        open("/")  # noqa: PTH123, SIM115


def test_interrupts_pass() -> None:
    with pytest.raises(KeyboardInterrupt), damage_refused("a"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "shown"), [("a\x1b[1mb", "a\\x1b[1mb"), ("\udcff", "\\xff"), ("a\nb", "a\\x0ab")]
)
def test_what_no_terminal_or_file_takes_is_escaped(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert not is_printable(name)


@pytest.mark.parametrize("name", ["", "a b", "кошка", "犬", "🐈‍⬛", "می‌خواهم"])
def test_names_in_any_script_are_shown_as_they_are(name: str) -> None:
    assert is_printable(name)
