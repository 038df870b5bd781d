"""Studies as JSON, through the commands that print it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import Outcomes, call_in, lay_out

from cifar_hpo.paths import PACKAGE
from cifar_hpo.report.__main__ import main as report
from cifar_hpo.report.as_json import to_json
from cifar_hpo.studies import main as studies
from cifar_hpo.trial import PRUNED

PAGE = PACKAGE / "report" / "README.md"
OUTCOMES: Outcomes = [
    ({"model.filters": "4"}, [0.50, 0.511, 0.523]),
    ({"model.filters": "8"}, [0.70, 0.712, 0.722]),
    ({"model.filters": "16"}, "diverged"),
    ({"model.filters": "32"}, PRUNED),
]

FREE = {"params", "metrics", "values", "missing", "counts"}
"""Keys whose objects are keyed by what a study has."""


def parsed(ended: subprocess.CompletedProcess[str]) -> Any:
    """The document alone that a command printed; what is no strict JSON is refused."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout, parse_constant=refuse)


def keys_of(document: Any) -> set[str]:
    """The keys of a document, at any depth, that are ours."""
    if isinstance(document, list):
        return set().union(*map(keys_of, document))
    if not isinstance(document, dict):
        return set()
    keys = set(document)
    for key, child in document.items():
        if key not in FREE or isinstance(child, list):
            keys |= keys_of(child)
    return keys


def test_a_report_says_each_claim_with_gap_interval_p_and_n(tmp_path: Path) -> None:
    lay_out(tmp_path, OUTCOMES)
    document = parsed(call_in(tmp_path, report, "laid", "--json"))
    assert (document["version"], document["study"]) == (1, "laid")
    assert document["decision"] == "best"
    assert document["sentences"][0].startswith("filters=8 is the best of these 2")
    (claim,) = document["claims"]
    assert (claim["first"], claim["second"], claim["shows"]) == ("filters=8", "filters=4", "better")
    assert claim["gap"] == pytest.approx(0.2, abs=1e-3)
    assert claim["interval"][0] < claim["gap"] < claim["interval"][1]
    assert claim["p"] < 0.05
    assert claim["n"] == 3
    first, second, *others = document["configurations"]
    assert (first["standing"], second["standing"]) == ("best", "worse")
    assert first["values"] == {"0": 0.7, "1": 0.712, "2": 0.722}
    assert {other["standing"] for other in others} == {"without a value"}
    assert document["counts"] == {
        "finished": 2,
        "pruned": 1,
        "failed": 1,
        "running": 0,
        "waiting": 0,
    }
    assert not (tmp_path / "mlruns" / "reports").exists(), "it writes no page"


def test_trials_and_studies_are_listed_as_json(tmp_path: Path) -> None:
    lay_out(tmp_path, OUTCOMES)
    lay_out(tmp_path, [], "empty")
    shown = parsed(call_in(tmp_path, studies, "show", "laid", "--json"))
    assert [trial["trial"] for trial in shown["trials"]] == [1, 0, 2, 3]
    assert [trial["error"] for trial in shown["trials"]][2] == "diverged"
    assert shown["trials"][0]["metrics"]["replica_1/val_accuracy"] == 0.712
    assert shown["claims"][0]["n"] == 3
    listed = parsed(call_in(tmp_path, studies, "list", "--json"))
    empty, laid = listed["studies"]
    assert (empty["study"], empty["best"]) == ("empty", None)
    assert laid["best"] == {"trial": 1, "value": pytest.approx(0.71133, abs=1e-4)}


@pytest.mark.parametrize("outcomes", [[], [({"a": "1"}, "diverged")], [({"a": "1"}, [0.5])]])
def test_a_study_with_nothing_to_compare_is_a_document_too(
    outcomes: Outcomes, tmp_path: Path
) -> None:
    lay_out(tmp_path, outcomes)
    document = parsed(call_in(tmp_path, report, "laid", "--json"))
    assert document["claims"] == []
    assert len(document["sentences"]) == 1
    assert len(document["configurations"]) == len(outcomes)


def test_numbers_that_json_does_not_have_are_null_and_all_signs_are_ascii() -> None:
    document: dict[Any, Any] = {
        "a": [float("nan"), {"b": float("inf")}],
        "c": 0.1,
        4: "ü",
        "d": (1, True),
    }
    text = to_json(document)
    assert text.isascii()
    assert json.loads(text) == {"a": [None, {"b": None}], "c": 0.1, "4": "ü", "d": [1, True]}


def test_every_key_stands_on_the_page_and_the_page_names_no_other(tmp_path: Path) -> None:
    lay_out(tmp_path, OUTCOMES)
    lay_out(tmp_path, OUTCOMES, "other")
    printed = set()
    for command, arguments in (
        (report, ["laid", "--json", "--not-worse-than", "other"]),
        (studies, ["show", "laid", "--json"]),
        (studies, ["list", "--json"]),
    ):
        printed |= keys_of(parsed(call_in(tmp_path, command, *arguments)))
    cells = re.findall(r"^\| (?:… )?(`[^|]+`) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    text = PAGE.read_text(encoding="utf-8")
    assert {key for key in printed if f"`{key}`" not in text} == set()
    assert named - printed == set()


def test_an_error_leaves_standard_output_empty(tmp_path: Path) -> None:
    lay_out(tmp_path, OUTCOMES)
    for command, arguments in ((report, ["nope", "--json"]), (studies, ["show", "nope", "--json"])):
        refused = call_in(tmp_path, command, *arguments)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == "error: there is no study nope; there are: laid\n"


def test_json_goes_with_neither_a_browser_nor_a_screen(tmp_path: Path) -> None:
    for option in ("--open", "--watch"):
        refused = call_in(tmp_path, report, "laid", "--json", option)
        assert refused.returncode == 2
        assert "not allowed with argument" in refused.stderr
