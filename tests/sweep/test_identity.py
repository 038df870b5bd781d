"""What a study means, and the name that follows from it."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.utils import setup_globals
from omegaconf import DictConfig, OmegaConf

from cifar_hpo.study.space import Choices, Interval, Space
from cifar_hpo.sweep.identity import automatic_name, meaning_of, unvaried_config

CONFIG: Any = OmegaConf.create(
    {
        "model": {"filters": 4, "mirror": False, "depth": "${training.epochs}"},
        "training": {"epochs": 3},
        "mlflow": {"tracking_uri": "here"},
        "hydra": {"job": {"num": 1}},
    }
)
OPTIONS = {
    "metric": "val_accuracy",
    "direction": "maximize",
    "constraints": [],
    "conditions": {},
    "sampler": {"name": "grid"},
    "pruner": {"name": "none"},
}


def space(key: str = "model.filters") -> Space:
    return Space({key: Choices({4: "4", 8: "8"})})


def test_what_varies_and_where_things_are_stored_is_no_part_of_the_meaning() -> None:
    assert unvaried_config(CONFIG, space(), {}) == {
        "model": {"mirror": False, "depth": "${training.epochs}"},
        "training": {"epochs": 3},
    }


@pytest.mark.parametrize("key", ["+model.filters", "~model.filters", "db@model.filters"])
def test_a_key_is_found_however_its_override_is_written(key: str) -> None:
    assert "filters" not in unvaried_config(CONFIG, space(key), {})["model"]


@pytest.mark.parametrize("key", ["nothing", "nothing.deeper", "training.epochs.deeper"])
def test_a_key_that_is_not_there_changes_nothing(key: str) -> None:
    assert unvaried_config(CONFIG, space(key), {})["training"] == {"epochs": 3}


def test_a_key_that_came_later_is_left_out_where_it_does_what_was_done_before() -> None:
    model = unvaried_config(CONFIG, space(), {"model.mirror": False})["model"]
    assert "mirror" not in model
    model = unvaried_config(CONFIG, space(), {"model.mirror": True})["model"]
    assert model["mirror"] is False


def test_a_key_that_says_how_trials_are_logged_is_no_part_of_the_meaning() -> None:
    meaning = meaning_of(CONFIG, space(), OPTIONS, {}, unmeant_keys=["model.mirror", "not.there"])
    assert meaning["config"]["model"] == {"depth": "${training.epochs}"}


def test_a_grid_may_gain_cells_and_another_space_may_not_change() -> None:
    assert "space" not in meaning_of(CONFIG, space(), OPTIONS, {})
    sampled = {**OPTIONS, "sampler": {"name": "tpe"}}
    endless = Space({"model.filters": Interval(1, 9, log=False)})
    meanings = [meaning_of(CONFIG, one, sampled, {}) for one in (space(), endless)]
    assert meanings[0]["space"] != meanings[1]["space"]


def test_the_name_is_what_varies_and_a_hash_of_the_meaning() -> None:
    meaning = meaning_of(CONFIG, space(), OPTIONS, {})
    name = automatic_name(space(), meaning)
    assert name.startswith("filters-")
    assert name == automatic_name(space(), dict(reversed(meaning.items())))
    assert name != automatic_name(space(), {**meaning, "metric": "val_loss"})
    assert automatic_name(Space({}), meaning).startswith("one-")
    assert automatic_name(space("+a/b"), meaning).startswith("a-b-")
    assert isinstance(CONFIG, DictConfig)


INTERPOLATED: Any = OmegaConf.create(
    {
        "training": {
            "seed": "${oc.env:SEED}",
            "epochs": "${oc.decode:${oc.env:SEED}}",
            "threads": "${training.seed}",
            "batch_size": "${hydra:job.num}",
        },
        "data": {"path": "${now:%f}-${oc.env:SEED}", "augment": ["${oc.env:SEED}"]},
        "mlflow": {"tracking_uri": "${oc.env:SEED}"},
    }
)


def interpolated(seed: str, monkeypatch: pytest.MonkeyPatch, *values: str) -> Any:
    monkeypatch.setenv("SEED", seed)
    wanted = Space({"model.filters": Choices(dict(zip(values, values, strict=True)))})
    return meaning_of(INTERPOLATED, wanted, OPTIONS, {}).get("interpolated")


def test_what_an_interpolation_stood_for_is_part_of_the_meaning_and_not_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup_globals()
    first = interpolated("SECRET1", monkeypatch)
    keys = {"training.seed", "training.epochs", "data.path", "data.augment"}
    assert set(first) == keys
    assert "SECRET" not in str(first)
    assert interpolated("SECRET1", monkeypatch) == first, "now and the job differ from run to run"
    assert all(value != first[key] for key, value in interpolated("4", monkeypatch).items())


def test_a_choice_may_be_an_interpolation(monkeypatch: pytest.MonkeyPatch) -> None:
    setup_globals()
    first = interpolated("3", monkeypatch, "1", "${oc.env:SEED}")
    assert "model.filters=${oc.env:SEED}" in first
    assert interpolated("4", monkeypatch, "1", "${oc.env:SEED}") != first


def test_a_config_without_interpolations_means_what_it_meant_before() -> None:
    assert "interpolated" not in meaning_of(CONFIG, space(), OPTIONS, {})


def test_what_a_choice_sets_beyond_its_section_is_part_of_the_meaning() -> None:
    shared = {"model": {"size": 1}, "lr": 1}
    far = {"a": {"model": {"size": 2}, "lr": 1}, "b": {"model": {"size": 1}, "lr": 2, "x": 3}}
    own = {"large": {"model": {"size": 9}, "lr": 1}}
    varied = Space(
        {"+experiment": Choices({"a": "a", "b": "b"}), "model": Choices({"large": "large"})}
    )

    def configs(by_choice: dict[str, Any]) -> dict[str, DictConfig]:
        return {choice: OmegaConf.create(config) for choice, config in by_choice.items()}

    by_choice = {"+experiment": configs(far), "model": configs(own)}
    for first in far.values():
        config, base = OmegaConf.create(first), OmegaConf.create(shared)
        meaning = meaning_of(config, varied, OPTIONS, {}, shared=base, by_choice=by_choice)
        assert meaning["config"] == {"lr": 1}, "in whichever order they are given"
    assert meaning["choices"] == {"+experiment": {"a": {}, "b": {"lr": 2, "x": 3}}}


def of_models(depth: int) -> Any:
    """The meaning of a sweep over two models of the user's, of which one says how deep it is."""
    models = {
        "resnet": {"_target_": "nets.resnet", "depth": depth, "size": 1, "seed": "${oc.env:SEED}"},
        "blocks": {"parts": [{"_target_": "nets.block", "depth": 3}]},
        "base": {"filters": 4},
    }
    configs = {name: OmegaConf.create({"model": model, "lr": 1}) for name, model in models.items()}
    choices = {"model": Choices({name: name for name in models}), "model.size": Choices({1: "1"})}
    by_choice = {"model": configs}
    first, varied = configs["base"], Space(choices)
    return meaning_of(first, varied, OPTIONS, {}, shared=first, by_choice=by_choice)


