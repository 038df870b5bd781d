"""The studies of a storage as things: listed, shown, exported, run again and deleted."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage
from support import RealSweep, call_in, lay_out, run_in

from cifar_hpo.paths import HYDRA_FOLDER, HYDRA_SETTINGS
from cifar_hpo.report.__main__ import main as report
from cifar_hpo.studies import ComposedTrial, RankedStudy, main, sweep_folders, trial_folder
from cifar_hpo.study.attributes import FOLDER
from cifar_hpo.study.storage import open_storage, study_lock


def studies(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call_in(folder, main, *arguments)


def laid_out(folder: Path) -> None:
    """Three trials, of which one failed."""
    outcomes: list[tuple[dict[str, str], list[float] | str]] = [
        ({"model.filters": "4"}, [0.5]),
        ({"model.filters": "8"}, [0.6]),
        ({"model.filters": "16"}, "diverged"),
    ]
    lay_out(folder, outcomes)


def keep_settings(folder: Path, number: int, study: str | None) -> None:
    """What Hydra keeps of a trial, as far as its folder is known by it."""
    (folder / HYDRA_FOLDER).mkdir(parents=True)
    job = f"  job:\n    id: '{number}'\n    num: {number}\n    config_name: config\n"
    sweeper = f"  sweeper:\n    study_name: {study or 'null'}\n"
    choices = "  runtime:\n    choices:\n      model: base\n    config_sources: []\n"
    choices += "  overrides:\n    hydra: []\n"
    settings = folder / HYDRA_FOLDER / HYDRA_SETTINGS
    settings.write_text(f"hydra:\n{sweeper}{job}{choices}", encoding="utf-8")


def test_a_list_says_how_trials_ended_and_the_best_value(tmp_path: Path) -> None:
    laid_out(tmp_path)
    lay_out(tmp_path, [], "empty")
    head, empty, laid = studies(tmp_path, "list").stdout.splitlines()
    assert head.split() == ["study", "finished", "pruned", "failed", "waiting", "best"]
    assert empty.split() == ["empty", "0", "0", "0", "0", "–"]
    assert laid.split() == ["laid", "2", "0", "1", "0", "0.6000"]


def test_a_study_is_shown_as_at_the_end_of_its_sweep(tmp_path: Path) -> None:
    laid_out(tmp_path)
    head, *rows = studies(tmp_path, "show", "laid").stdout.splitlines()
    assert head.split() == [
        "rank",
        "trial",
        "model.filters",
        "val_accuracy",
        "test_accuracy",
        "parameters",
        "seconds",
        "state",
    ]
    expected = ["1", "1", "8", "0.6000", "0.5900", "1,001", "8.0", "FINISHED"]
    assert rows[0].split() == expected
    assert rows[2].split()[-2:] == ["FAILED", "diverged"]


def test_trials_are_exported_as_csv_and_as_json(tmp_path: Path) -> None:
    laid_out(tmp_path)
    table = list(csv.DictReader(io.StringIO(studies(tmp_path, "export", "laid").stdout)))
    assert [row["trial"] for row in table] == ["1", "0", "2"]
    assert [row["model.filters"] for row in table] == ["8", "4", "16"]
    assert [row["error"] for row in table] == ["", "", "diverged"]
    trials = json.loads(studies(tmp_path, "export", "laid", "--format", "json").stdout)
    assert [trial["values"] for trial in trials] == [[0.6], [0.5], None]


def test_a_study_is_deleted_when_the_user_is_sure(tmp_path: Path) -> None:
    laid_out(tmp_path)
    assert studies(tmp_path, "delete", "laid", "--yes").returncode == 0
    assert "laid" not in studies(tmp_path, "list").stdout


def test_a_study_is_not_deleted_while_a_sweep_works_on_it(tmp_path: Path) -> None:
    laid_out(tmp_path)
    with study_lock(open_storage(f"sqlite:///{tmp_path}/mlruns/studies.db"), "laid"):
        refused = studies(tmp_path, "delete", "laid", "--yes")
    assert refused.returncode == 2
    who = f"process {os.getpid()}"
    assert (
        refused.stderr
        == f"error: study laid: {who} is working on it; wait for its end, or end it\n"
    )
    assert "laid" in studies(tmp_path, "list").stdout


def test_a_study_is_not_deleted_where_nobody_can_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    laid_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    for stdin in (io.StringIO(""), None):
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(SystemExit) as ended:
            main(["delete", "laid"])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said == "error: nothing was deleted: nobody can be asked here; say --yes\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    main(["delete", "laid"])
    assert optuna.get_all_study_names(open_storage(None)) == []


def test_a_study_whose_name_leads_elsewhere_is_shown_and_touches_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another program named it in a shared storage."""
    here = tmp_path / "deep" / "here"
    (here / "mlruns").mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept.png").touch()
    monkeypatch.chdir(here)
    name = "../../../../victim"
    lay_out(here, [({"a": "1"}, [0.5])], name)
    main(["list"])
    main(["show", name])
    main(["export", name])
    assert capsys.readouterr().out.count(name) == 1
    for command, arguments in ((main, ["delete", name, "--yes"]), (report, [name])):
        with pytest.raises(SystemExit) as ended:
            command(arguments)
        assert ended.value.code == 2
        assert f"error: '{name}' is no name that files can have; " in capsys.readouterr().err
    assert [file.name for file in victim.iterdir()] == ["kept.png"]
    assert optuna.get_all_study_names(open_storage(None)) == [name]


