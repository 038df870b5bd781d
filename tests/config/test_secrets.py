"""What a config must not hold."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from cifar_hpo.config.secrets import refuse_secrets_and_calls
from cifar_hpo.errors import ConfigError


@pytest.mark.parametrize("uri", ["postgresql://me:secret@host/db", "https://me:secret@host"])
def test_a_password_is_refused_wherever_it_stands(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^hydra\.sweeper\.storage: ") as refused:
        refuse_secrets_and_calls({"hydra": {"sweeper": {"storage": uri}}})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("uri", ["${oc.env:STORE}", "postgresql://me@host/db", "sqlite:///a.db"])
def test_an_interpolation_and_a_uri_without_a_password_pass(uri: str) -> None:
    refuse_secrets_and_calls(OmegaConf.create({"mlflow": {"tracking_uri": uri}}))


@pytest.mark.parametrize(
    "config",
    [
        {"model": {"_target_": "os.system"}},
        {"model._target_": "os.system"},
        {"x": "{_target_: os.system}"},
    ],
)
def test_a_call_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="does not call"):
        refuse_secrets_and_calls(config)


@pytest.mark.parametrize("target", [[], {}, 3, "os.system"])
def test_hydra_s_own_part_calls_what_is_registered_alone(target: object) -> None:
    with pytest.raises(ConfigError, match="no installed package has registered"):
        refuse_secrets_and_calls({"hydra.sweeper.sampler._target_": target})


@pytest.mark.parametrize(
    "override",
    [
        {"hydra.job_logging.handlers.file.filename": "${hydra.runtime.output_dir}/other.log"},
        {"hydra.launcher._target_": "hydra_plugins.cifar_hpo.WorkersLauncher"},
        {"training.seed": "${oc.decode:${oc.env:SEED}}"},
    ],
)
def test_an_override_may_say_what_a_config_may(override: dict[str, object]) -> None:
    refuse_secrets_and_calls(override)
