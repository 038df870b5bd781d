"""Configs of trials, composed or copied: both must be what Hydra composes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from cifar_hpo.config.fields import without_hydra
from cifar_hpo.errors import ConfigError
from cifar_hpo.objective import objective
from cifar_hpo.paths import CONF
from cifar_hpo.study.space import Interval, Space
from cifar_hpo.sweep import composer as composer_module
from cifar_hpo.sweep.composer import Composer, KnownGroups, absent_keys, whole_keys
from cifar_hpo.workers.jobs import HydraLauncher, compose


@pytest.fixture(scope="module")
def launcher() -> Iterator[Any]:
    """One whose app is this project's."""
    yield launcher_of(CONF)
    GlobalHydra.instance().clear()


def launcher_of(folder: Path, *overrides: str) -> Any:
    """One of an app whose configs lie in a folder, with overrides of Hydra's."""
    Plugins.instance()
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("app", create_config_search_path(f"file://{folder}"))
    config = hydra.compose_config(
        "config", list(overrides), RunMode.MULTIRUN, with_log_configuration=False
    )
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
    return SimpleNamespace(config=config, hydra_context=context)


def space_of(launcher: HydraLauncher, *overrides: str) -> Space:
    return Space.parse(list(overrides), {}, launcher.hydra_context.config_loader)


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.filters=4,8", "optimizer.learning_rate=0.1,0.2"),
        ("optimizer=adam,sgd", "model.filters=4,8"),
        ("model.filters=[2,4],[4,8]", "training.epochs=3"),
        ("model=base,enhanced", "+extra=a,b"),
        ("data.train_size=null,100",),
        ("data.train_size=100,200", "++model.depth=2,3", "+model.extra=1,2"),
    ],
)
def test_a_copied_config_is_what_hydra_composes(launcher: Any, overrides: tuple[str, ...]) -> None:
    space = space_of(launcher, *overrides)
    composer = Composer(launcher, space)
    for number, cell in enumerate(space.cells()):
        composed = composer.compose(number, cell)
        wanted = compose(launcher, number, space.overrides(cell))
        assert OmegaConf.to_container(composed) == OmegaConf.to_container(wanted)
        task = composer.compose_task(cell)
        assert "hydra" not in task
        assert OmegaConf.to_yaml(task) == OmegaConf.to_yaml(without_hydra(wanted))


def test_a_group_that_the_defaults_do_not_have_is_a_group(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "config.yaml").write_text("y: 1")
    for name in ("mysql", "postgres"):
        (tmp_path / "db" / f"{name}.yaml").write_text(f"driver: {name}")
    launcher = launcher_of(tmp_path)
    space = space_of(launcher, "+db=mysql,postgres", "y=1,2")
    composer = Composer(launcher, space)
    drivers = [composer.compose_task(cell).db.driver for cell in space.cells()]
    assert drivers == ["mysql"] * 2 + ["postgres"] * 2


def app_with_experiments(folder: Path, *arguments: str) -> Any:
    """A launcher of an app whose experiments lie in another folder."""
    configs = {
        "conf/config.yaml": "defaults: [db: a, _self_]\nlr: 1\n",
        "conf/db/a.yaml": "driver: a\n",
        "conf/db/b.yaml": "driver: b\nport: 1\n",
        "conf/db/other/c.yaml": "driver: c\nport: 2\n",
        "more/experiment/x.yaml": "# @package _global_\nlr: 2\n",
        "more/experiment/y.yaml": (
            "# @package _global_\ndefaults: [override /db: b, _self_]\nlr: 3\n"
        ),
    }
    for name, text in configs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return launcher_of(folder / "conf", f"hydra.searchpath=[file://{folder}/more]")


@pytest.mark.parametrize(
    ("overrides", "groups"),
    [
        (("+experiment=x,y",), ("+experiment",)),
        (("+experiment=y,x", "lr=8,9", "+db@backup=a,b"), ("+experiment", "+db@backup")),
        (("+experiment=glob(*)", "db=b,other/c"), ("+experiment", "db")),
        (("+experiment=[x,y],[y,x]", "db=a"), ("+experiment",)),
        (("+experiment=x,y", "+db.port=3"), ("+experiment",)),
    ],
)
def test_groups_of_any_kind_are_composed_as_hydra_does(
    overrides: tuple[str, ...], groups: tuple[str, ...], tmp_path: Path
) -> None:
    launcher = app_with_experiments(tmp_path)
    space = Space.parse(list(overrides), {}, KnownGroups(launcher))
    assert space.groups == groups
    composer = Composer(launcher, space)
    for cell in space.cells():
        if "+db.port=3" in overrides and cell["+experiment"] == "y":
            with pytest.raises(ConfigCompositionException, match="already at"):
                composer.compose_task(cell)  # of b, which the experiment chooses
            continue
        wanted = without_hydra(compose(launcher, 0, space.overrides(cell)))
        assert OmegaConf.to_yaml(composer.compose_task(cell)) == OmegaConf.to_yaml(wanted)


def test_a_key_exists_where_an_experiment_chooses_what_has_it(tmp_path: Path) -> None:
    launcher = app_with_experiments(tmp_path)
    space = Space.parse(["+experiment=x,y", "db.port=1,2"], {}, KnownGroups(launcher))
    assert absent_keys(Composer(launcher, space)) == {
        ("x",): frozenset({"db.port"}),
        ("y",): frozenset(),
    }


