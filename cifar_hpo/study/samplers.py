"""Optuna's samplers by their names here, with Optuna's own options and defaults."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.samplers import BaseSampler

SAMPLERS: Mapping[str, type[BaseSampler]] = {
    "grid": optuna.samplers.RandomSampler,
    "random": optuna.samplers.RandomSampler,
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "nsgaii": optuna.samplers.NSGAIISampler,
    "qmc": optuna.samplers.QMCSampler,
}
"""A grid is laid out by the study; its sampler is never asked."""


def sampler(options: Mapping[str, Any], trials: int = 0) -> BaseSampler:
    """The sampler of that name, for a study that has so many trials; with the same seed again it
    would propose them again."""
    given = given_options(options)
    if "seed" in given:
        given["seed"] += trials
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        return SAMPLERS[options["name"]](**given)


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not left to Optuna."""
    return {name: value for name, value in options.items() if name != "name" and value is not None}
