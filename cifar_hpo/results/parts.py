"""The parts of the results as Markdown: the article's tables again, the optimizers, a search for a
better model, and model cards. `parts_of` makes all for which there are studies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version

from cifar_hpo.analysis.comparison import TEST_ACCURACY, Comparison, Configuration
from cifar_hpo.analysis.separation import separate
from cifar_hpo.analysis.statistics import p_text
from cifar_hpo.confusion import accuracy_by_class
from cifar_hpo.results.article import ENHANCED, ROWS, STUDIES
from cifar_hpo.results.replication import (
    Comparisons,
    accuracy_table,
    claims_table,
    mean_text,
    minutes_of,
    times_table,
)
from cifar_hpo.study.ranking import FinishedTrial
from cifar_hpo.table import Table

OPTIMIZER_RATES, OPTIMIZER_SEEDS = "optimizer", "optimizer_final"
"""The optimizers at many learning rates with one seed, and at their best one with several, which is
its final stage."""

FINAL = "final"
SEARCH, SEARCH_FINAL = "best_cnn", "best_cnn_final"
"""A search for a better model, and its final stage: several seeds of what it found."""

PARTS = {
    "article": STUDIES,
    "optimizers": (OPTIMIZER_SEEDS,),
    SEARCH: (SEARCH, SEARCH_FINAL),
    FINAL: (FINAL,),
    SEARCH_FINAL: (SEARCH, SEARCH_FINAL),
}
"""The parts in their order, and the studies that each needs to take the place of an earlier one in
a file; without a file it is shown as far as it goes."""

VERSIONS = "versions"
"""The part behind those, which needs no study."""

ALL_STUDIES = (*STUDIES, OPTIMIZER_RATES, OPTIMIZER_SEEDS, SEARCH, SEARCH_FINAL)


def parts_of(comparisons: Comparisons, tracking_uri: str | None) -> dict[str, str]:
    """The parts by name, as far as the studies that are here go.

    tracking_uri: MLflow's store, which has the accuracy on each class; by default the one that a
    study was logged to.
    """
    parts = {}
    if any(study in comparisons for study in STUDIES):
        parts["article"] = article(comparisons)
    for study in (OPTIMIZER_SEEDS, OPTIMIZER_RATES):
        if study in comparisons:
            parts["optimizers"] = optimizer_table(comparisons[study]).to_markdown()
            break
    if SEARCH in comparisons:
        parts[SEARCH] = search(comparisons[SEARCH], comparisons.get(SEARCH_FINAL))
    for study in (FINAL, SEARCH_FINAL):
        if study in comparisons:
            parts[study] = model_card(comparisons[study], tracking_uri)
    parts[VERSIONS] = versions()
    return parts


def article(comparisons: Comparisons) -> str:
    """The article's accuracies, claims and times beside ours."""
    tables = [accuracy_table(comparisons), claims_table(comparisons), times_table(comparisons)]
    return "\n\n".join(table.to_markdown() for table in tables)


def optimizer_table(comparison: Comparison) -> Table:
    """Each optimizer at the learning rate that was best for it."""
    best: dict[str, Configuration] = {}
    for configuration in comparison.finished:
        best.setdefault(str(configuration.params.get("optimizer")), configuration)
    groups = [configuration.values for configuration in best.values()]
    against = []
    for beside in separate(groups, comparison.directions[0], comparison.looks).standings:
        p = beside.p_value
        against.append("unknown" if p is None else p_text(p))
    against[0] = "best"
    rows = []
    for (optimizer, configuration), standing in zip(best.items(), against, strict=True):
        rows.append(
            [
                optimizer,
                str(configuration.params.get("optimizer.learning_rate")),
                mean_text(configuration.values),
                mean_text(configuration.test_accuracies),
                standing,
            ]
        )
    columns = [
        "optimizer",
        "its best learning rate",
        "val_accuracy (95 %)",
        "test accuracy (95 %)",
        "against the best",
    ]
    return Table(columns, rows)


def search(comparison: Comparison, final: Comparison | None) -> str:
    """What a search took, and when it had a model that beats the article's enhanced one.

    final: the study of what it found, where that is here.
    """
    trials = comparison.trials
    states = Counter(trial.state for trial in trials)
    counts = ", ".join(f"{count} {state.lower()}" for state, count in sorted(states.items()))
    minutes = busy_minutes([comparison])
    took = f"{SEARCH}: {len(trials)} trials ({counts}) in {minutes:.0f} minutes"
    lines = [f"{took}; best val_accuracy {comparison.finished[0].value:.4f}"]
    goal = ENHANCED.accuracy
    better = [trial for trial in trials if trial.metrics.get(TEST_ACCURACY, 0) > goal]
    if better:
        first = min(better, key=lambda trial: trial.ended)
        lines.append(
            f"the article's {goal:.4f} was passed after "
            f"{busy_minutes([comparison], first.ended):.0f} minutes, by trial {first.number}: "
            f"{first.metrics[TEST_ACCURACY]:.4f} on the test images"
        )
    if final:
        lines.append(
            f"search and final together {busy_minutes([comparison, final]):.0f} minutes; the "
            f"article's eleven models at least {minutes_of(ROWS):.0f}"
        )
    return _list(lines)


def busy_minutes(comparisons: Sequence[Comparison], end: float = math.inf) -> float:
    """Minutes until `end`, in seconds since 1970, in which at least one of their trials ran."""
    spans = []
    for comparison in comparisons:
        for trial in comparison.trials:
            spans.append((trial.ended - trial.seconds, min(trial.ended, end)))
    busy, busy_until = 0.0, 0.0
    for started, ended in sorted(spans):
        busy += max(0.0, ended - max(started, busy_until))
        busy_until = max(busy_until, ended)
    return busy / 60


def model_card(comparison: Comparison, tracking_uri: str | None) -> str:
    """What is to be known of a study's best model."""
    best = comparison.finished[0]
    name = f"{comparison.name}: {best.name}" if best.params else comparison.name
    datasets = {str(data).rpartition(":")[0] for data in comparison.meaning.get("data", [])}
    parameters = f"{best.trial.metrics['parameters']:,.0f} parameters"
    accuracy = f"test accuracy {mean_text(best.test_accuracies)}"
    seconds = best.seconds / max(len(best.values), 1)
    lines = [
        f"{parameters}; {accuracy}, over {len(best.test_accuracies)} seeds",
        f"trained in {seconds:.0f} s a seed",
    ]
    shares = class_accuracies(best.trial, tracking_uri or comparison.tracking_uri)
    if shares:
        listed = ", ".join(f"{label} {share:.2f}" for label, share in shares.items())
        lines.append(f"its best seed by class: {listed}")
    return f"**{name}** on {' and '.join(sorted(datasets))}\n\n{_list(lines)}"


def class_accuracies(trial: FinishedTrial, tracking_uri: str | None) -> dict[str, float]:
    """The share of each class's test images that was recognised; empty where MLflow has no run."""
    if not trial.run_id:
        return {}
    from cifar_hpo.tracking.reader import RunReader

    return accuracy_by_class(*RunReader(tracking_uri).confusion(trial.run_id))


def versions() -> str:
    """What the results were made with."""
    used = [f"TensorFlow {version('tensorflow')}", f"Keras {version('keras')}"]
    used.append(f"Optuna {version('optuna')}")
    return f"{', '.join(used)}; `python -m cifar_hpo.report STUDY` shows each."


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
