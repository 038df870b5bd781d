"""Which charts a study has, and what is drawn on them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from report.fake_runs import FakeRuns
from support import lay_out

from cifar_hpo.analysis.comparison import Comparison, compare_study
from cifar_hpo.errors import StudyError
from cifar_hpo.report import figures, image_figures, optuna_figures
from cifar_hpo.report.charts import Chart, charts_of
from cifar_hpo.report.runs import Curves
from cifar_hpo.study.ranking import FinishedTrial


@pytest.fixture(autouse=True)
def figures_closed() -> Iterator[None]:
    """Pyplot keeps each figure until it is closed, and warns of too many."""
    yield
    plt.close("all")


def compared(folder: Path, outcomes: Any) -> Comparison:
    return compare_study("laid", lay_out(folder, outcomes))


def logged(comparison: Comparison) -> Comparison:
    """The same study as if MLflow had its runs."""
    configurations = []
    for configuration in comparison.configurations:
        trial = replace(configuration.trial, run_id=f"run {configuration.trial.number}")
        configurations.append(replace(configuration, trial=trial))
    return replace(comparison, configurations=configurations)


def names(comparison: Comparison, runs: FakeRuns | None = None) -> list[str]:
    return [chart.name for chart in charts_of(comparison, runs)]


def xs(line: Line2D) -> Any:
    return np.asarray(line.get_xdata()).tolist()


def ys(line: Line2D) -> Any:
    return np.asarray(line.get_ydata()).tolist()


def error_bars(axes: Axes) -> int:
    return len([part for part in axes.containers if isinstance(part, ErrorbarContainer)])


def trial(number: int, started: float, seconds: float, worker: int | None = 0) -> FinishedTrial:
    return FinishedTrial(
        number=number,
        params={},
        state="FINISHED",
        values=[0.5],
        metrics={},
        error="",
        seconds=seconds,
        run_id="",
        worker=worker,
        ended=started + seconds,
    )


def test_a_study_without_finished_trials_has_no_charts(tmp_path: Path) -> None:
    assert names(compared(tmp_path, [({"a": "1"}, "diverged")]), FakeRuns()) == []


def texts_of(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_means_of_the_seeds_that_are_left_are_marked(tmp_path: Path) -> None:
    outcomes: list[tuple[dict[str, Any], Any]] = []
    for seed, lucky in enumerate([[0.9], "diverged", [0.91]]):
        outcomes.append(({"a": "1", "training.seed": seed}, lucky))
        outcomes.append(({"a": "2", "training.seed": seed}, [0.5 + seed / 100]))
    comparison = compared(tmp_path, outcomes)
    (axes,) = figures.effect(comparison, "a").axes
    assert texts_of(axes) == ["2 of 3 seeds"]
    panels = figures.trade_off(comparison).axes
    assert [texts_of(axes) for axes in panels] == [["2 of 3 seeds"]] * 2
    front = [line for line in panels[0].lines if line.get_label() == "Pareto front"]
    assert [ys(line) for line in front] == [[pytest.approx(0.51)]]
    assert logged(comparison).finished[1].label == "a=1 (2 of 3 seeds)"


def test_what_varies_has_its_effect_drawn_and_what_does_not_has_none(tmp_path: Path) -> None:
    outcomes = [({"+fixed": 1, "model.filters": width}, [0.6]) for width in ("4", "8")]
    comparison = compared(tmp_path, outcomes)
    assert names(comparison) == ["effect_model.filters", "trade_off", "history", "timeline"]


def test_several_parameters_are_also_drawn_beside_one_another(tmp_path: Path) -> None:
    outcomes = []
    for value, (filters, optimizer) in enumerate([("4", "sgd"), ("8", "sgd"), ("8", "adam")]):
        outcomes.append(({"model.filters": filters, "optimizer": optimizer}, [value / 10]))
    assert names(compared(tmp_path, outcomes)) == [
        "effect_model.filters",
        "effect_optimizer",
        "importance",
        "parallel_coordinates",
        "trade_off",
        "history",
        "timeline",
    ]


def importance(comparison: Comparison) -> Chart:
    return next(chart for chart in charts_of(comparison, None) if chart.name == "importance")


def test_too_few_trials_explain_no_importance_and_the_report_says_so(tmp_path: Path) -> None:
    outcomes = [({"a": value, "b": value}, [0.5]) for value in ("1", "2")]
    chart = importance(compared(tmp_path, outcomes))
    assert chart.draw is None
    assert chart.explanation.startswith("Not known: it takes a complete grid")
    assert chart.explanation.endswith("there are 2.")


def test_a_complete_grid_is_explained_by_a_linear_model(tmp_path: Path) -> None:
    outcomes = []
    for a in range(2):
        for b in range(2):
            outcomes.append(({"a": str(a), "b": str(b)}, [0.3 + a / 5, 0.31 + a / 5, 0.29 + a / 5]))
    chart = importance(compared(tmp_path, outcomes))
    assert "linear model with interactions" in chart.explanation
    assert re.search(r"Most: a, 9\d%\.$", chart.explanation)
    assert chart.draw is not None
    (axes,) = chart.draw().axes
    assert axes.get_yticklabels()[0].get_text() == "a"


def test_a_sampled_space_is_explained_from_thirty_trials_on(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    outcomes = []
    for place in range(30):
        value = float(random.random())
        outcomes.append(({"a": str(place // 2), "b": str(place % 3)}, [value]))
    chart = importance(compared(tmp_path, outcomes))
    assert "PED-ANOVA" in chart.explanation
    assert chart.draw is not None
    assert chart.draw().axes


def test_a_single_configuration_has_its_timeline_only(tmp_path: Path) -> None:
    assert names(compared(tmp_path, [({"a": "1"}, [0.5])])) == ["timeline"]


def test_runs_have_curves_and_the_best_model_s_mistakes(tmp_path: Path) -> None:
    comparison = logged(compared(tmp_path, [({"a": "1"}, [0.5])]))
    of_the_best = ["confusion_matrix", "per_class", "misclassified"]
    assert names(comparison, FakeRuns()) == ["learning_curves", "timeline", *of_the_best]
    assert names(comparison, FakeRuns(epochs=1)) == ["timeline", *of_the_best], "no curve"
    assert names(comparison) == ["timeline"]


def test_a_model_that_tells_no_classes_apart_confuses_none(tmp_path: Path) -> None:
    class Numbers(FakeRuns):
        def classifies(self, run_id: str) -> bool:
            return False

    comparison = logged(compared(tmp_path, [({"x": 1}, [0.5, 0.6]), ({"x": 2}, [0.4, 0.3])]))
    drawn = names(comparison, Numbers())
    assert "learning_curves" in drawn
    assert "confusion_matrix" not in drawn


def test_every_chart_can_be_drawn(tmp_path: Path) -> None:
    outcomes = []
    for place in range(4):
        params = {"a": str(place % 2), "b": str(place // 2)}
        outcomes.append((params, [0.5 + place / 10, 0.52 + place / 10]))
    comparison = logged(compared(tmp_path, outcomes))
    for chart in charts_of(comparison, FakeRuns()):
        if chart.name != "misclassified":
            assert chart.draw is not None
            assert chart.draw().axes, chart.name


def test_images_that_are_not_here_are_said_to_be_missing(tmp_path: Path) -> None:
    comparison = logged(compared(tmp_path, [({"a": "1"}, [0.5])]))
    chart = charts_of(comparison, FakeRuns())[-1]
    assert chart.name == "misclassified"
    assert chart.draw is not None
    with pytest.raises(StudyError, match=r"^the images are not in this folder$"):
        chart.draw()


def test_a_choice_that_stands_for_one_configuration_has_its_replicas_interval(
    tmp_path: Path,
) -> None:
    outcomes = [({"a": "1"}, [0.5, 0.6]), ({"a": "2"}, [0.7])]
    (axes,) = figures.effect(compared(tmp_path, outcomes), "a").axes
    assert error_bars(axes) == 1, "one replica has none"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]


def test_many_numbers_stand_on_a_scale_that_is_logarithmic_where_they_are_far_apart(
    tmp_path: Path,
) -> None:
    outcomes = [({"a": str(place)}, [0.5]) for place in range(20)]
    comparison = compared(tmp_path, outcomes)
    near = with_numbers(comparison, [float(number) for number in range(1, 21)])
    far = with_numbers(comparison, [2.0**number for number in range(20)])
    few = with_numbers(comparison, [1.0, 1000.0])
    axes = [figures.effect(numbered, "a").axes[0] for numbered in (near, far, few)]
    assert [scale.get_xscale() for scale in axes] == ["linear", "log", "linear"]
    assert len(axes[2].get_xticks()) == 2, "each of a few has a place of its own"


def with_numbers(comparison: Comparison, numbers: Sequence[float]) -> Comparison:
    """The first configurations as if they had tried these numbers."""
    configurations = []
    for configuration, number in zip(comparison.configurations, numbers, strict=False):
        configurations.append(replace(configuration, params={"a": number}))
    return replace(comparison, configurations=configurations)


def test_a_pause_is_cut_out_of_the_timeline() -> None:
    trials = [trial(2, 1000, 60, worker=None), trial(0, 100, 60), trial(1, 130, 60, worker=1)]
    bars, cuts = figures.timeline_bars(trials)
    assert [bar.trial.number for bar in bars] == [0, 1, 2]
    assert [bar.row for bar in bars] == ["worker 0", "worker 1", "others"]
    assert [bar.start for bar in bars] == pytest.approx([0, 0.5, 1.5])
    assert cuts == pytest.approx([1.5])


def test_a_short_gap_stays_in_the_timeline() -> None:
    bars, cuts = figures.timeline_bars([trial(0, 100, 60), trial(1, 200, 60)])
    assert [bar.start for bar in bars] == pytest.approx([0, 100 / 60])
    assert cuts == []
    assert figures.timeline_bars([]) == ([], [])


def test_the_front_of_a_trade_off_has_what_nothing_beats(tmp_path: Path) -> None:
    """Parameters rise with the trial's number; the second is worse and larger than the first."""
    outcomes = [({"a": "1"}, [0.6]), ({"a": "2"}, [0.5]), ({"a": "3"}, [0.7])]
    left, _ = figures.trade_off(compared(tmp_path, outcomes)).axes
    behind, front = left.lines
    assert xs(behind) == [1001]
    assert xs(front) == [1000, 1002]
    assert ys(front) == pytest.approx([0.6, 0.7])


