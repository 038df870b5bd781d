"""A table on a terminal and as Markdown."""

from __future__ import annotations

import io

import rich.console

from cifar_hpo.table import Table


def test_markdown_keeps_its_columns_whatever_a_cell_holds() -> None:
    table = Table(["a", "b"], [["1", "x|y"], ["2", ""]])
    assert table.to_markdown() == "| a | b |\n| --- | --- |\n| 1 | x/y |\n| 2 |  |"


def test_a_terminal_shows_cells_as_they_are() -> None:
    console = rich.console.Console(file=io.StringIO(), width=80)
    with console.capture() as captured:
        console.print(Table(["augmentation"], [["[flip,shift]"]]).to_rich())
    assert captured.get().split() == ["augmentation", "[flip,shift]"]


def test_headers_are_no_markup_and_control_characters_are_escapes() -> None:
    console = rich.console.Console(file=io.StringIO(), width=80)
    with console.capture() as captured:
        console.print(Table(["m[/x]", "F1[bold]"], [["\x1b[31mred", "a"]]).to_rich())
    assert captured.get().split() == ["m[/x]", "F1[bold]", r"\x1b[31mred", "a"]
