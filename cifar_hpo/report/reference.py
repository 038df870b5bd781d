"""What a study's best is held against for `--not-worse-than`: a `Reference`, which is the champion
of its dataset or the best of another study.

`hold_against` gives what is shown of the two. Like is compared with like: a reference that was
measured in another way is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna.storages import BaseStorage

from cifar_hpo.analysis.claims import Claim, claim
from cifar_hpo.analysis.comparison import Comparison, Configuration, compare_study
from cifar_hpo.analysis.looks import Looks
from cifar_hpo.analysis.statistics import p_text
from cifar_hpo.config.fields import flat
from cifar_hpo.config.splits import differing_key, split_of
from cifar_hpo.errors import StudyError
from cifar_hpo.metrics import values_by_replica
from cifar_hpo.study.seeds import SEEDS

if TYPE_CHECKING:
    from cifar_hpo.tracking.reader import Champion

CHAMPION = "champion"
"""Stands for the champion of the study's dataset, also where a study has this name."""


@dataclass(frozen=True)
class Measurement:
    """By what values were measured, which makes them comparable.

    digest: of the images' content; empty for a task without a dataset. split: which of them it is,
    as `split_of` has it.
    """

    metric: str
    digest: str
    split: Mapping[str, str]

    def difference(self, other: Measurement) -> str:
        """How the other was measured in another way; empty where the two can be compared."""
        if self.metric != other.metric:
            return f"by {other.metric}, not {self.metric}"
        if self.digest != other.digest:
            return "on other images"
        key = differing_key(self.split, other.split)
        return f"with {key}={other.split[key]}, not {self.split[key]}" if key else ""


@dataclass(frozen=True)
class Reference:
    """What a study's best is held against.

    title: its name to a user. values: by seed, measured as `measurement` says. run_id: of the
    MLflow run of its model. looks: the plan of its study's replicas; None where that is not here,
    and so does not grow.
    """

    title: str
    values: Mapping[int, float]
    measurement: Measurement
    run_id: str
    looks: Looks | None = None


@dataclass(frozen=True)
class Held:
    """A study's best beside a reference; is_same: whether it is the reference itself."""

    reference: str
    claim: Claim
    is_same: bool = False

    @property
    def is_worse(self) -> bool:
        """Whether the study's best is shown to be worse."""
        return self.claim.shows == "worse"

    @property
    def sentence(self) -> str:
        if self.is_same:
            return f"{self.claim.first} is {self.claim.second}."
        shown, gap = self.claim, f"{abs(self.claim.gap):.4f}"
        side = "ahead of" if shown.gap >= 0 else "behind"
        if shown.shows == "unknown" or shown.p is None:
            return (
                f"{shown.first} is {gap} {side} {shown.second}; with one seed it cannot be known "
                "whether that is luck, so it is not shown to be worse."
            )
        low, high = shown.interval or (shown.gap, shown.gap)
        figures = f"{gap} {side} it, {low:+.4f} to {high:+.4f} at 95 %, {p_text(shown.p)}"
        if self.is_worse:
            return f"{shown.first} is worse than {shown.second}, and that is not luck ({figures})."
        if shown.shows == "better":
            return f"{shown.first} is better than {shown.second} ({figures})."
        return f"{shown.first} is not shown to be worse than {shown.second} ({figures})."


def hold_against(
    comparison: Comparison, name: str, storage: BaseStorage, tracking_uri: str | None
) -> Held:
    """A study's best beside the champion, or beside the best of the study of that name.

    storage: where that study is. tracking_uri: of MLflow's store; None for the one that the study
    was logged to. Raises StudyError where there is no such reference, where it was measured in
    another way, and where a study has no best to compare.
    """
    best = _best(comparison)
    mine = _measurement(comparison, best)
    if name == CHAMPION:
        reference = _champion(comparison, storage, tracking_uri)
    else:
        reference = _best_of_study(name, storage)
    difference = mine.difference(reference.measurement)
    if difference:
        raise StudyError(
            f"study {comparison.name} can't be held against {reference.title}, which was measured "
            f"{difference}"
        )
    title = f"{best.name} of study {comparison.name}"
    looks = Looks.covering([plan for plan in (comparison.looks, reference.looks) if plan])
    made = claim(
        title,
        best.values,
        reference.title,
        reference.values,
        direction=comparison.directions[0],
        looks=looks,
    )
    is_same = bool(reference.run_id) and reference.run_id == best.trial.run_id
    return Held(reference.title, made, is_same)


def _best(comparison: Comparison) -> Configuration:
    """Raises StudyError where there is none, or several metrics decide."""
    if len(comparison.metrics) > 1:
        problem = f"has several metrics ({', '.join(comparison.metrics)}), so it has no one best"
        raise StudyError(f"study {comparison.name} {problem}")
    if not comparison.complete:
        problem = "no configuration has finished with all of its seeds"
        raise StudyError(f"study {comparison.name}: {problem}; let its sweep go on")
    return comparison.complete[0]


def _measurement(comparison: Comparison, configuration: Configuration) -> Measurement:
    """By what a configuration's values were measured. Raises StudyError for several datasets."""
    datasets = comparison.meaning.get("data", [])
    if len(set(datasets)) > 1:
        raise StudyError(f"study {comparison.name} has several datasets, which can't be compared")
    digest = datasets[0].rpartition(":")[2] if datasets else ""
    settings = flat(comparison.meaning.get("config", {})) | dict(configuration.params)
    return Measurement(comparison.metrics[0], digest, split_of(settings))


def _best_of_study(name: str, storage: BaseStorage) -> Reference:
    comparison = compare_study(name, storage)
    best = _best(comparison)
    title = f"{best.name} of study {name}"
    measurement = _measurement(comparison, best)
    return Reference(title, best.values, measurement, best.trial.run_id, comparison.looks)


def _champion(comparison: Comparison, storage: BaseStorage, tracking_uri: str | None) -> Reference:
    from cifar_hpo.tracking.reader import runs_read

    datasets = comparison.meaning.get("data", [])
    if not datasets:
        problem = "has no dataset, so there is no champion; name another study"
        raise StudyError(f"study {comparison.name} {problem}")
    with runs_read(tracking_uri or comparison.tracking_uri) as runs:
        champion = runs.champion(datasets[0].rpartition(":")[0])
    measurement = Measurement(champion.metric, champion.digest, split_of(champion.params))
    values, looks = _values_in_study(champion, storage)
    if not values:
        values = _values_of_run(champion)
    return Reference(champion.title, values, measurement, champion.run_id, looks)


def _values_in_study(
    champion: Champion, storage: BaseStorage
) -> tuple[Mapping[int, float], Looks | None]:
    """The champion's values in its study, which may have trained it with further seeds, and the
    plan of these; no values where that is not in this storage."""
    try:
        comparison = compare_study(champion.study, storage) if champion.study else None
    except StudyError:
        comparison = None
    if comparison:
        for configuration in comparison.complete:
            if configuration.trial.run_id == champion.run_id:
                return configuration.values, comparison.looks
    return {}, None


def _values_of_run(champion: Champion) -> dict[int, float]:
    """The champion's values by seed as its run has them."""
    seed = next((champion.params[key] for key in SEEDS if key in champion.params), "0")
    first = int(seed) if seed.isdecimal() else 0
    by_replica = values_by_replica(champion.metrics, champion.metric)
    if by_replica:
        return {first + replica: value for replica, value in by_replica.items()}
    if champion.metric not in champion.metrics:
        raise StudyError(f"{champion.title}: its run has no {champion.metric}")
    return {first: champion.metrics[champion.metric]}