def test_curves_are_means_in_a_band() -> None:
    curves: dict[str, Curves] = {"a": {0: [(1, 0.2), (2, 0.4)], 1: [(1, 0.4)]}}
    (axes,) = figures.learning_curves(curves, "val_accuracy").axes
    (line,) = axes.lines
    assert xs(line) == [1, 2]
    assert ys(line) == pytest.approx([0.3, 0.4])
    assert axes.get_ylim()[0] >= 0, "an accuracy is a share"


def test_recognised_shares_of_a_class_without_images_are_none() -> None:
    (axes,) = image_figures.per_class(np.array([[8, 2], [0, 0]]), ["cat", "dog"]).axes
    assert [text.get_text() for text in axes.texts] == ["0.80", "0.00"]


ODD_NAMES = ["$a^$$b_", "犬", "a[0], 100 %", "x" * 300, "x" * 301]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_of_classes_are_drawn_as_they_are() -> None:
    names = [*ODD_NAMES, *(f"class {number}" for number in range(50))]
    for classes in (names[:5], names):
        matrix = np.diag(np.arange(len(classes)))
        for figure in (
            image_figures.confusion(matrix, classes),
            image_figures.per_class(matrix, classes),
        ):
            figure.savefig(io.BytesIO(), format="svg")
    (axes,) = image_figures.per_class(np.eye(5, dtype=np.int64), ODD_NAMES).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:3] == [r"\$a^\$\$b_", "犬", "a[0], 100 %"]
    assert len(labels) == 5, "names that begin alike are two"


def test_of_many_classes_the_worst_are_shown() -> None:
    matrix = np.diag(np.arange(257)) + np.eye(257, k=1, dtype=np.int64)
    (axes,) = image_figures.per_class(matrix, [f"class {number}" for number in range(257)]).axes
    assert len(axes.texts) == 40
    assert axes.get_yticklabels()[0].get_text() == "class 0"


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_misclassified_images_of_any_kind_stand_in_rows_of_eight(
    channels: int, dtype: type
) -> None:
    images: NDArray[Any] = np.full((9, 20, 32, channels), 7, dtype)
    images[:, 0] = 0 if dtype == np.uint8 else -7
    figure = image_figures.misclassified(images, ["cat\nis dog"] * 9)
    assert len(figure.axes) == 16
    figure.savefig(io.BytesIO())


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optuna_s_charts_are_figures_of_their_own() -> None:
    """What optuna.visualization.matplotlib returns is not documented."""
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    drawn = optuna.visualization.matplotlib.plot_optimization_history(study)
    assert optuna_figures.figure_of(drawn).axes, (
        "Optuna's charts no longer return axes: mend report/optuna_figures.py"
    )
