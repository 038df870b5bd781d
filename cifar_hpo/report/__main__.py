"""`python -m cifar_hpo.report [STUDY]`: which configuration, by how much, and is it luck? On the
terminal, as a page and as pictures."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import time
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cifar_hpo.analysis import comparison as findings
from cifar_hpo.analysis.comparison import TOP_K, Comparison, Configuration
from cifar_hpo.console import terminal
from cifar_hpo.errors import StudyError, UserError, exit_with
from cifar_hpo.paths import GENERATED, REPORT_TEMPLATE
from cifar_hpo.study.ranking import has_columns, parameter_columns
from cifar_hpo.study.storage import open_existing
from cifar_hpo.sweep.progress import SHOWN, sparkline

CURVES = 5
"""Configurations whose learning curves share a chart."""

MISTAKES = 40
"""Misclassified images that are shown, those first of which the model was most certain."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exit code 2 for a study or a store that is not there."""
    parser = argparse.ArgumentParser(
        prog="python -m cifar_hpo.report",
        description="Which configuration, by how much, and is it luck?",
    )
    parser.add_argument("study", nargs="?", help="the one that was worked on last unless said")
    parser.add_argument("--storage", help=f"Optuna's storage; {GENERATED}/studies.db unless said")
    parser.add_argument(
        "--tracking-uri", help="MLflow's store; the one that the study was logged to unless said"
    )
    parser.add_argument(
        "--watch", action="store_true", help="follow a running sweep in the terminal, until Ctrl-C"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    given = parser.parse_args(arguments)
    try:
        storage = open_existing(given.storage)
        if given.watch:
            _watch(given, storage)
            return
        found = findings.find(given.study, storage)
        console = terminal()
        console.print(leaderboard(found))
        for sentence in found.verdict():
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)
        page = write(found, _records(found, given.tracking_uri, console))
        console.print(f"page: {page}", markup=False, highlight=False, soft_wrap=True)
        if given.open:
            webbrowser.open(page.absolute().as_uri())
    except UserError as error:
        exit_with(error)


def _records(found: Comparison, tracking_uri: str | None, console: Console) -> Any:
    """MLflow's part, without which there is a report too."""
    if not found.run_id and not tracking_uri:
        return None
    from cifar_hpo.tracking.reader import Records

    try:
        return Records(tracking_uri or found.uri)
    except StudyError as error:
        console.print(
            f"without curves and images: {error}", style="yellow", markup=False, soft_wrap=True
        )
        return None


def _watch(given: argparse.Namespace, storage: Any) -> None:
    """The leaderboard and the running trials, drawn anew every two seconds."""
    console = terminal()
    found = findings.find(given.study, storage)
    records = _records(found, given.tracking_uri, console)
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            found = findings.find(found.name, storage)
            parts: list[Any] = [
                Text(f"study {found.name}: {len(found.told)} trials done", style="bold"),
                leaderboard(found),
            ]
            if (
                records
                and found.run_id
                and (running := records.running(found.run_id, found.metrics[0]))
            ):
                table = Table(
                    "running",
                    "epochs",
                    found.metrics[0],
                    "so far",
                    box=None,
                    pad_edge=False,
                    header_style="bold",
                )
                for name, values in running:
                    table.add_row(
                        Text(name),
                        str(len(values)),
                        f"{values[-1]:.4f}" if values else "…",
                        sparkline(values),
                    )
                parts += [Text(""), table]
            live.update(Group(*parts), refresh=True)
            time.sleep(2)


