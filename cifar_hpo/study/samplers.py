"""Optuna's samplers and pruners by their names here, with Optuna's own options and defaults."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import optuna

SAMPLERS = {
    "grid": "RandomSampler",
    "random": "RandomSampler",
    "tpe": "TPESampler",
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
}
SAMPLERS |= {"nsgaii": "NSGAIISampler", "qmc": "QMCSampler"}
PRUNERS = {
    "none": "NopPruner",
    "median": "MedianPruner",
    "asha": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
}
PRUNERS |= {"patient": "PatientPruner"}


def sampler(options: Mapping[str, Any], trials: int = 0) -> optuna.samplers.BaseSampler:
    """The sampler of that name, for a study that has so many trials; with the same seed again it
    would propose them again.

    A grid is laid out by the study; its sampler is never asked.
    """
    if options.get("seed") is not None:
        options = {**options, "seed": options["seed"] + trials}
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        return getattr(optuna.samplers, SAMPLERS[options["name"]])(**_given(options))  # type: ignore[no-any-return]


def pruner(options: Mapping[str, Any]) -> optuna.pruners.BasePruner:
    """The pruner of that name; `patient` alone stops a trial that stands still."""
    given = _given(options)
    if options["name"] == "patient":
        given["wrapped_pruner"] = None
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        return getattr(optuna.pruners, PRUNERS[options["name"]])(**given)  # type: ignore[no-any-return]


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "name" and value is not None}