def test_a_study_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    laid_out(tmp_path)
    for command in ("show", "best", "export", "delete"):
        refused = studies(tmp_path, command, "nope")
        assert refused.returncode == 2
        assert refused.stderr == "error: there is no study nope; there are: laid\n"


def test_the_best_of_a_study_without_finished_trials_or_without_its_folder_is_refused(
    tmp_path: Path,
) -> None:
    lay_out(tmp_path, [({"a": "1"}, "diverged")], "failed")
    refused = studies(tmp_path, "best", "failed")
    assert refused.stderr == "error: study failed: no trial has finished\n"
    laid_out(tmp_path)
    refused = studies(tmp_path, "best", "laid")
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: mlruns/outputs/laid/1/.hydra is not there; it holds the configuration of the best "
        "trial\n"
    )


def test_a_command_quotes_what_a_shell_would_take_apart_and_names_the_config() -> None:
    plain = ComposedTrial(["data.augment=[flip,shift]", "a=1"], {}, "config", {})
    assert plain.to_command() == "python -m cifar_hpo 'data.augment=[flip,shift]' a=1"
    named = ComposedTrial(["a=1"], {}, "depth", {})
    assert named.to_command() == "python -m cifar_hpo -cn depth hydra.mode=RUN a=1"
    own = ComposedTrial(["model=resnet"], {}, "config", {}, ["-cd", "conf"])
    assert own.to_command() == "python -m cifar_hpo -cd conf model=resnet"


def test_the_folder_of_a_trial_is_found_whatever_its_name(tmp_path: Path) -> None:
    storage = InMemoryStorage()
    study = optuna.create_study(study_name="s", storage=storage)
    study.set_user_attr(FOLDER, str(tmp_path))
    stored = RankedStudy(study, storage, ["maximize"], [])
    keep_settings(tmp_path / "0", 0, "s")
    keep_settings(tmp_path / "deep" / "lr=0.1", 1, "s")
    keep_settings(tmp_path / "2", 2, None)
    keep_settings(tmp_path / "3", 3, "another")
    keep_settings(tmp_path / "elsewhere" / "3", 3, "s")
    keep_settings(tmp_path / "4", 4, "another")
    assert trial_folder(stored, 0) == tmp_path / "0" / HYDRA_FOLDER
    assert trial_folder(stored, 1) == tmp_path / "deep" / "lr=0.1" / HYDRA_FOLDER
    assert trial_folder(stored, 2) == tmp_path / "2" / HYDRA_FOLDER
    assert trial_folder(stored, 3) == tmp_path / "elsewhere" / "3" / HYDRA_FOLDER
    assert trial_folder(stored, 4) is None, "another study's trial has taken its place"


def test_a_study_that_noted_no_folder_is_looked_for_in_the_default_one() -> None:
    storage = InMemoryStorage()
    study = optuna.create_study(study_name="s", storage=storage)
    stored = RankedStudy(study, storage, ["maximize"], [])
    assert sweep_folders(stored) == [Path("mlruns/outputs/s")]
    study.set_user_attr(FOLDER, "/noted")
    assert sweep_folders(stored) == [Path("/noted"), Path("mlruns/outputs/s")]


