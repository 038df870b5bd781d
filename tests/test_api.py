"""Studies in Python: what `cifar_hpo.load` gives of one that was laid out, and of a real sweep that
`cifar_hpo.run` has run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import Outcomes, call_in, clean, lay_out

import cifar_hpo
from cifar_hpo.api import LoadedStudy, _column
from cifar_hpo.command import CompletedSweep
from cifar_hpo.errors import StudyError
from cifar_hpo.report.__main__ import main as report
from cifar_hpo.studies import main as studies
from cifar_hpo.study.storage import study_lock
from cifar_hpo.trial import PRUNED

OUTCOMES: Outcomes = [
    ({"model.filters": "4"}, [0.50, 0.511, 0.523]),
    ({"model.filters": "8"}, [0.70, 0.712, 0.722]),
    ({"model.filters": "16"}, "diverged <at> epoch 2"),
    ({"model.filters": "32"}, PRUNED),
]


def loaded(folder: Path, name: str | None = "laid") -> LoadedStudy:
    return cifar_hpo.load(name, f"sqlite:///{folder}/mlruns/studies.db")


def content_of(folder: Path) -> dict[str, str]:
    """A digest of every file, by its path."""
    digests = {}
    for path in folder.rglob("*"):
        if path.is_file():
            digests[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def test_trials_are_a_table_with_a_row_for_each_that_counted(tmp_path: Path) -> None:
    lay_out(tmp_path, OUTCOMES)
    trials = loaded(tmp_path).trials
    assert trials["number"].tolist() == [1, 0, 2, 3]
    assert trials["state"].tolist() == ["FINISHED", "FINISHED", "FAILED", "PRUNED"]
    assert trials["model.filters"].tolist() == ["8", "4", "16", "32"]
    assert trials["val_accuracy"].tolist()[:2] == pytest.approx([0.71133, 0.51133], abs=1e-4)
    assert trials["val_accuracy"].isna().tolist() == [False, False, True, True]
    assert trials["replica_2/val_accuracy"].iloc[0] == 0.722
    assert trials["error"].iloc[2] == "diverged <at> epoch 2"
    kinds = trials.dtypes.astype(str).to_dict()
    assert kinds["number"] == "int64"
    assert kinds["state"] == kinds["model.filters"] == kinds["run_id"] == "str"
    assert kinds["val_accuracy"] == kinds["seconds"] == "float64"
    assert isinstance(trials["ended"].dtype, pd.DatetimeTZDtype)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([4, 8], "int64"),
        ([4, None], "Int64"),
        ([True, False], "bool"),
        ([True, None], "boolean"),
        ([0.5, 1], "float64"),
        ([0.5, None], "float64"),
        (["relu", "elu"], "str"),
        (["null", 3], "object"),
        ([2**70, 1], "float64"),
        ([None, None], "object"),
    ],
)
def test_the_column_of_a_parameter_has_the_kind_of_its_values(
    values: list[bool | int | float | str | None], kind: str
) -> None:
    column = _column(values)
    assert str(column.dtype) == kind
    assert [None if pd.isna(value) else value for value in column] == values


def test_names_that_are_taken_are_told_apart(tmp_path: Path) -> None:
    outcomes: Outcomes = [({"state": "a", "val_accuracy": "b", "parameters": "c"}, [0.5])]
    lay_out(tmp_path, outcomes)
    trials = loaded(tmp_path).trials
    row = trials.iloc[0]
    assert (row["state"], row["params.state"]) == ("FINISHED", "a")
    assert (row["val_accuracy"], row["metrics.val_accuracy"]) == ("b", 0.5)
    assert (row["parameters"], row["metrics.parameters"]) == ("c", 1000)


def test_the_best_and_the_verdict(tmp_path: Path) -> None:
    lay_out(tmp_path, OUTCOMES)
    study = loaded(tmp_path)
    assert (study.name, study.metrics, study.directions) == ("laid", ["val_accuracy"], ["maximize"])
    best = study.best
    assert (best.params, best.trial, best.metric) == ({"model.filters": "8"}, 1, "val_accuracy")
    assert best.by_seed == {0: 0.7, 1: 0.712, 2: 0.722}
    assert best.interval is not None
    assert best.interval[0] < best.value < best.interval[1]
    (claim,) = study.verdict.claims
    assert (claim.first, claim.second, claim.n) == ("filters=8", "filters=4", 3)
    assert str(study.verdict).startswith("filters=8 is the best of these 2, and that is not luck")
    assert study.verdict._repr_html_().startswith("<p>filters=8 is the best")


def test_a_study_shows_itself(tmp_path: Path) -> None:
    lay_out(tmp_path, OUTCOMES)
    study = loaded(tmp_path)
    text = repr(study).splitlines()
    assert text[0] == "study laid: 4 trials of 4 configurations"
    assert text[1].startswith("filters=8 is the best")
    assert [line.split()[:2] for line in text[-5:-2]] == [
        ["rank", "model.filters"],
        ["1", "8"],
        ["2", "4"],
    ]
    page = study._repr_html_()
    assert page.count("<tr>") == 5
    assert "FAILED diverged &lt;at&gt; epoch 2" in page


@pytest.mark.parametrize("outcomes", [[], [({"a": "1"}, "diverged")]])
def test_a_study_without_a_value_is_there_and_has_no_best(
    outcomes: Outcomes, tmp_path: Path
) -> None:
    lay_out(tmp_path, outcomes)
    study = loaded(tmp_path)
    assert len(study.trials) == len(outcomes)
    assert "No trial has finished" in repr(study)
    assert "No trial has finished" in study._repr_html_()
    with pytest.raises(StudyError, match=r"^study laid: no trial has finished$"):
        study.best  # noqa: B018
    with pytest.raises(StudyError, match=r"^study laid was not logged to MLflow$"):
        study.curves()


def test_what_is_not_there_is_told_on_one_line_with_what_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, OUTCOMES)
    with pytest.raises(StudyError, match=r"^there is no study nope; there are: laid$"):
        loaded(tmp_path, "nope")
    monkeypatch.chdir(tmp_path / "mlruns")
    with pytest.raises(StudyError, match=r"^mlruns/studies\.db is not here; go to the folder"):
        cifar_hpo.load("laid")
    (tmp_path / "mlruns" / "studies.db").write_text("nothing")
    with pytest.raises(StudyError, match="is damaged; restore a copy"):
        loaded(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("swept")


@pytest.fixture(scope="module")
def completed(folder: Path, small: list[str], migrated: Path) -> CompletedSweep:
    """A real sweep of two configurations with two replicas."""
    (folder / "mlflow.db").write_bytes(migrated.read_bytes())
    overrides = ["model.filters=2,3", "training.replicas=2", "hydra.sweeper.study_name=full"]
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - clean().keys():  # where another test's images lie
            patch.delenv(name)
        return cifar_hpo.run(["-m", *small, *overrides])


@pytest.fixture
def study(folder: Path, completed: CompletedSweep, monkeypatch: pytest.MonkeyPatch) -> LoadedStudy:
    monkeypatch.chdir(folder)
    return completed.study


@pytest.fixture
def unchanged(folder: Path, completed: CompletedSweep) -> Iterator[None]:
    """No file is made or changed in the sweep's folder, nor is MLflow's store in this process."""
    import mlflow

    before = content_of(folder)
    environment = dict(os.environ)
    uri = mlflow.get_tracking_uri()
    yield
    assert content_of(folder) == before
    assert os.environ.get("MLFLOW_TRACKING_URI") == environment.get("MLFLOW_TRACKING_URI")
    assert mlflow.get_tracking_uri() == uri


def test_a_sweep_that_was_run_is_loaded(completed: CompletedSweep, study: LoadedStudy) -> None:
    assert (completed.returncode, completed.study_name) == (0, "full")
    assert study.trials["model.filters"].dtype == "int64"
    assert sorted(study.trials["model.filters"]) == [2, 3]
    assert study.trials["run_id"].str.fullmatch("[0-9a-f]{32}").all()
    assert study.best.run_id == study.trials["run_id"].iloc[0]


@pytest.mark.usefixtures("unchanged")
def test_curves_are_epochs_by_metrics(study: LoadedStudy) -> None:
    curves = study.curves()
    assert curves.index.name == "epoch"
    assert curves.index.tolist() == [1, 2]
    assert {"val_accuracy", "loss", "replica_0/val_accuracy", "replica_1/loss"} <= set(curves)
    assert "test_accuracy" not in curves
    assert curves["val_accuracy"].iloc[-1] == pytest.approx(study.best.value)
    other = study.trials["number"].iloc[1]
    last = study.curves(int(other))["val_accuracy"].iloc[-1]
    assert last == pytest.approx(study.trials["val_accuracy"].iloc[1])
    with pytest.raises(StudyError, match=r"^study full has no trial 7; there are: 0, 1$"):
        study.curves(7)


@pytest.mark.usefixtures("unchanged")
def test_the_model_of_the_best_trial_predicts_as_its_run_says(
    study: LoadedStudy, npz: Path
) -> None:
    with np.load(npz) as arrays:
        predicted = study.model().predict(arrays["x_test"], verbose=0).argmax(axis=1)
        accuracy = float((predicted == arrays["y_test"]).mean())
    row = study.trials.iloc[0]
    by_replica = [row["replica_0/test_accuracy"], row["replica_1/test_accuracy"]]
    assert any(accuracy == pytest.approx(value) for value in by_replica)
    with pytest.raises(StudyError, match=r"^study full has no trial 9; there are: 0, 1$"):
        study.model(9)


def test_a_study_is_read_while_another_process_holds_it(study: LoadedStudy, folder: Path) -> None:
    from cifar_hpo.study.storage import open_existing

    with study_lock(open_existing(None), "full"):
        before = content_of(folder)
        again = cifar_hpo.load()
        assert again.trials.equals(study.trials)
        assert repr(again) == repr(study)
        assert len(again.curves()) == 2
        assert content_of(folder) == before


@pytest.mark.usefixtures("unchanged")
def test_the_best_is_no_worse_than_the_champion_that_it_is(
    study: LoadedStudy, folder: Path
) -> None:
    held = call_in(folder, report, "full", "--json", "--not-worse-than", "champion")
    assert held.returncode == 0, held.stderr
    document = json.loads(held.stdout)["not_worse_than"]
    assert document["reference"] == "cifar_hpo-small version 1, champion"
    assert (document["claim"]["gap"], document["claim"]["n"]) == (0, 2)
    said = r"filters=\d of study full is cifar_hpo-small version 1, champion\."
    assert re.fullmatch(said, document["sentence"])


def test_a_study_that_is_worse_than_the_champion_ends_with_exit_code_1(
    study: LoadedStudy, folder: Path, tmp_path: Path
) -> None:
    """The champion's values come from its run where its study is in another storage."""
    import optuna

    from cifar_hpo.study.stored import MEANING

    meaning = optuna.load_study(
        study_name="full", storage=f"sqlite:///{folder}/mlruns/studies.db"
    ).user_attrs[MEANING]
    by_seed = study.best.by_seed
    poorer = [by_seed[0] - 0.1, by_seed[1] - 0.1001]
    lay_out(tmp_path, [({"f": "1"}, poorer)], "poor", more_meaning=meaning)
    uri = f"sqlite:///{folder}/mlflow.db"
    reference = ["--not-worse-than", "champion", "--tracking-uri", uri]
    held = call_in(tmp_path, report, "poor", "--json", *reference)
    assert held.returncode == 1
    document = json.loads(held.stdout)["not_worse_than"]
    assert (document["holds"], document["claim"]["shows"]) == (False, "worse")
    assert document["claim"]["n_second"] == 2
    assert document["claim"]["gap"] == pytest.approx(-0.10005)
    other = {**meaning, "data": ["small:0123"]}
    lay_out(tmp_path, [({"f": "1"}, [0.5, 0.6])], "elsewhere", more_meaning=other)
    refused = call_in(tmp_path, report, "elsewhere", *reference)
    assert refused.returncode == 2
    assert refused.stderr.endswith("champion, which was measured on other images\n")


def test_the_model_of_a_trial_is_exported(study: LoadedStudy, folder: Path) -> None:
    made = call_in(folder, studies, "export-model", "full", "--format", "tf_saved_model")
    assert made.returncode == 0, made.stderr
    number = study.best.trial
    said = rf"trial {number} of study full: mlruns/exports/full/{number}/saved_model; on 100 test "
    said += r"images of small its predictions differ from Keras' own by [\d.e-]+ at most\n"
    assert re.fullmatch(said, made.stdout)
    about = json.loads((folder / f"mlruns/exports/full/{number}/saved_model.json").read_text())
    assert about["input"] == {"shape": [None, 32, 32, 3], "dtype": "uint8"}
    assert about["classes"][3] == "class 3"
    for arguments, error in {
        ("--trial", "9"): "study full has no trial 9; there are: 0, 1",
        ("--output", "mlflow.db"): "file exists: mlflow.db; move it away",
    }.items():
        command = ["export-model", "full", "--format", "tf_saved_model", *arguments]
        refused = call_in(folder, studies, *command)
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"error: {error}")
        assert refused.stderr.count("\n") == 1
