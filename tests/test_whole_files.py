"""Files that are whole or not there at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_hpo.whole_files import whole_file


def test_a_file_is_there_when_it_is_whole_and_the_one_before_stays(tmp_path: Path) -> None:
    path, draft, before = tmp_path / "a", tmp_path / "a.draft", tmp_path / "a.before"
    for content in (b"one", b"two"):
        with whole_file(path, draft, before=before) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert before.read_bytes() == b"one"
    assert not draft.exists()


def test_of_a_file_that_could_not_be_written_nothing_stays_but_the_one_before(
    tmp_path: Path,
) -> None:
    path, draft = tmp_path / "a", tmp_path / "a.draft"
    path.write_bytes(b"one")

    def write_half() -> None:
        with whole_file(path, draft, before=tmp_path / "b") as file:
            file.write(b"half")
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_half()
    assert [item.name for item in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == b"one"