@pytest.mark.usefixtures("store")
def test_studies_as_things(tmp_path: Path, real_sweep: RealSweep) -> None:
    folder = real_sweep.folder
    best, _ = json.loads(studies(folder, "export", "real", "--format", "json").stdout)
    shown = studies(folder, "best", "real")
    assert f" model.filters={best['params']['model.filters']}\n" in shown.stdout
    assert shown.stderr == ""
    config = str(tmp_path / "winner.yaml")
    assert studies(folder, "best", "real", "--config", config).returncode == 0
    again = run_in(tmp_path, "-cd", ".", "-cn", "winner", "training.threads=1")
    assert again.returncode == 0, again.stderr
    assert f"val_accuracy {best['values'][0]:.4f}" in again.stdout


@pytest.mark.usefixtures("store")
@pytest.mark.long
def test_the_best_trial_of_a_sweep_in_a_folder_of_the_user_s_own(
    tmp_path: Path, small: list[str]
) -> None:
    """It is found in its folder, and without that in MLflow's run, which does not know the name of
    the config."""
    folders = ["hydra.sweep.dir=elsewhere", "hydra.sweep.subdir=trial_${hydra.job.num}"]
    sweep = ["-m", *small, "optimizer=adam,sgd", "hydra.sweeper.study_name=s", *folders]
    swept = run_in(tmp_path, *sweep)
    assert swept.returncode == 0, swept.stderr
    best, _ = json.loads(studies(tmp_path, "export", "s", "--format", "json").stdout)
    storage = f"sqlite:///{tmp_path}/mlruns/studies.db"
    study = optuna.load_study(study_name="s", storage=storage)
    study.set_user_attr(FOLDER, str(tmp_path / "elsewhere"))
    from_folder = studies(tmp_path, "best", "s")
    assert from_folder.stdout.startswith("python -m cifar_hpo data=npz ")
    assert f" optimizer={best['params']['optimizer']}" in from_folder.stdout
    assert from_folder.stderr == ""
    shutil.rmtree(tmp_path / "elsewhere")
    from_mlflow = studies(tmp_path, "best", "s")
    assert from_mlflow.stdout == from_folder.stdout
    assert "is not there: this is what MLflow has" in from_mlflow.stderr
    assert studies(tmp_path, "best", "s", "--config", "winner.yaml").returncode == 0
    again = run_in(tmp_path, "-cd", ".", "-cn", "winner", "training.threads=1")
    assert again.returncode == 0, again.stderr
    assert f"val_accuracy {best['values'][0]:.4f}" in again.stdout


def test_what_other_programs_note_under_our_names_is_none_of_ours(tmp_path: Path) -> None:
    laid_out(tmp_path)
    storage = open_storage(f"sqlite:///{tmp_path}/mlruns/studies.db")
    other = optuna.create_study(study_name="other", storage=storage, direction="maximize")
    other.set_user_attr("meaning", "of life")
    other.set_user_attr("mlflow", 42)
    trial = other.ask({"x": optuna.distributions.IntDistribution(0, 9)})
    trial.set_user_attr("outcome", "success")
    other.tell(trial, 0.5)
    listed = studies(tmp_path, "list")
    assert listed.returncode == 0
    assert "laid" in listed.stdout
    for command in ("show", "best", "export"):
        shown = studies(tmp_path, command, "other")
        assert "Traceback" not in shown.stderr
    reported = call_in(tmp_path, report, "other")
    assert "Traceback" not in reported.stderr


@pytest.mark.parametrize("name", ["hydra.yaml", "overrides.yaml", "config.yaml"])
@pytest.mark.parametrize("damage", [b"", b"\t: [", b"\xff\xfe"])
def test_a_damaged_file_of_hydra_s_is_told_on_one_line(
    name: str, damage: bytes, tmp_path: Path
) -> None:
    laid_out(tmp_path)
    folder = tmp_path / "mlruns/outputs/laid/1"
    keep_settings(folder, 1, "laid")
    for other in ("overrides.yaml", "config.yaml"):
        (folder / HYDRA_FOLDER / other).write_text("[]" if other[0] == "o" else "{a: 1}")
    (folder / HYDRA_FOLDER / name).write_bytes(damage)
    refused = studies(tmp_path, "best", "laid")
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: mlruns/outputs/laid/1/.hydra is damaged; it holds the configuration of the best "
        "trial\n"
    )
