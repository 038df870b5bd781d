"""`report A B`: two studies side by side, as a `Beside`, on the terminal and as a page.

What the best of each is, what their configs differ in, and how good the best of so many tried
configurations is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.storages import BaseStorage
from rich.console import Console

from cifar_hpo.analysis.best_after import BestAfter, best_after, chance_ahead
from cifar_hpo.analysis.comparison import Comparison, compare_study
from cifar_hpo.config.fields import flat
from cifar_hpo.console import PLAIN, clock
from cifar_hpo.errors import StudyError
from cifar_hpo.paths import (
    BESIDE_TEMPLATE,
    HYDRA_CONFIG,
    HYDRA_FOLDER,
    REPORT_BESIDE,
    REPORT_PAGE,
    REPORTS,
)
from cifar_hpo.report.charts import Chart
from cifar_hpo.report.page import draw_sections, template
from cifar_hpo.report.reference import Held, hold_against
from cifar_hpo.report.style import as_text, limit_to_share, new_axes
from cifar_hpo.study.attributes import folders_of
from cifar_hpo.study.storage import as_file_name
from cifar_hpo.study.tables import MISSING
from cifar_hpo.table import Table

EXPLANATION = (
    "The best of n configurations that are drawn from those that a study has tried, without "
    "replacement: median, 5 % to 95 % of all draws, and mean, exactly. One without a value is "
    "never best."
)


@dataclass(frozen=True)
class Beside:
    """Two studies; held: what is shown of their best configurations. curves: of each, how good the
    best of so many configurations is."""

    studies: tuple[Comparison, Comparison]
    held: Held
    curves: tuple[Sequence[BestAfter], Sequence[BestAfter]]

    @classmethod
    def load(cls, first: str, second: str, storage: BaseStorage, uri: str | None) -> Beside:
        """Raises StudyError where one is not there or has no best, and where they were measured in
        different ways."""
        if first == second:
            raise StudyError(f"study {first} beside itself; name two")
        one, other = compare_study(first, storage), compare_study(second, storage)
        held = hold_against(one, second, storage, uri)
        if one.directions != other.directions:
            problem = f"{one.directions[0]} in the one and {other.directions[0]} in the other"
            raise StudyError(f"studies {first} and {second}: {one.metrics[0]} is to {problem}")
        curves = (
            best_after(_pool(one), one.directions[0]),
            best_after(_pool(other), one.directions[0]),
        )
        return cls((one, other), held, curves)

    @property
    def names(self) -> tuple[str, str]:
        return self.studies[0].name, self.studies[1].name

    @property
    def metric(self) -> str:
        return self.studies[0].metrics[0]


def _pool(comparison: Comparison) -> list[float | None]:
    """A value for each configuration that has ended."""
    return [configuration.value for configuration in comparison.configurations]


def summary_table(beside: Beside) -> Table:
    """What each study has found, and what it took."""
    columns = ["", *beside.names]
    rows: dict[str, list[str]] = {}
    for comparison in beside.studies:
        best = comparison.complete[0]
        interval = best.confidence_interval
        seconds = sum(trial.seconds for trial in comparison.trials)
        tests = best.test_accuracies
        cells = {
            "best": best.name,
            beside.metric: f"{best.value:.4f}",
            "95 %": f"{interval[0]:.4f} – {interval[1]:.4f}" if interval else "one seed",
            "test accuracy": f"{sum(tests.values()) / len(tests):.4f}" if tests else MISSING,
            "configurations": str(len(comparison.configurations)),
            "without a value": str(len(comparison.configurations) - len(comparison.finished)),
            "time of trials": clock(seconds),
        }
        for title, cell in cells.items():
            rows.setdefault(title, []).append(cell)
    return Table(columns, [[title, *cells] for title, cells in rows.items()])


def difference_table(beside: Beside) -> Table:
    """The keys in which the best configurations of the two differ, what they vary among them."""
    composed = [_composed(comparison) for comparison in beside.studies]
    if not all(composed):  # like beside like: what a group's choice sets is in composed ones alone
        composed = [_settings(comparison) for comparison in beside.studies]
    settings = []
    for values in composed:
        settings.append({key: str(value) for key, value in values.items()})
    first, second = settings
    rows = []
    for key in sorted(first.keys() | second.keys()):
        if first.get(key) != second.get(key):
            rows.append([key, first.get(key, MISSING), second.get(key, MISSING)])
    return Table(["key", *beside.names], rows)


def _composed(comparison: Comparison) -> dict[str, object]:
    """The config of a study's best as Hydra left it in the folder of its trial; empty where it is
    not there."""
    number = str(comparison.complete[0].trial.number)
    for folder in reversed(folders_of(comparison.study.user_attrs)):
        file = Path(folder, number, HYDRA_FOLDER, HYDRA_CONFIG)
        with contextlib.suppress(OSError, yaml.YAMLError):
            config = yaml.safe_load(file.read_text(encoding="utf-8"))
            config.pop("mlflow", None)
            return dict(flat(config))
    return {}


def _settings(comparison: Comparison) -> dict[str, object]:
    """The same as the study means it: what does not vary, and what the best has of what varies."""
    values: dict[str, object] = dict(flat(comparison.meaning.get("config", {})))
    for key, value in comparison.complete[0].params.items():
        values[key.lstrip("+")] = value
    return values


def curve_table(beside: Beside) -> Table:
    """The best after 1, 2, 4, … configurations of each, and how likely the first is ahead."""
    sizes = [len(curve) for curve in beside.curves]
    pools = [_pool(comparison) for comparison in beside.studies]
    direction = beside.studies[0].directions[0]
    rows = []
    for n in _counts(sizes):
        row = [str(n)]
        for curve in beside.curves:
            row.append(_band_text(curve[n - 1]) if n <= len(curve) else MISSING)
        chance = MISSING
        if n <= min(sizes):
            chance = f"{100 * chance_ahead(pools[0], pools[1], n, direction):.0f} %"
        rows.append([*row, chance])
    return Table(["n", *beside.names, f"{beside.names[0]} ahead"], rows)


def _counts(sizes: Sequence[int]) -> list[int]:
    """1, 2, 4, … and both sizes."""
    doubled = [2**power for power in range(max(sizes).bit_length())]
    return sorted({n for n in [*doubled, *sizes] if n <= max(sizes)})


def _band_text(point: BestAfter) -> str:
    if point.median is None:
        return "no value"
    low = MISSING if point.low is None else f"{point.low:.4f}"
    high = MISSING if point.high is None else f"{point.high:.4f}"
    mean = "" if point.mean is None else f", mean {point.mean:.4f}"
    return f"{point.median:.4f} ({low} to {high}){mean}"


def best_after_figure(beside: Beside) -> Figure:
    """The median and the band of each study, by the number of configurations."""
    figure, axes = new_axes()
    for name, curve in zip(beside.names, beside.curves, strict=True):
        known = [point for point in curve if point.median is not None]
        counts = [point.n for point in known]
        (line,) = axes.plot(
            counts,
            [point.median or 0.0 for point in known],
            drawstyle="steps-post",
            marker=".",
            label=as_text(name),
        )
        band = [point for point in known if point.low is not None and point.high is not None]
        axes.fill_between(
            [point.n for point in band],
            [point.low or 0.0 for point in band],
            [point.high or 0.0 for point in band],
            step="post",
            color=line.get_color(),
            alpha=0.2,
            linewidth=0,
        )
    axes.set(xlabel="configurations drawn", ylabel=f"best {beside.metric}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    limit_to_share(axes, beside.metric)
    axes.legend()
    return figure


def print_beside(beside: Beside, console: Console) -> Path:
    """Print the tables and the sentence, write the page, and return its path."""
    console.print(summary_table(beside).to_rich())
    console.print(beside.held.sentence, **PLAIN)
    differences = difference_table(beside)
    if differences.rows:
        console.print(differences.to_rich())
    else:
        console.print("their best configurations have the same config", **PLAIN)
    console.print("best after n configurations:", **PLAIN)
    console.print(curve_table(beside).to_rich())
    page = write_page(beside)
    console.print(f"page: {page}", **PLAIN)
    return page


def write_page(beside: Beside) -> Path:
    """Write the page with its figure, and return its path. Raises StudyError where the studies'
    names can't be that of a folder."""
    first, second = map(as_file_name, beside.names)
    folder = REPORTS / REPORT_BESIDE.format(first=first, second=second)
    folder.mkdir(parents=True, exist_ok=True)
    chart = Chart(
        "Best after n configurations",
        "best_after",
        EXPLANATION,
        partial(best_after_figure, beside),
    )
    sections = draw_sections([chart], folder)
    text = template(BESIDE_TEMPLATE.name).render(
        beside=beside,
        summary=summary_table(beside),
        differences=difference_table(beside),
        curves=curve_table(beside),
        sections=sections,
        made=time.strftime("%Y-%m-%d %H:%M"),
    )
    page = folder / REPORT_PAGE
    page.write_text(text, encoding="utf-8")
    return page
