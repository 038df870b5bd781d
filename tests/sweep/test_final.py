"""Sweeps with a final stage, by commands as users have them."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from support import STUB_SWEEP, clean, run_command, run_in, wait_for

from cifar_hpo.analysis.comparison import Comparison, compare_study
from cifar_hpo.study.storage import open_storage

APP = """
import time
from pathlib import Path

import hydra

def task(config):
    if config.x == 3 and Path("breaks").exists():
        raise ValueError("broken")
    if config.seed == 1000 and Path("breaks_late").exists():
        raise ValueError("broken late")
    while config.seed == 1001 and Path("waits").exists():
        Path("reached").touch()
        time.sleep(0.02)
    luck = 2 if config.seed == 0 and config.x == 2 else 0
    value = 2 * config.x - abs(config.rate - config.x) + luck + config.seed % 1000 / 1000
    return {"y": value * config.epochs}

if __name__ == "__main__":
    hydra.main(version_base="1.3", config_path=".", config_name="config")(task)()
"""


def command(folder: Path, *arguments: str) -> list[str]:
    (folder / "app.py").write_text(APP)
    (folder / "config.yaml").write_text("seed: 0\nx: 0\nrate: 1\nepochs: 1\nmodel: {width: 1}\n")
    return [sys.executable, *STUB_SWEEP, *arguments]


def sweep(folder: Path, *arguments: str, returncode: int = 0) -> str:
    done = run_command(folder, command(folder, *arguments))
    assert done.returncode == returncode, done.stderr
    return done.stdout


def compared(folder: Path, study: str) -> Comparison:
    return compare_study(study, open_storage(f"sqlite:///{folder}/mlruns/studies.db"))


def values_of(folder: Path, study: str = "s_final") -> list[tuple[Mapping[str, Any], list[int]]]:
    """What varied of each configuration, and its seeds, the best first."""
    found = []
    for configuration in compared(folder, study).configurations:
        found.append((configuration.params, sorted(configuration.values)))
    return found


FINAL = "hydra.sweeper.final={top: 2, replicas: 3, set: {epochs: 4}}"
FRESH = [1000, 1001, 1002]


def test_the_best_and_the_base_are_trained_again_from_fresh_seeds(tmp_path: Path) -> None:
    shown = sweep(tmp_path, "x=1,2,3", FINAL)
    expected = "the 2 best and the base configuration once more, from 3 fresh seeds each"
    assert f"final stage: {expected}, with epochs=4" in shown
    assert "study s_final: 9 trials" in shown
    assert values_of(tmp_path) == [({"x": 3}, FRESH), ({"x": 2}, FRESH), ({}, FRESH)]
    values = {c.name: c.value for c in compared(tmp_path, "s_final").configurations}
    assert values["base"] == pytest.approx((-1 + 0.001) * 4)
    assert "again:  python app.py x=3 epochs=4 seed=1002" in shown
    numbers = {int(file.parent.name) for file in tmp_path.glob("multirun/*/*/final/*/.hydra")}
    assert numbers == set(range(9)), "in folders of their own"
    (folder,) = tmp_path.glob("multirun/*/*/0/.hydra")
    assert "final" not in str(folder)

    told = run_in(tmp_path, "s", "--json", module="cifar_hpo.report")
    assert json.loads(told.stdout)["final_stage"] == "s_final"
    again = sweep(tmp_path, "x=1,2,3", FINAL)
    assert "study s: 3 trials, 3 done before" in again
    assert "study s_final: 9 trials, 9 done before" in again


def test_what_is_set_may_be_nested_and_a_part_of_it_overridden(tmp_path: Path) -> None:
    final = "hydra.sweeper.final={top: 1, replicas: 2, set: {model: {width: 4}, epochs: 3}}"
    shown = sweep(tmp_path, "x=1,2", final, "hydra.sweeper.final.set.model.width=5")
    assert "2 fresh seeds each, with model.width=5 epochs=3" in shown


@pytest.mark.long
def test_a_search_that_grows_has_other_finalists_and_what_was_trained_stays(tmp_path: Path) -> None:
    sweep(tmp_path, "x=1,2", FINAL, "hydra.sweeper.n_trials=1", "hydra/sweeper/sampler=grid")
    first = values_of(tmp_path)
    assert len(first) == 2
    shown = sweep(tmp_path, "x=1,2,3,4", "rate=1", FINAL)
    assert "[4/4]" in shown
    params = [params for params, _ in values_of(tmp_path)]
    assert {"x": 2} in params
    assert {"x": 4} in params
    assert all(known in values_of(tmp_path) for known in first)


def test_each_configuration_takes_part_at_its_best_values_of_nuisance_keys(
    tmp_path: Path,
) -> None:
    shown = sweep(tmp_path, "x=1,2,3", "rate=1,2,3", "hydra.sweeper.nuisance=[rate]")
    assert "final stage: 3 configurations, each at its best rate, once more" in shown
    best = [params for params, _ in values_of(tmp_path)]
    assert best == [{"x": 3, "rate": 3}, {"x": 2, "rate": 2}, {"x": 1, "rate": 1}]


def test_a_search_with_seeds_or_replicas_has_finalists_by_its_means(tmp_path: Path) -> None:
    sweep(tmp_path, "x=1,2", "seed=0,1", "hydra.sweeper.final={top: 1, replicas: 2}")
    assert values_of(tmp_path) == [({"x": 2}, [1000, 1001]), ({}, [1000, 1001])]


def test_a_killed_final_stage_goes_on_and_a_search_that_was_stopped_has_none(
    tmp_path: Path,
) -> None:
    (tmp_path / "waits").touch()
    arguments = command(tmp_path, "x=1,2", FINAL)
    with subprocess.Popen(arguments, cwd=tmp_path, env=clean(), start_new_session=True) as process:
        wait_for((tmp_path / "reached").exists)
        process.send_signal(signal.SIGKILL)
    (tmp_path / "waits").unlink()
    shown = sweep(tmp_path, "x=1,2", FINAL)
    assert "study s: 2 trials, 2 done before" in shown
    assert "study s_final: 9 trials, 3 done before" in shown
    assert sorted(len(seeds) for _, seeds in values_of(tmp_path)) == [3, 3, 3]

    (tmp_path / "breaks").touch()
    options = ("hydra.sweeper.study_name=t", "hydra.sweeper.max_failures=1")
    stopped = sweep(tmp_path, "x=3,1,2", FINAL, *options, returncode=1)
    assert "no final stage, because the search was cut short" in stopped
    assert "t_final" not in stopped
    some = sweep(tmp_path, "x=3,1,2", FINAL, options[0], returncode=1)
    assert "study t_final: 9 trials" in some


@pytest.mark.parametrize(
    ("problem", "arguments"),
    [
        ("hydra.sweeper.final.set.x: the search varies it", ["{set: {x: 3}}"]),
        (
            "hydra.sweeper.final.set.epochs: epochs=3,4 is more than one value",
            ["{set: {epochs: '3,4'}}"],
        ),
        ("hydra.sweeper.final.set.seed: the final stage has fresh seeds", ["{set: {seed: 3}}"]),
        ("To append to your config use +other=3", ["{set: {other: 3}}"]),
        (
            "has more than 94 letters; its final stage adds some",
            ["{}", f"hydra.sweeper.study_name={'n' * 97}"],
        ),
        ("lacks a choice of opt; base: false leaves it out", ["{base: true}", "opt=sgd,adam"]),
    ],
)
def test_what_a_final_stage_can_t_do_is_told_before_the_search(
    tmp_path: Path, problem: str, arguments: list[str]
) -> None:
    final, *more = arguments
    command_line = command(tmp_path, "x=1,2", f"hydra.sweeper.final={final}", *more)
    if "opt=sgd,adam" in more:
        write_optimizers(tmp_path)
    done = run_command(tmp_path, command_line)
    assert done.returncode != 0
    assert problem in done.stderr
    assert not (tmp_path / "mlruns" / "studies.db").exists()


def write_optimizers(folder: Path) -> None:
    """Let the app's config have a group of which one must be chosen."""
    (folder / "opt").mkdir()
    (folder / "opt" / "sgd.yaml").write_text("name: sgd\nmomentum: 0.9\n")
    (folder / "opt" / "adam.yaml").write_text("name: adam\n")
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text("defaults: [{opt: '???'}, _self_]\n" + config)