def test_what_a_choice_calls_is_part_of_the_meaning_with_its_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup_globals()
    monkeypatch.setenv("SEED", "SECRET1")
    meaning = of_models(20)
    assert meaning["config"] == {"lr": 1}
    models = meaning["choices"]["model"]
    seed = models["resnet"].pop("model.seed")
    assert models == {
        "resnet": {"model._target_": "nets.resnet", "model.depth": 20},
        "blocks": {"model.parts": [{"_target_": "nets.block", "depth": 3}]},
        "base": {},
    }
    assert of_models(50)["choices"] != of_models(20)["choices"]
    assert "SECRET" not in seed
    monkeypatch.setenv("SEED", "SECRET2")
    assert of_models(20)["choices"]["model"]["resnet"]["model.seed"] != seed


def test_what_is_called_and_does_not_vary_is_part_of_the_meaning() -> None:
    config: Any = OmegaConf.create({"model": {"_target_": "nets.resnet", "depth": 20, "size": 1}})
    meaning = meaning_of(config, Space({"model.size": Choices({1: "1"})}), OPTIONS, {})
    assert meaning["config"] == {"model": {"_target_": "nets.resnet", "depth": 20}}


def test_what_a_listed_cell_leaves_open_is_part_of_the_meaning() -> None:
    listed = Space({"model.filters": Choices({8: "8"})}, listed=[{}, {"model.filters": 8}])
    first: Any = OmegaConf.merge(CONFIG, {"model": {"filters": 8}})
    meaning = meaning_of(first, listed, OPTIONS, {}, shared=CONFIG)
    assert meaning["config"]["model"]["filters"] == 4
    assert meaning["keys"] == []
