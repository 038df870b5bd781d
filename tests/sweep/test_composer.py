"""Configs of trials, composed or copied: both must be what Hydra composes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from cifar_hpo.config.fields import without_hydra
from cifar_hpo.paths import CONF
from cifar_hpo.study.space import Space
from cifar_hpo.sweep.composer import Composer, absent_keys
from cifar_hpo.workers.jobs import HydraLauncher, compose


@pytest.fixture(scope="module")
def launcher() -> Iterator[Any]:
    """One whose app is this project's."""
    Plugins.instance()
    GlobalHydra.instance().clear()
    hydra = Hydra.create_main_hydra2("app", create_config_search_path(f"file://{CONF}"))
    config = hydra.compose_config("config", [], RunMode.MULTIRUN, with_log_configuration=False)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
    yield SimpleNamespace(config=config, hydra_context=context)
    GlobalHydra.instance().clear()


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


def test_a_parameter_without_a_key_for_some_choice_is_absent_there(launcher: Any) -> None:
    space = space_of(
        launcher, "optimizer=adam,sgd", "optimizer.momentum=0.1,0.2", "model.depth=2,3"
    )
    assert absent_keys(space, launcher) == {
        ("adam",): frozenset({"optimizer.momentum"}),
        ("sgd",): frozenset(),
    }


def test_a_key_that_no_choice_has_is_left_for_hydra_to_refuse(launcher: Any) -> None:
    space = space_of(launcher, "optimizer=adam,sgd", "optimizer.nothing=1,2")
    assert absent_keys(space, launcher) == {("adam",): frozenset(), ("sgd",): frozenset()}
