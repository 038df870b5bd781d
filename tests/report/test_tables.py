"""The table of configurations, of studies laid out in a real storage."""

from __future__ import annotations

import dataclasses
import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rich.table
from rich.console import Console
from support import lay_out, run_in

from cifar_hpo.analysis.comparison import compare_study
from cifar_hpo.analysis.separation import TOP_K
from cifar_hpo.report.tables import MAX_ROWS, configuration_table, leaderboard, note
from cifar_hpo.study.tables import MISSING
from cifar_hpo.table import Table

JITTER = np.random.default_rng(0).normal(0, 0.003, (3, 5))
JITTER -= JITTER.mean(axis=1, keepdims=True)


def column(table: Table, name: str) -> list[str]:
    place = list(table.columns).index(name)
    return [row[place] for row in table.rows]


def printed(table: rich.table.Table) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_row_says_how_a_configuration_stands_beside_the_best(tmp_path: Path) -> None:
    outcomes = []
    for place, (width, mean) in enumerate({"4": 0.57, "8": 0.699, "16": 0.70}.items()):
        outcomes.append(({"model.filters": width}, list(mean + JITTER[place])))
    table = configuration_table(compare_study("laid", lay_out(tmp_path, outcomes)))
    assert list(table.columns) == [
        "rank",
        "model.filters",
        "val_accuracy",
        "95 %",
        "against the best",
        "test accuracy",
        "parameters",
        "seconds",
        "state",
    ]
    assert column(table, "rank") == ["1", "2", "3"]
    assert column(table, "model.filters") == ["16", "8", "4"]
    assert column(table, "val_accuracy") == ["0.7000", "0.6990", "0.5700"]
    best, tied, worse = column(table, "against the best")
    assert (best, tied) == ("best", "tied")
    assert worse == "worse, p < 0.0001"
    assert column(table, "test accuracy")[0] == "0.6900"
    assert column(table, "parameters") == ["1,002", "1,001", "1,000"]
    assert column(table, "state") == ["FINISHED"] * 3


def test_what_is_not_known_is_said_to_be_unknown_or_left_open(tmp_path: Path) -> None:
    outcomes: list[tuple[dict[str, str], list[float] | str]] = [({"a": "lost"}, "diverged")]
    for place in range(TOP_K + 1):
        outcomes.append(({"a": str(place)}, [0.5 + place / 100]))
    table = configuration_table(compare_study("laid", lay_out(tmp_path, outcomes)))
    expected = ["best"] + ["unknown"] * (TOP_K - 1) + [MISSING, MISSING]
    assert column(table, "against the best") == expected
    assert column(table, "95 %") == ["one replica"] * (TOP_K + 1) + [MISSING]
    assert table.rows[-1][-1] == "FAILED diverged"


def test_of_several_metrics_none_is_called_the_best(tmp_path: Path) -> None:
    storage = lay_out(tmp_path, [({"a": "1"}, [0.5]), ({"a": "2"}, [0.6])])
    comparison = compare_study("laid", storage)
    unjudged = [dataclasses.replace(one, standing=None) for one in comparison.configurations]
    table = configuration_table(dataclasses.replace(comparison, configurations=unjudged))
    assert column(table, "against the best") == [MISSING, MISSING]


def test_an_interval_of_an_accuracy_stays_a_share(tmp_path: Path) -> None:
    storage = lay_out(tmp_path, [({"a": "1"}, [0.9, 0.99])])
    (interval,) = column(configuration_table(compare_study("laid", storage)), "95 %")
    assert interval.endswith(" – 1.0000")


def test_of_many_parameters_a_row_has_the_number_of_its_trial_and_what_differs(
    tmp_path: Path,
) -> None:
    fixed = {f"+fixed_{place}": 1 for place in range(6)}
    outcomes = []
    for width, value in (("4", 0.6), ("8", 0.61)):
        outcomes.append(({**fixed, "model.filters": width}, [value]))
    table = configuration_table(compare_study("laid", lay_out(tmp_path, outcomes)))
    assert list(table.columns)[:4] == ["rank", "trial", "configuration", "val_accuracy"]
    assert list(table.rows[1])[:4] == ["2", "0", "… filters=4", "0.6000"]