@pytest.mark.long
def test_where_a_group_must_be_chosen_the_base_takes_no_part_and_finalists_may_change(
    tmp_path: Path,
) -> None:
    arguments = command(tmp_path, "opt=sgd,adam", "hydra.sweeper.final={top: 1, replicas: 2}")
    write_optimizers(tmp_path)
    body = (tmp_path / "app.py").read_text()
    for best in ("sgd", "adam"):  # of two searches of one name
        bonus = f"value = 9 * (config.opt.name == '{best}') + "
        (tmp_path / "app.py").write_text(body.replace("value = ", bonus))
        done = run_command(tmp_path, arguments)
        assert done.returncode == 0, done.stderr
        assert "the best once more, from 2 fresh seeds each" in done.stdout
        run_in(tmp_path, "delete", "s", "--yes", module="cifar_hpo.studies")
    assert {params["opt"] for params, _ in values_of(tmp_path)} == {"sgd", "adam"}


def test_a_search_of_seeds_that_lie_far_apart_goes_on_with_its_final_stage(tmp_path: Path) -> None:
    final = "hydra.sweeper.final={top: 1, replicas: 2, base: false}"
    sweep(tmp_path, "x=1,2", "seed=0,1337", final)
    assert values_of(tmp_path) == [({"x": 2}, [2000, 2001])]
    again = sweep(tmp_path, "x=1,2", "seed=0,1337", final)
    assert "study s_final: 2 trials, 2 done before" in again
    grown = sweep(tmp_path, "x=1,2", "seed=0,1337,4000", final)
    assert "study s_final: 2 trials, 2 done before" in grown
    used = command(tmp_path, "x=1,2", "seed=0,1337,2000,4000", final)
    refused = run_command(tmp_path, used)
    assert refused.returncode == 2
    assert "study s_final means something else (first_seed 2000 → 5000)" in refused.stderr