def test_what_trials_share_has_no_choice_in_it(tmp_path: Path) -> None:
    launcher = app_with_experiments(tmp_path)
    for overrides in (("+experiment=x,y", "lr=5,6"), ("lr=6,5", "+experiment=y,x")):
        space = Space.parse(list(overrides), {}, KnownGroups(launcher))
        composer = Composer(launcher, space)
        assert composer.compose_shared() == {"db": {"driver": "a"}, "lr": 1}
        assert composer.compose_choices()["+experiment"]["y"].db == {"driver": "b", "port": 1}


def test_where_choices_are_needed_trials_share_the_same_ones_in_any_order(tmp_path: Path) -> None:
    launcher = app_with_experiments(tmp_path)
    for overrides in (("db=other/c,b", "db.port=7"), ("db.port=7", "db=b,other/c")):
        space = Space.parse(list(overrides), {}, KnownGroups(launcher))
        composer = Composer(launcher, space)
        assert composer.compose_shared() == {"db": {"driver": "b", "port": 7}, "lr": 1}
    space = Space.parse(["+a.b=1,2", "a.c=3"], {}, KnownGroups(launcher))
    assert Composer(launcher, space).compose_shared() is None


def test_a_parameter_without_a_key_for_some_choice_is_absent_there(launcher: Any) -> None:
    space = space_of(
        launcher, "optimizer=adam,sgd", "optimizer.momentum=0.1,0.2", "model.depth=2,3"
    )
    assert absent_keys(Composer(launcher, space)) == {
        ("adam",): frozenset({"optimizer.momentum"}),
        ("sgd",): frozenset(),
    }


def test_a_key_that_no_choice_has_is_left_for_hydra_to_refuse(launcher: Any) -> None:
    space = space_of(launcher, "optimizer=adam,sgd", "optimizer.nothing=1,2")
    assert absent_keys(Composer(launcher, space)) == {("adam",): frozenset(), ("sgd",): frozenset()}


def test_very_many_plain_values_are_composed_by_hydra_once(
    launcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = []

    def compose_and_count(*arguments: Any) -> Any:
        composed.append(arguments)
        return compose(*arguments)

    monkeypatch.setattr(composer_module, "compose", compose_and_count)
    overrides = ("optimizer=adam,sgd", "optimizer.momentum=0.1,0.2", "training.seed=range(0,100)")
    space = space_of(launcher, *overrides)
    composer = Composer(launcher, space)
    composer.space = dataclasses.replace(space, absent=absent_keys(composer))
    seeds = [composer.compose_task(cell).training.seed for cell in composer.space.cells()]
    assert seeds == list(range(100)) * 3
    assert len(composed) == 2, "adam and sgd"


def test_what_hydra_refuses_is_refused_in_its_words(launcher: Any) -> None:
    for override, words in (
        ("model.nothing=1,2", r"use \+model\.nothing=1"),
        ("+model.depth=1,2", "An item is already at 'model.depth'"),
    ):
        space = space_of(launcher, override)
        with pytest.raises(ConfigCompositionException, match=words):
            Composer(launcher, space).compose_task(next(space.cells()))


def test_a_key_that_has_no_value_yet_is_no_absent_one(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "config.yaml").write_text("defaults: [data: file]")
    for name, text in (("file", "path: ???"), ("folder", "path: here"), ("none", "size: 1")):
        (tmp_path / "data" / f"{name}.yaml").write_text(text)
    launcher = launcher_of(tmp_path)
    space = space_of(launcher, "data=file,folder,none", "data.path=a,b")
    absent = absent_keys(Composer(launcher, space))
    assert [values for values, keys in absent.items() if keys] == [("none",)]


def intervals(folder: Path, *overrides: str) -> dict[str, Interval]:
    """As they are drawn from, of an app that has a model like ours and one of the user's."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("defaults: [{model: base}, _self_]\n")
    (folder / "model" / "base.yaml").write_text("filters: 4\n")
    (folder / "model" / "net.yaml").write_text("_target_: nets.net\nfilters: 4\n")
    launcher = launcher_of(folder)
    space = space_of(launcher, *overrides)
    space = space.with_whole_numbers(whole_keys(Composer(launcher, space), objective))
    dimensions = space.dimensions.items()
    return {key: part for key, part in dimensions if isinstance(part, Interval)}


def test_only_what_is_ours_takes_whole_numbers_alone(tmp_path: Path) -> None:
    swept = ("model.filters=interval(1.0,4)", "+data.train_size=interval(10.0,20)")
    assert all(part.whole for part in intervals(tmp_path, *swept).values())
    of_both = intervals(tmp_path, "model=base,net", *swept)
    assert of_both["model.filters"].whole, "one of the two takes no others"
    called = intervals(tmp_path, "model=net", "+data._target_=sets.load", *swept)
    assert not called["model.filters"].whole
    assert called["+data.train_size"].whole, "a function of data is not given it"
    halves = "model.filters=interval(0.5,2)"
    assert intervals(tmp_path, "model=net", halves) == {
        "model.filters": Interval(0.5, 2, log=False)
    }
    with pytest.raises(ConfigError, match=r"^model.filters: .*interval\(0.5,2.0\): the ends must"):
        intervals(tmp_path, "model=base,net", halves)
