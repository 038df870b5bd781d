"""Studies as JSON, for programs: `report_document`, `study_document` and `list_document` are what
`--json` prints, written by `to_json`.

README.md beside this lists every key. Keys stay, and new ones may come; VERSION counts up where one
changes its meaning.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import optuna
from optuna.trial import TrialState

from cifar_hpo.analysis.claims import Claim, claims
from cifar_hpo.analysis.comparison import Comparison, Configuration
from cifar_hpo.analysis.effects import Importance, importances
from cifar_hpo.analysis.separation import TOP_K
from cifar_hpo.analysis.verdict import decide, verdict
from cifar_hpo.redaction import redacted
from cifar_hpo.report.reference import Held
from cifar_hpo.study.ranking import FinishedTrial, ranked
from cifar_hpo.trial import FAILED, FINISHED, PRUNED

VERSION = 1
"""Of the form of all documents."""

Document = dict[str, Any]


def to_json(document: Document) -> str:
    """A document as text: ASCII, and strict JSON, in which a number that is not finite is null."""
    return json.dumps(_strict(document), indent=1, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(child) for child in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def report_document(comparison: Comparison, held: Held | None = None) -> Document:
    """What `report` says of a study; held: beside what its best was to be no worse."""
    document = _study(comparison) | {
        "decision": _snake_case(type(decide(comparison)).__name__),
        "sentences": verdict(comparison),
        "claims": [_claim(made) for made in claims(comparison)],
        "importance": [_importance(explained) for explained in importances(comparison)],
        "final_stage": comparison.final_stage or None,
        "configurations": [
            _configuration(comparison, configuration, rank)
            for rank, configuration in enumerate(comparison.configurations, start=1)
        ],
        "mlflow": {
            "tracking_uri": comparison.tracking_uri and redacted(comparison.tracking_uri),
            "run_id": comparison.run_id or None,
        },
    }
    if held is not None:
        document["not_worse_than"] = {
            "reference": held.reference,
            "holds": not held.is_worse,
            "sentence": held.sentence,
            "claim": _claim(held.claim),
        }
    return document


def study_document(comparison: Comparison) -> Document:
    """What `studies show` says of a study: its trials, the best first, and its claims."""
    ranking = ranked(comparison.trials, comparison.directions)
    trials = [_trial(trial, rank) for rank, trial in enumerate(ranking, start=1)]
    return _study(comparison) | {
        "claims": [_claim(made) for made in claims(comparison)],
        "trials": trials,
    }


def list_document(
    studies: Sequence[tuple[optuna.Study, Sequence[FinishedTrial], Sequence[str]]],
) -> Document:
    """What `studies list` says: of each study its ranking, the best first, and its metrics."""
    listed = []
    for study, ranking, metrics in studies:
        best = ranking[0] if ranking and ranking[0].value is not None else None
        summary = _summary(study, ranking, metrics)
        summary["best"] = best and {"trial": best.number, "value": best.value}
        listed.append(summary)
    return {"version": VERSION, "studies": listed}


def _study(comparison: Comparison) -> Document:
    summary = _summary(comparison.study, comparison.trials, comparison.metrics)
    data = sorted(set(comparison.meaning.get("data", [])))
    return {"version": VERSION, **summary, "data": data}


def _summary(
    study: optuna.Study, trials: Sequence[FinishedTrial], metrics: Sequence[str]
) -> Document:
    """A study's name, its metrics, and how many of its trials stand how."""
    ended = Counter(trial.state for trial in trials)
    states = (TrialState.RUNNING, TrialState.WAITING)
    under_way = Counter(trial.state for trial in study.get_trials(deepcopy=False, states=states))
    return {
        "study": study.study_name,
        "metrics": list(metrics),
        "directions": [direction.name.lower() for direction in study.directions],
        "counts": {
            "finished": ended[FINISHED],
            "pruned": ended[PRUNED],
            "failed": ended[FAILED],
            "running": under_way[TrialState.RUNNING],
            "waiting": under_way[TrialState.WAITING],
        },
    }


def _claim(made: Claim) -> Document:
    return asdict(made)


def _configuration(comparison: Comparison, configuration: Configuration, rank: int) -> Document:
    tests = configuration.test_accuracies
    return {
        "rank": rank,
        "name": configuration.name,
        "params": dict(configuration.params),
        "standing": _standing(comparison, configuration, rank),
        "value": configuration.value,
        "interval": configuration.confidence_interval,
        "n": len(configuration.values),
        "values": dict(configuration.values),
        "missing": dict(configuration.missing),
        "test_accuracy": sum(tests.values()) / len(tests) if tests else None,
        "new_images": configuration.new_images,
        "seconds": configuration.seconds,
        "trial": configuration.trial.number,
        "run_id": configuration.trial.run_id or None,
    }


def _importance(explained: Importance) -> Document:
    return {
        "keys": list(explained.keys),
        "share": explained.share,
        "interval": explained.interval,
    }


def _standing(comparison: Comparison, configuration: Configuration, rank: int) -> str:
    """How a configuration stands beside the best."""
    if not configuration.values:
        return "without a value"
    if not configuration.is_complete:
        return "incomplete"
    if len(comparison.metrics) > 1 or rank > TOP_K:
        return "not compared"
    if rank == 1:
        return "best"
    if configuration.p_value is None:
        return "unknown"
    return "tied" if configuration.is_tied else "worse"


def _trial(trial: FinishedTrial, rank: int) -> Document:
    return {
        "rank": rank,
        "trial": trial.number,
        "state": trial.state,
        "params": dict(trial.params),
        "values": trial.values,
        "metrics": dict(trial.metrics),
        "error": trial.error or None,
        "seconds": trial.seconds,
        "ended": trial.ended or None,
        "run_id": trial.run_id or None,
    }


def _snake_case(name: str) -> str:
    """`NothingFinished` as `nothing_finished`."""
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)
    return "_".join(words.split())