def test_a_terminal_shows_the_first_and_how_many_more_there_are(tmp_path: Path) -> None:
    outcomes = [({"a": str(place)}, [place / 100]) for place in range(12)]
    comparison = compare_study("laid", lay_out(tmp_path, outcomes))
    shown = printed(leaderboard(comparison))
    assert len(shown.splitlines()) == 1 + MAX_ROWS + 1
    assert "and 2 more" in shown
    assert "more" not in printed(leaderboard(comparison, limit=12))


def test_the_note_is_the_verdict_and_a_table_in_markdown(tmp_path: Path) -> None:
    storage = lay_out(tmp_path, [({"a|b": "1"}, [0.5]), ({"a|b": "2"}, [0.6])])
    verdict, hint, table = note(compare_study("laid", storage)).split("\n\n")
    assert verdict.startswith("a|b=2 is ahead of a|b=1 by 0.1000")
    assert hint.startswith("If seeds spread")
    first, rule, *rows = table.splitlines()
    assert first.startswith("| rank | a/b | val_accuracy | 95 % | against the best |")
    assert rule.startswith("| --- | --- |")
    assert len(rows) == 2


@pytest.mark.parametrize("module", ["cifar_hpo.studies", "cifar_hpo.report"])
def test_a_list_of_words_is_shown_as_it_is(tmp_path: Path, module: str) -> None:
    lay_out(tmp_path, [({"data.augment": "[flip,shift]"}, [0.5]), ({"data.augment": "[]"}, [0.4])])
    command = ["show"] if module == "cifar_hpo.studies" else []
    shown: subprocess.CompletedProcess[str] = run_in(tmp_path, *command, "laid", module=module)
    assert shown.returncode == 0, shown.stderr
    (row,) = [line for line in shown.stdout.splitlines() if line.startswith("1 ")]
    assert "[flip,shift]" in row


def test_seeds_that_did_not_finish_are_counted(tmp_path: Path) -> None:
    outcomes: list[tuple[dict[str, object], list[float] | str]] = []
    for seed in range(5):
        lost = seed in (1, 3, 4)
        outcomes.append(({"a": "1", "training.seed": seed}, "diverged" if lost else [0.9]))
        outcomes.append(({"a": "2", "training.seed": seed}, [0.5 + seed / 1000]))
        outcomes.append(({"a": "3", "training.seed": seed}, "diverged"))
    outcomes += [({"a": "4", "training.seed": seed}, [0.4 + seed / 1000]) for seed in range(2)]
    table = configuration_table(compare_study("laid", lay_out(tmp_path, outcomes)))
    assert column(table, "a") == ["2", "4", "1", "3"]
    assert column(table, "seeds") == ["5", "2", "2 of 5", "0 of 5"]
    best, fewer, lost_some, lost_all = column(table, "against the best")
    assert (best, lost_some, lost_all) == ("best", "no verdict, 2 of 5 seeds", MISSING)
    assert fewer == "worse, p < 0.0001"


def test_in_an_app_whose_trials_have_no_sizes_a_seed_makes_replicas_too(tmp_path: Path) -> None:
    outcomes = []
    for move, mean in (("swap", 0.5), ("reverse", 0.7)):
        for seed in range(3):
            outcomes.append(({"move": move, "+seed": seed}, [mean + JITTER[0][seed]]))
    storage = lay_out(tmp_path, outcomes, more_meaning={"config": {"move": 1}, "data": []})
    comparison = compare_study("laid", storage)
    assert list(comparison.keys) == ["move"]
    assert [len(one.values) for one in comparison.configurations] == [3, 3]
    assert not comparison.has_replicas
