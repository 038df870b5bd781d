"""Which charts a study's report has: `charts_of` lists a `Chart` for all that it has something to
show of. `figures`, `optuna_figures` and `image_figures` draw them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from cifar_hpo.analysis.comparison import Comparison
from cifar_hpo.analysis.effects import MIN_TRIALS, importances, varied_keys
from cifar_hpo.data.dataset import Dataset, find_decoded
from cifar_hpo.errors import StudyError
from cifar_hpo.report import figures, image_figures, optuna_figures
from cifar_hpo.report.runs import Curves, StoredRuns
from cifar_hpo.report.style import as_text

MAX_CURVES = 5
"""Configurations whose learning curves share a chart."""

MAX_MISCLASSIFIED = 40
"""Misclassified images that are shown, those first of which the model was most certain."""


MAX_NAME = 16
"""Characters of a class's name above an image."""


@dataclass(frozen=True)
class Chart:
    """A picture of the report, and how to draw it.

    section: the title under which it stands. name: of its file. explanation: of its section, of
    whose charts the first gives it. draw: None where there is nothing to draw, and the explanation
    says why.
    """

    section: str
    name: str
    explanation: str
    draw: Callable[[], Figure] | None


def charts_of(comparison: Comparison, runs: StoredRuns | None) -> list[Chart]:
    """The charts in the order of the page; none where no trial finished.

    runs: MLflow's, without which there are neither curves nor images.
    """
    if not comparison.finished:
        return []
    return [
        *_learning_curves(comparison, runs),
        *_parameters(comparison),
        *_trials(comparison),
        *_time(comparison),
        *_best_model(comparison, runs),
    ]


def _learning_curves(comparison: Comparison, runs: StoredRuns | None) -> list[Chart]:
    """The curves of the first configurations whose runs have more than one epoch."""
    if runs is None:
        return []
    metric = comparison.metrics[0]
    logged = [finished for finished in comparison.finished if finished.trial.run_id]
    curves: dict[str, Curves] = {}
    for configuration in logged[:MAX_CURVES]:
        replicas = runs.curves(configuration.trial.run_id, metric)
        if any(len(points) > 1 for points in replicas.values()):
            curves[configuration.label] = replicas
    if not curves:
        return []
    return [
        Chart(
            "Learning curves",
            "learning_curves",
            "Mean over replicas, in the band of its 95 % interval.",
            partial(figures.learning_curves, curves, metric),
        )
    ]


def _parameters(comparison: Comparison) -> list[Chart]:
    """What each parameter does that has several values among the finished trials."""
    varied = varied_keys(comparison)
    charts = []
    for key in varied:
        effect = Chart(
            "The effect of each parameter",
            f"effect_{key.strip('+~').replace('/', '.')}",
            "Orange: the mean of the configurations that have the value, with its 95 % interval "
            "over seeds; over configurations where each has one seed. Blue: what it comes from.",
            partial(figures.effect, comparison, key),
        )
        charts.append(effect)
    if len(varied) > 1:
        charts.append(_importance(comparison, varied))
    if len(varied) > 1:
        coordinates = Chart(
            "All configurations at once",
            "parallel_coordinates",
            "A line for each trial.",
            partial(optuna_figures.parallel_coordinates, comparison, varied),
        )
        charts.append(coordinates)
    return charts


def _importance(comparison: Comparison, varied: Sequence[str]) -> Chart:
    """Of a complete grid by a linear model, of a sampled space by PED-ANOVA."""
    explained = importances(comparison)
    draw: Callable[[], Figure] | None
    if explained:
        first = explained[0]
        explanation = (
            "How much of the variation each parameter explains, alone and together with others "
            "(×), and how much the seeds: ω² of a linear model with interactions over all "
            f"replicas, with 95 % intervals. Most: {first.name}, {first.share:.0%}."
        )
        draw = partial(figures.importances, explained)
    elif len(comparison.finished) >= MIN_TRIALS:
        explanation = (
            "How much each parameter tells the best trials from the others: Optuna's PED-ANOVA; "
            "without an interval."
        )
        draw = partial(optuna_figures.importances, comparison, varied)
    else:
        explanation = (
            "Not known: it takes a complete grid with more values than parameters explain, or "
            f"{MIN_TRIALS} configurations of a sampled space; there are {len(comparison.finished)}."
        )
        draw = None
    return Chart("Importance", "importance", explanation, draw)