def rows(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Column names and a row for each configuration: rank, what varied, value and interval, whether
    it is tied, and what it took."""
    has_tests = (
        any(one.tests for one in found.configurations) and "test_accuracy" not in found.metrics
    )
    keys, settled = parameter_columns([one.told for one in found.configurations], found.keys)
    has_numbers = not has_columns(found.keys)
    columns = [
        "rank",
        *(["trial"] if has_numbers else []),
        *keys,
        *found.metrics,
        "95 %",
        "against the best",
        *(["test accuracy"] if has_tests else []),
    ]
    columns += ["parameters", "seconds", "state"]
    lines = []
    for rank, (one, cells) in enumerate(zip(found.configurations, settled, strict=True), start=1):
        others = [f"{value:.4f}" for value in (one.told.values or ())[1:]] or ["–"] * (
            len(found.metrics) - 1
        )
        line = [
            str(rank),
            *([str(one.told.number)] if has_numbers else []),
            *cells,
            "–" if one.value is None else f"{one.value:.4f}",
            *others,
        ]
        line += [
            _limits(one, found.metrics[0]),
            _standing(one, rank),
            *([_mean(one.tests)] if has_tests else []),
        ]
        line += [
            f"{one.told.metrics['parameters']:,.0f}" if "parameters" in one.told.metrics else "–",
            f"{one.seconds:.1f}",
        ]
        lines.append([*line, f"{one.told.state} {one.told.error[:100]}".strip()])
    return columns, lines


def _limits(one: Configuration, metric: str) -> str:
    if not one.confidence_interval:
        return "one replica" if one.values else "–"
    low, high = one.confidence_interval
    if metric.endswith("accuracy"):  # two replicas may reach beyond what a share can be
        low, high = max(low, 0), min(high, 1)
    return f"{low:.4f} – {high:.4f}"


def _standing(one: Configuration, rank: int) -> str:
    if rank == 1:
        return "best" if one.values else "–"
    if one.p_value is None:
        return "unknown" if one.values and rank <= TOP_K else "–"
    return "tied" if one.is_tied else f"worse, p = {one.p_value:.2g}"


def _mean(values: Any) -> str:
    return f"{sum(values.values()) / len(values):.4f}" if values else "–"


def leaderboard(found: Comparison, limit: int = SHOWN) -> Table:
    """The best configurations, for a terminal."""
    columns, lines = rows(found)
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for line in lines[:limit]:
        table.add_row(*map(Text, line))
    if len(lines) > limit:
        table.caption = f"and {len(lines) - limit} more"
    return table


def note(found: Comparison) -> str:
    """The verdict and the best configurations as Markdown, for the study's run."""
    columns, lines = rows(found)
    table = [columns, ["---"] * len(columns), *lines[:SHOWN]]
    return (
        "\n\n".join(found.verdict())
        + "\n\n"
        + "\n".join(
            "| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in table
        )
    )


def write(found: Comparison, records: Any) -> Path:
    """Draw all charts, write the page and the pictures, attach both to the study's run, and return
    the page's path."""
    import jinja2
    from matplotlib import pyplot as plt

    from cifar_hpo.report import charts

    folder = Path(GENERATED, "reports", found.name)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.png"):
        stale.unlink()
    sections: dict[str, dict[str, Any]] = {}
    for title, name, explanation, draw in _charts(found, records):
        section = sections.setdefault(
            title, {"explanation": explanation, "pictures": [], "missing": []}
        )
        with plt.rc_context(charts.STYLE):  # anew for each, because Optuna's charts change it
            try:
                figure = draw()
                figure.savefig(folder / f"{name}.png", dpi=130, facecolor="white")
                section["pictures"].append({"name": name, "svg": _svg(figure, name)})
            except Exception as error:  # noqa: BLE001  a chart that can't be drawn must not cost the others
                section["missing"].append(f"{name}: {type(error).__name__}: {error}")
            plt.close("all")
    columns, lines = rows(found)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(REPORT_TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = folder / "report.html"
    told = {"columns": columns, "rows": lines, "sections": sections, "verdict": found.verdict()}
    page.write_text(
        environment.get_template(REPORT_TEMPLATE.name).render(
            found=found, made=time.strftime("%Y-%m-%d %H:%M"), **told
        ),
        encoding="utf-8",
    )
    if records and found.run_id:
        records.attach(found.run_id, folder, note(found))
    return page


def _svg(figure: Any, name: str) -> str:
    """A chart as part of a page, whose text colour it takes; ids are made its own."""
    from cifar_hpo.report.charts import INK

    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    text = written.getvalue()[written.getvalue().index("<svg") :]
    for before, after in (
        (INK, "currentColor"),
        ('id="', f'id="{name}-'),
        ("url(#", f"url(#{name}-"),
        ('href="#', f'href="#{name}-'),
    ):
        text = text.replace(before, after)
    return text


Chart = tuple[str, str, str, Callable[[], Any]]


def _charts(found: Comparison, records: Any) -> Iterator[Chart]:
    """Section, file name, explanation and how to draw it, for all that this study has something to
    show of."""
    from cifar_hpo.report import charts

    finished, metric = found.finished, found.metrics[0]
    if not finished:
        return
    best = finished[0].told
    if records and (curves := _curves(found, records)):
        text = "Mean over replicas, in the band of its 95 % interval."
        yield (
            "Learning curves",
            "learning_curves",
            text,
            lambda: charts.learning_curves(curves, metric),
        )
    yield from _of_parameters(found)
    if len(finished) > 1 and found.keys:
        if any("parameters" in one.told.metrics for one in finished):
            yield (
                "What accuracy costs",
                "trade_off",
                "On the front nothing else is better and cheaper.",
                lambda: charts.trade_off(found),
            )
        yield "History", "history", "Each trial and the best so far.", lambda: charts.history(found)
    if any(one.ended for one in found.told):
        text = (
            "Each bar is a trial; where all rested for a minute or more the time is cut out at "
            "a dotted line."
        )
        yield "Who trained what when", "timeline", text, lambda: charts.timeline(found)
    if any(trial.intermediate_values for trial in found.study.get_trials(deepcopy=False)):
        yield "What was pruned when", "pruning", "", lambda: charts.pruning(found)
    if records and best.run_id:
        yield from _of_best(found, records, best.run_id)


def _of_parameters(found: Comparison) -> Iterator[Chart]:
    """What each parameter does that has several values among the finished trials."""
    from cifar_hpo.report import charts

    varied = [
        key for key in found.keys if len({str(one.params.get(key)) for one in found.finished}) > 1
    ]
    for key in varied:
        text = (
            "Orange: means with 95 % intervals, over replicas where one configuration has the "
            "value, else over configurations. Blue: what they come from."
        )
        yield (
            "The effect of each parameter",
            f"effect_{key.strip('+~').replace('/', '.')}",
            text,
            functools.partial(charts.effect, found, key),
        )
    if 1 < len(varied) < len(found.finished):  # fewer trials than parameters explain nothing
        yield (
            "Importance",
            "importance",
            "How much of the variation each parameter explains.",
            lambda: charts.importances(found, varied),
        )
    if len(varied) > 1:
        yield (
            "All configurations at once",
            "parallel_coordinates",
            "A line for each trial.",
            lambda: charts.parallel_coordinates(found, varied),
        )


def _curves(found: Comparison, records: Any) -> dict[str, Any]:
    chosen = [one for one in found.finished if one.told.run_id][:CURVES]
    curves = {one.name: records.curves(one.told.run_id, found.metrics[0]) for one in chosen}
    return {
        name: replicas
        for name, replicas in curves.items()
        if any(len(points) > 1 for points in replicas.values())
    }


def _of_best(found: Comparison, records: Any, run_id: str) -> Iterator[Chart]:
    """What the best makes of the test images."""
    from cifar_hpo.report import charts

    text = "The best configuration's best replica, on the test images."
    title = "What the best gets wrong"
    yield title, "confusion_matrix", text, lambda: charts.confusion(*records.confusion(run_id))
    yield title, "per_class", text, lambda: charts.per_class(*records.confusion(run_id))
    yield title, "misclassified", text, lambda: _mistakes(found, records, run_id)


def _mistakes(found: Comparison, records: Any, run_id: str) -> Any:
    from cifar_hpo.data import dataset as data
    from cifar_hpo.report import charts

    digests = {str(one).rpartition(":")[2] for one in found.meaning.get("data", [])}
    dataset = next((held for digest in digests if (held := data.decoded(digest))), None)
    if dataset is None or len(digests) > 1:
        raise StudyError(
            "the images are not in this folder"
            if dataset is None
            else "several datasets were compared"
        )
    predicted, confidence = records.predictions(run_id)
    labels = dataset.test[1]
    wrong = sorted((predicted != labels).nonzero()[0], key=lambda place: -confidence[place])[
        :MISTAKES
    ]
    titles = [
        f"{dataset.classes[predicted[place]]} {confidence[place]:.2f}\nis "
        f"{dataset.classes[labels[place]]}"
        for place in wrong
    ]
    return charts.misclassified(dataset.test[0][wrong], titles)


if __name__ == "__main__":
    main()