def test_a_final_stage_s_failed_seeds_are_tried_again(tmp_path: Path) -> None:
    """As the program says how to."""
    final = "hydra.sweeper.final={top: 1, replicas: 2, base: false}"
    (tmp_path / "breaks_late").touch()
    shown = sweep(tmp_path, "x=1,2", final, returncode=1)
    assert "of which a seed failed (hydra.sweeper.retry_failed=true tries it again)" in shown
    (tmp_path / "breaks_late").unlink()
    again = sweep(tmp_path, "x=1,2", final, "hydra.sweeper.retry_failed=true")
    assert "no verdict" not in again
    assert values_of(tmp_path) == [({"x": 2}, [1000, 1001])]


@pytest.mark.long
def test_a_search_without_a_value_has_no_final_stage_and_one_that_failed_once_has(
    tmp_path: Path,
) -> None:
    (tmp_path / "breaks").touch()
    alone = ("x=3", "rate=1,2", "hydra.sweeper.final={top: 1, replicas: 2, base: false}")
    shown = sweep(tmp_path, *alone, returncode=1)
    assert "no final stage: no trial of the search has a value" in shown
    (tmp_path / "breaks").unlink()
    shown = sweep(tmp_path, *alone, "hydra.sweeper.retry_failed=true")
    assert "study s_final: 2 trials" in shown
    assert values_of(tmp_path) == [({"rate": 2}, [1000, 1001])]


@pytest.mark.long
def test_a_value_that_names_another_one_means_the_same_in_both_stages(tmp_path: Path) -> None:
    final = "hydra.sweeper.final={top: 1, replicas: 2, base: false}"
    sweep(tmp_path, "x=1,${rate}", "rate=3", final)
    (best,) = compared(tmp_path, "s_final").configurations
    assert best.value == pytest.approx(2 * 3 + 0.0005)


@pytest.mark.long
def test_the_champion_is_of_the_configuration_with_the_best_mean(
    tmp_path: Path, small: list[str]
) -> None:
    arguments = ["-m", *small, "training.epochs=1", "model.filters=2,4", "training.seed=0,1"]
    arguments.append("hydra.sweeper.study_name=s")
    assert run_in(tmp_path, *arguments).returncode == 0
    set_values(tmp_path, {(2, 0): 0.95, (2, 1): 0.85, (4, 0): 0.91, (4, 1): 0.92})
    again = run_in(tmp_path, *arguments)
    assert "4 done before" in again.stdout, again.stderr
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    champion = client.get_model_version_by_alias("cifar_hpo-small", "champion")
    assert float(champion.tags["value"]) == pytest.approx(0.915)
    params = client.get_run(champion.run_id).data.params
    assert (params["model.filters"], params["training.seed"]) == ("4", "1")
    named = run_in(tmp_path, "best", "s", module="cifar_hpo.studies")
    assert " model.filters=4 training.seed=1\n" in named.stdout, named.stderr

    set_values(tmp_path, {(2, 0): 0.90, (2, 1): 0.88, (4, 0): 0.71, (4, 1): 0.72})
    assert run_in(tmp_path, *arguments).returncode == 0
    champion = client.get_model_version_by_alias("cifar_hpo-small", "champion")
    assert float(champion.tags["value"]) == pytest.approx(0.89), "a study replaces its own"


def set_values(folder: Path, values: Mapping[tuple[int, int], float]) -> None:
    """Let the trials of a study have found other values, by their filters and seeds."""
    storage = open_storage(f"sqlite:///{folder}/mlruns/studies.db")
    with sqlite3.connect(folder / "mlruns" / "studies.db") as connection:
        for trial in optuna.load_study(study_name="s", storage=storage).get_trials():
            key = (trial.params["model.filters"], trial.params["training.seed"])
            outcome = {**trial.user_attrs["outcome"], "values": [values[key]]}
            connection.execute(
                "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'outcome' AND "
                "trial_id = (SELECT trial_id FROM trials WHERE number = ?)",
                (json.dumps(outcome), trial.number),
            )


@pytest.mark.long
def test_the_champion_is_of_the_final_stage(tmp_path: Path, small: list[str]) -> None:
    final = "hydra.sweeper.final={top: 1, replicas: 2, base: false}"
    done = run_in(tmp_path, "-m", *small, "model.filters=2,4", "hydra.sweeper.study_name=s", final)
    assert done.returncode == 0, done.stderr
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (model,) = client.search_registered_models()
    champion = client.get_model_version_by_alias(model.name, "champion")
    assert champion.tags["study"] == "s_final"
