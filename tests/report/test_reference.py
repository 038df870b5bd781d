"""What a study's best is held against: another study's best, and the champion of its dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from support import Outcomes, call_in, lay_out

from cifar_hpo.config.splits import split_of
from cifar_hpo.report.__main__ import main
from cifar_hpo.report.reference import Measurement
from cifar_hpo.study.replication import REPLICA_PLAN

BETTER: Outcomes = [({"f": "8"}, [0.70, 0.711, 0.722])]
AS_GOOD: Outcomes = [({"f": "9"}, [0.703, 0.708, 0.721])]
WORSE: Outcomes = [({"f": "4"}, [0.50, 0.511, 0.523])]
ONE_SEED: Outcomes = [({"f": "2"}, [0.1])]


def hold(folder: Path, study: str, reference: str) -> tuple[int, str]:
    """The exit code, and the line that says why."""
    ended = call_in(folder, main, study, "--json", "--not-worse-than", reference)
    assert ended.returncode == 2 or '"holds"' in ended.stdout
    plain = call_in(folder, main, study, "--not-worse-than", reference)
    assert plain.returncode == ended.returncode
    lines = plain.stderr.splitlines() or [
        line for line in plain.stdout.splitlines() if " of study " in line
    ]
    return ended.returncode, lines[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four studies."""
    monkeypatch.setattr("cifar_hpo.report.page.write_page", lambda *_: tmp_path / "page.html")
    for name, outcomes in {
        "better": BETTER,
        "as_good": AS_GOOD,
        "worse": WORSE,
        "one_seed": ONE_SEED,
    }.items():
        lay_out(tmp_path, outcomes, name)
    return tmp_path


def test_the_exit_code_is_one_only_where_the_best_is_shown_to_be_worse(folder: Path) -> None:
    code, line = hold(folder, "worse", "better")
    assert code == 1
    assert line.startswith("f=4 of study worse is worse than f=8 of study better, and that is not")
    assert hold(folder, "better", "worse")[0] == 0
    code, line = hold(folder, "as_good", "better")
    assert code == 0
    assert " is not shown to be worse than f=8 of study better (" in line
    assert hold(folder, "better", "better")[0] == 0
    code, line = hold(folder, "one_seed", "better")
    assert code == 0
    assert "it cannot be known whether that is luck" in line


def test_a_reference_whose_seeds_grow_is_looked_at_by_its_plan(folder: Path) -> None:
    """Three seeds that are shown to differ at once are not, where 16 looks may be taken."""
    between_them: Outcomes = [({"f": "6"}, [0.692, 0.670, 0.681])]
    storage = lay_out(folder, between_them, "behind")
    assert hold(folder, "behind", "better")[0] == 1
    growing = optuna.load_study(study_name="better", storage=storage)
    growing.set_user_attr(REPLICA_PLAN, {"least": 2, "most": 16})
    code, line = hold(folder, "behind", "better")
    assert code == 0
    assert " is not shown to be worse than f=8 of study better (" in line


def test_less_is_better_where_the_study_minimizes(folder: Path) -> None:
    lay_out(folder, WORSE, "low", direction="minimize")
    lay_out(folder, BETTER, "high", direction="minimize")
    assert hold(folder, "low", "high")[0] == 0
    assert hold(folder, "high", "low")[0] == 1


@pytest.mark.parametrize(
    ("meaning", "difference"),
    [
        ({"metric": "val_loss"}, "by val_loss, not val_accuracy"),
        ({"data": ["small:1"]}, "on other images"),
        ({"config": {"data": {"validation": 0.2}}}, "with data.validation=0.2, not 0.1"),
        ({"config": {"data": {"validation": 0.1, "folds": 5}}}, "with data.folds=5, not 1"),
    ],
)
def test_like_is_compared_with_like(meaning: dict[str, Any], difference: str, folder: Path) -> None:
    own = {"config": {"data": {"validation": "0.10", "folds": 1}}}
    lay_out(folder, BETTER, "own", more_meaning=own)
    lay_out(folder, BETTER, "other", more_meaning=meaning)
    code, line = hold(folder, "own", "other")
    assert code == 2
    expected = "error: study own can't be held against f=8 of study other, which was measured "
    assert line.startswith(expected)
    assert line.replace("not 0.10", "not 0.1").endswith(difference)


def test_a_key_that_only_one_of_two_knows_is_null_in_the_other() -> None:
    """Earlier versions had no folds; and where there are none, a study's meaning says nothing."""

    def measured(**split: object) -> Measurement:
        settings = {"data.validation": 0.1, **{f"data.{key}": split[key] for key in split}}
        return Measurement("m", "d", split_of(settings))

    for same in (measured(folds=None), measured(folds="null"), measured(validation="0.10")):
        assert measured().difference(same) == same.difference(measured()) == ""
    assert measured().difference(measured(folds="5")) == "with data.folds=5, not null"
    assert measured(split_seed=1).difference(measured()) == "with data.split_seed=null, not 1"
    assert measured().difference(measured(validation="test")) != ""


def test_a_reference_that_is_not_there_is_told(folder: Path) -> None:
    code, line = hold(folder, "better", "nope")
    assert code == 2
    assert line.startswith("error: there is no study nope; there are: ")
    lay_out(folder, [({"f": "4"}, "diverged")], "failed")
    code, line = hold(folder, "better", "failed")
    assert code == 2
    assert "study failed: no configuration has finished with all of its seeds" in line
    lay_out(folder, BETTER, "no_data", more_meaning={"data": []})
    code, line = hold(folder, "no_data", "champion")
    assert code == 2
    assert "study no_data has no dataset, so there is no champion; name another study" in line


@pytest.mark.usefixtures("store")
def test_without_a_champion_nothing_can_be_held_against_it(folder: Path) -> None:
    code, line = hold(folder, "better", "champion")
    assert code == 2
    assert line == "error: there is no champion cifar_hpo-small; there are: none"