def _trials(comparison: Comparison) -> list[Chart]:
    """What accuracy costs, and how the search went on."""
    finished = comparison.finished
    if len(finished) < 2 or not comparison.keys:
        return []
    charts = []
    if any("parameters" in configuration.trial.metrics for configuration in finished):
        trade_off = Chart(
            "What accuracy costs",
            "trade_off",
            "On the front nothing else is better and cheaper.",
            partial(figures.trade_off, comparison),
        )
        charts.append(trade_off)
    history = Chart(
        "History",
        "history",
        "Each trial and the best so far.",
        partial(optuna_figures.history, comparison),
    )
    return [*charts, history]


def _time(comparison: Comparison) -> list[Chart]:
    """When the trials ran, and when a pruner stopped them."""
    charts = []
    if any(trial.ended for trial in comparison.trials):
        timeline = Chart(
            "Who trained what when",
            "timeline",
            "Each bar is a trial; where all rested for a minute or more the time is cut out at a "
            "dotted line.",
            partial(figures.timeline, comparison),
        )
        charts.append(timeline)
    if any(trial.intermediate_values for trial in comparison.study.get_trials(deepcopy=False)):
        pruning = Chart("What was pruned when", "pruning", "", partial(figures.pruning, comparison))
        charts.append(pruning)
    return charts


def _best_model(comparison: Comparison, runs: StoredRuns | None) -> list[Chart]:
    """What the best model makes of the test images, where each is of a class."""
    run_id = comparison.finished[0].trial.run_id
    has_images = comparison.meaning.get("data")
    if runs is None or not run_id or not has_images or not runs.classifies(run_id):
        return []
    title = "What the best gets wrong"
    explanation = "The best configuration's best replica, on the test images."
    draws = {
        "confusion_matrix": partial(_draw_confusion, runs, run_id),
        "per_class": partial(_draw_per_class, runs, run_id),
        "misclassified": partial(_draw_misclassified, comparison, runs, run_id),
    }
    return [Chart(title, name, explanation, draw) for name, draw in draws.items()]


def _draw_confusion(runs: StoredRuns, run_id: str) -> Figure:
    matrix, classes = runs.confusion(run_id)
    return image_figures.confusion(matrix, classes)


def _draw_per_class(runs: StoredRuns, run_id: str) -> Figure:
    matrix, classes = runs.confusion(run_id)
    return image_figures.per_class(matrix, classes)


def _draw_misclassified(comparison: Comparison, runs: StoredRuns, run_id: str) -> Figure:
    """The images that the model got wrong, those first of which it was most certain."""
    dataset = _dataset(comparison.meaning.get("data", []))
    images, labels = dataset.test
    predicted, confidence = runs.predictions(run_id)
    wrong = (predicted != labels).nonzero()[0]
    wrong = sorted(wrong, key=lambda place: -confidence[place])[:MAX_MISCLASSIFIED]
    titles = []
    for place in wrong:
        taken_for = as_text(dataset.classes[predicted[place]][:MAX_NAME])
        true = as_text(dataset.classes[labels[place]][:MAX_NAME])
        titles.append(f"{taken_for} {confidence[place]:.2f}\nis {true}")
    return image_figures.misclassified(images[wrong], titles)


def _dataset(identities: Sequence[str]) -> Dataset:
    """The one dataset of a study, whose identity ends in its digest.

    Raises StudyError where there are several, or it was not decoded in this folder.
    """
    digests = {str(identity).rpartition(":")[2] for identity in identities}
    datasets = [dataset for dataset in map(find_decoded, digests) if dataset is not None]
    if not datasets:
        raise StudyError("the images are not in this folder")
    if len(digests) > 1:
        raise StudyError("several datasets were compared")
    return datasets[0]
