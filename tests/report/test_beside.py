"""Two studies side by side, as the command prints them and as a page."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support import call_in, lay_out

from cifar_hpo.report.__main__ import main


def report(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call_in(folder, main, *arguments)


def laid_out(folder: Path) -> None:
    """Two studies of the same images, with 10 and with 20 epochs."""
    first = [({"model.filters": str(width)}, [value]) for width, value in ((4, 0.5), (8, 0.6))]
    meaning = {"config": {"training": {"seed": 0, "epochs": 10}}}
    lay_out(folder, [*first, ({"model.filters": "16"}, "diverged")], "a", more_meaning=meaning)
    longer = {"config": {"training": {"seed": 0, "epochs": 20}}}
    second = [({"model.filters": str(width)}, [value]) for width, value in ((4, 0.55), (32, 0.8))]
    lay_out(folder, second, "b", more_meaning=longer)


def test_two_studies_have_their_best_their_differences_and_their_curves(tmp_path: Path) -> None:
    laid_out(tmp_path)
    shown = report(tmp_path, "a", "b")
    assert shown.returncode == 0, shown.stderr
    rows = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert "best filters=8 filters=32" in rows
    assert "without a value 1 0" in rows
    assert "model.filters 8 32" in rows
    assert "training.epochs 10 20" in rows
    assert not any(row.startswith("training.seed") for row in rows), "it is the same"
    assert "filters=8 of study a is 0.2000 behind filters=32 of study b" in shown.stdout
    after_one = "1 0.5000 (– to 0.6000) 0.5500 (0.5500 to 0.8000), mean 0.6750 17 %"
    assert after_one in rows, "of 3 × 2 draws a wins one: 0.6 against 0.55"
    assert rows[-2].startswith("3 0.6000 (0.6000 to 0.6000), mean 0.6000 – –")
    page = tmp_path / rows[-1].removeprefix("page: ")
    text = page.read_text(encoding="utf-8")
    assert "<svg" in text
    assert "<td>training.epochs</td><td>10</td><td>20</td>" in text
    assert (page.parent / "best_after.png").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["a", "a"], "study a beside itself; name two"),
        (["a", "nosuch"], "there is no study nosuch"),
        (["a", "elsewhere"], "on other images"),
    ],
)
def test_what_can_t_be_compared_is_refused_on_one_line(
    arguments: list[str], problem: str, tmp_path: Path
) -> None:
    laid_out(tmp_path)
    other = {"data": ["other:1"]}
    lay_out(tmp_path, [({"model.filters": "4"}, [0.5])], "elsewhere", more_meaning=other)
    refused = report(tmp_path, *arguments)
    assert refused.returncode == 2
    assert problem in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_what_is_of_one_study_alone_is_refused_with_two(tmp_path: Path) -> None:
    refused = report(tmp_path, "a", "b", "--json")
    assert refused.returncode == 2
    assert "--json: not allowed with two studies" in refused.stderr
