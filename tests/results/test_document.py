"""Parts of a Markdown file, replaced one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_hpo.errors import StudyError
from cifar_hpo.results.document import BEGIN, END, replace_parts

ORDER = ["first", "second", "third"]


def test_parts_are_replaced_one_by_one_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    present = "<!-- third -->\nold\n<!-- second -->\n- stays\n\n- as it is\n"
    path.write_text(f"before\n{BEGIN}\n{present}{END}\nafter\n", encoding="utf-8")
    assert replace_parts(path, {"first": "1", "third": "3"}, ORDER) == ["second"]
    expected = (
        f"before\n{BEGIN}\n\n<!-- first -->\n\n1\n\n<!-- second -->\n\n- stays\n\n- as it is\n\n"
        f"<!-- third -->\n\n3\n\n{END}\nafter\n"
    )
    assert path.read_text(encoding="utf-8") == expected
    replace_parts(path, {"first": "1", "third": "3"}, ORDER)
    assert path.read_text(encoding="utf-8") == expected, "again is no change"


def test_an_empty_place_takes_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    assert replace_parts(path, {"second": "2"}, ORDER) == []
    assert path.read_text(encoding="utf-8") == f"{BEGIN}\n\n<!-- second -->\n\n2\n\n{END}\n"


@pytest.mark.parametrize("text", ["no place", BEGIN, END, None])
def test_a_file_without_a_place_is_refused_and_stays(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "page.md"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match="has no lines <!-- results"):
        replace_parts(path, {"first": "1"}, ORDER)
    assert (path.read_text(encoding="utf-8") if path.exists() else None) == text
