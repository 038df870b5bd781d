"""Results on disk until their study has noted them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_hpo.left_results import Left, LeftResults
from cifar_hpo.trial import FAILED, FINISHED, Context, TrialResult


@pytest.fixture
def left(tmp_path: Path) -> LeftResults:
    return LeftResults.in_sweep_folder(tmp_path, "a1")


@pytest.mark.parametrize(
    "value",
    [
        TrialResult(FINISHED, {"y": 0.5, "replica_0/y": 0.5}, seconds=3, run_id="r"),
        TrialResult(FAILED, error="diverged: loss nan"),
        0.25,
        [1, 2.5],
        None,
    ],
)
def test_a_result_comes_back_as_it_was_left(left: LeftResults, value: object) -> None:
    left.write(3, ("x=1",), value, seconds=7)
    assert left.read(3, ("x=1",)) == Left(value, 7)
    assert left.numbers() == [3]
    left.remove(3)
    assert left.read(3, ("x=1",)) is None
    assert left.numbers() == []
    left.remove(3)


def test_what_is_no_number_is_a_trial_without_a_value(left: LeftResults) -> None:
    left.write(0, (), object())
    assert left.read(0, ()) == Left(None, 0)


def test_another_studys_or_configurations_result_is_not_taken(
    left: LeftResults, tmp_path: Path
) -> None:
    left.write(0, ("x=1",), 1.0)
    other = LeftResults.in_sweep_folder(tmp_path, "b2")
    other.write(1, ("x=2",), 2.0)
    assert left.read(0, ("x=2",)) is None
    assert left.read(1, ("x=2",)) is None
    assert left.numbers() == [0]
    left.clear()
    left.remove_empty_folder()
    assert left.numbers() == []
    assert other.numbers() == [1]
    other.clear()
    left.remove_empty_folder()
    assert not left.folder.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"overrides": []}',
        b"\xff\xfe",
        b'{"overrides": [], "value": {"q": 1}}',
    ],
)
def test_a_garbled_file_is_none(left: LeftResults, content: bytes) -> None:
    left.write(0, (), 1.0)
    (file,) = left.folder.iterdir()
    file.write_bytes(content)
    assert left.read(0, ()) is None


def test_what_was_half_written_is_cleared_and_never_read(left: LeftResults) -> None:
    left.write(0, (), 1.0)
    (file,) = left.folder.iterdir()
    file.rename(file.with_name(f".{file.name}.123"))
    assert left.numbers() == []
    left.clear()
    assert not list(left.folder.iterdir())


def test_a_full_disk_is_said_and_fails_nothing(
    left: LeftResults, caplog: pytest.LogCaptureFixture
) -> None:
    left.folder.write_text("a file where the folder should be")
    left.write(0, (), 1.0)
    assert "the result of trial 0 is not kept on disk" in caplog.text


def test_outside_a_study_nothing_is_left(tmp_path: Path) -> None:
    assert LeftResults.of_context(Context()) is None
    context = Context(study="s", study_id="a1", left_results=str(tmp_path))
    assert LeftResults.of_context(context) == LeftResults(tmp_path, "a1")
