"""`python -m cifar_hpo.results`: the README's results, written from the studies: the article's
tables again, the optimizers, and model cards.

A part is a section of the results. In a file, each stands behind a line with its name, and stays as
it is where its studies are not all here: the studies of a page need not be on one machine.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import optuna

from cifar_hpo.analysis import comparison as findings
from cifar_hpo.analysis.comparison import Comparison, Configuration
from cifar_hpo.analysis.statistics import (
    CONFIDENCE,
    against_best,
    confidence_interval,
    holm,
    p_value,
)
from cifar_hpo.errors import StudyError, UserError, exit_with
from cifar_hpo.paths import GENERATED
from cifar_hpo.study.ranking import FinishedTrial
from cifar_hpo.study.storage import open_existing

BEGIN, END = (
    "<!-- results: python -m cifar_hpo.results --readme README.md -->",
    "<!-- end of results -->",
)
EPOCHS = 10


class Row(NamedTuple):
    """A row of the article's tables: one seed's accuracy on the test images and, where its
    notebooks show them, seconds of an epoch.

    value: what `Configuration.params` has for it.
    """

    study: str
    value: Any
    name: str
    accuracy: float
    seconds: int | None


ARTICLE = (
    Row("neuron_count", 4, "4, 8, 16 neurons, kernel 7", 0.6339, 100),
    Row("neuron_count", 8, "8, 16, 32 neurons, kernel 7", 0.6772, None),
    Row("neuron_count", 16, "16, 32, 64 neurons, kernel 7", 0.7042, 212),
    Row("kernel_size", 7, "kernel 7; 16, 32, 64 neurons", 0.6469, 212),
    Row("kernel_size", 5, "kernel 5; 16, 32, 64 neurons", 0.6980, 126),
    Row("kernel_size", 3, "kernel 3; 16, 32, 64 neurons", 0.7172, 64),
    Row("depth", "[16,32]", "2 layers, kernel 3", 0.6571, 52),
    Row("depth", "[16,32,32,64]", "4 layers, kernel 3", 0.6963, 62),
    Row("depth", "[16,32,32,32,32,64]", "6 layers, kernel 3", 0.6873, 61),
    Row("final", "base", "base: 4, 8, 16 neurons, kernel 7", 0.5932, 100),
    Row("final", "enhanced", "enhanced: 16, 32, 64 neurons, kernel 3", 0.7160, 64),
)
"""Seconds of the same model in another of its tables where a table has none."""

CLAIMS = {
    "accuracy rises with the neurons in each layer": ("neuron_count", ((8, 4), (16, 8))),
    "accuracy rises as the kernel shrinks": ("kernel_size", ((5, 7), (3, 5))),
    "four layers beat two and six": (
        "depth",
        (("[16,32,32,64]", "[16,32]"), ("[16,32,32,64]", "[16,32,32,32,32,64]")),
    ),
}
"""The article's conclusions, each as pairs of which the first should be the better."""

OPTIMIZERS, SEARCH, CARDS = (
    ("optimizer", "optimizer_seeds"),
    "best_cnn",
    ("final", "best_cnn_final"),
)
PARTS = {
    "article": tuple(dict.fromkeys(row.study for row in ARTICLE)),
    "optimizers": (OPTIMIZERS[-1],),
    SEARCH: (SEARCH, CARDS[-1]),
    CARDS[0]: CARDS[:1],
    CARDS[1]: (SEARCH, CARDS[1]),
}
"""What each part of the results needs to take the place of an earlier one in a file; without a file
it is shown as far as it goes."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exit code 2 where there are no studies, or no place for them in the
    file."""
    parser = argparse.ArgumentParser(
        prog="python -m cifar_hpo.results",
        description="The results that the studies here show, as Markdown.",
    )
    parser.add_argument("--storage", help=f"Optuna's storage; {GENERATED}/studies.db unless said")
    parser.add_argument(
        "--tracking-uri", help="MLflow's store; the one that the studies were logged to unless said"
    )
    parser.add_argument(
        "--readme",
        type=Path,
        help="put them into this file, between the lines that mark their place",
    )
    given = parser.parse_args(arguments)
    try:
        storage = open_existing(given.storage)
        names = {*(row.study for row in ARTICLE), *OPTIMIZERS, SEARCH, *CARDS} & set(
            optuna.get_all_study_names(storage)
        )
        found = {name: study for name in names if (study := findings.find(name, storage)).finished}
        if not found:
            raise StudyError(
                "no study of the results has a finished trial here; python -m cifar_hpo -cn "
                "neuron_count makes one"
            )
        parts = dict(_parts(found, given.tracking_uri))
        if given.readme:
            whole = {
                name: text
                for name, text in parts.items()
                if found.keys() >= set(PARTS.get(name, ()))
            }
            for name in _put(given.readme, whole):
                sys.stderr.write(
                    f"{given.readme} keeps its part {name}: of {', '.join(PARTS[name])} not all "
                    "are here\n"
                )
        else:
            sys.stdout.write("\n\n".join(parts.values()) + "\n")
    except UserError as error:
        exit_with(error)


def _put(readme: Path, parts: Mapping[str, str]) -> list[str]:
    """Replace these parts; returns the names of those that stay. The versions are of the latest
    part."""
    before, begun, rest = (readme.read_text(encoding="utf-8") if readme.exists() else "").partition(
        BEGIN
    )
    old, ended, after = rest.partition(END)
    if not begun or not ended:
        raise StudyError(f"{readme} has no lines {BEGIN} and {END}")
    _, *pairs = re.split(r"^<!-- (\w+) -->$", old, flags=re.MULTILINE)
    stay = {name: text.strip() for name, text in zip(pairs[::2], pairs[1::2], strict=True)}
    text = "".join(
        f"<!-- {name} -->\n\n{part}\n\n"
        for name in [*PARTS, "versions"]
        if (part := parts.get(name, stay.get(name)))
    )
    readme.write_text(f"{before}{BEGIN}\n\n{text}{END}{after}", encoding="utf-8")
    return [name for name in PARTS if name in stay.keys() - parts.keys()]


def _parts(found: Mapping[str, Comparison], tracking_uri: str | None) -> Iterator[tuple[str, str]]:
    replicas = sorted(
        {
            len(one.values)
            for name in {row.study for row in ARTICLE} & found.keys()
            for one in found[name].finished
        }
    )
    if replicas:
        seeds = " to ".join(str(number) for number in dict.fromkeys((replicas[0], replicas[-1])))
        heads = [
            "study",
            "configuration",
            "article, one seed",
            f"ours, mean of {seeds} seeds (95 %)",
            "our seeds",
            "its seed among them",
        ]
        times = [
            "study",
            "what ours trained",
            "minutes on one core",
            "its notebook, one seed each",
            "share",
        ]
        tables = (
            (heads, _rows_of_article(found)),
            (["the article concludes", "", "gaps, ours"], _claims(found)),
            (times, _times(found)),
        )
        yield "article", "\n\n".join(_table(*table) for table in tables)
    if rows := list(_optimizers(found)):
        heads = [
            "optimizer",
            "its best learning rate",
            "val_accuracy (95 %)",
            "test accuracy (95 %)",
            "against the best",
        ]
        yield "optimizers", _table(heads, rows)
    if SEARCH in found:
        yield SEARCH, _search(found)
    for name in CARDS:
        if name in found:
            yield name, _card(found[name], tracking_uri)
    used = (
        f"TensorFlow {version('tensorflow')}, Keras {version('keras')}, Optuna {version('optuna')}"
    )
    yield "versions", f"{used}; `python -m cifar_hpo.report STUDY` shows each."


def _table(heads: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows))


def _of(study: Comparison, value: Any) -> Configuration | None:
    """The configuration in which the one thing that varies has this value."""
    return next(
        (
            one
            for one in study.finished
            if [str(part) for part in one.params.values()] == [str(value)]
        ),
        None,
    )


def _matched(found: Mapping[str, Comparison]) -> Iterator[tuple[Row, Configuration]]:
    for row in ARTICLE:
        if row.study in found and (one := _of(found[row.study], row.value)):
            yield row, one


def _rows_of_article(found: Mapping[str, Comparison]) -> Iterator[list[str]]:
    for row, one in _matched(found):
        low, high = min(one.tests.values()), max(one.tests.values())
        above = row.accuracy - high
        among = (
            f"no, {above:.3f} above"
            if above > 0
            else f"no, {low - row.accuracy:.3f} below"
            if row.accuracy < low
            else "yes"
        )
        yield [
            row.study,
            row.name,
            f"{row.accuracy:.4f}",
            _mean(one.tests),
            f"{low:.4f} – {high:.4f}",
            among,
        ]


def _claims(found: Mapping[str, Comparison]) -> Iterator[list[str]]:
    """Confirmed where each pair differs as claimed, and wrong where one differs the other way
    round, neither by luck."""
    for claim, (name, pairs) in CLAIMS.items():
        known = (
            [[_of(found[name], value) for value in pair] for pair in pairs] if name in found else []
        )
        sides = [(better.tests, worse.tests) for better, worse in known if better and worse]
        if len(sides) < len(pairs):
            continue
        gaps = [fmean(better.values()) - fmean(worse.values()) for better, worse in sides]
        chances = holm([p_value(*pair) for pair in sides])
        sure = [one is not None and one <= 1 - CONFIDENCE for one in chances]
        is_wrong = any(gap < 0 and is_sure for gap, is_sure in zip(gaps, sure, strict=True))
        verdict = "wrong" if is_wrong else "confirmed" if all(sure) else "not shown"
        shown = "; ".join(
            f"{pair[0]} over {pair[1]}: {gap:+.4f}" + ("" if one is None else f", p = {one:.2g}")
            for pair, gap, one in zip(pairs, gaps, chances, strict=True)
        )
        yield [claim, f"**{verdict}**", shown]


def _times(found: Mapping[str, Comparison]) -> Iterator[list[str]]:
    for name in dict.fromkeys(row.study for row in ARTICLE):
        rows = [(row, one) for row, one in _matched(found) if row.study == name]
        if not rows:
            continue
        ours = sum(one.seconds for _, one in rows) / 60
        theirs = sum((row.seconds or 0) * EPOCHS for row, _ in rows) / 60
        least = "" if all(row.seconds for row, _ in rows) else "at least "
        models = sum(len(one.values) for _, one in rows)
        yield [
            name,
            f"{models} models",
            f"{ours:.0f}",
            f"{least}{theirs:.0f} min for {len(rows)}",
            f"{'at most ' if least else ''}{ours / theirs:.0%}",
        ]


def _optimizers(found: Mapping[str, Comparison]) -> Iterator[list[str]]:
    """Each optimizer at the learning rate that was best for it: the seeds of the second study where
    they are there, else the first's one."""
    study = next((found[name] for name in reversed(OPTIMIZERS) if name in found), None)
    best: dict[Any, Configuration] = {}
    for one in study.finished if study else ():
        best.setdefault(one.params.get("optimizer"), one)
    _, *against = against_best([one.values for one in best.values()]) or (None,)
    luck = ["best", *("unknown" if one is None else f"p = {one:.2g}" for one in against)]
    for (name, one), said in zip(best.items(), luck, strict=False):
        yield [
            str(name),
            str(one.params.get("optimizer.learning_rate")),
            _mean(one.values),
            _mean(one.tests),
            said,
        ]


def _search(found: Mapping[str, Comparison]) -> str:
    """What a search for a better model took, and when it had one that beats the article's enhanced
    model."""
    study, goal = found[SEARCH], max(row.accuracy for row in ARTICLE if row.value == "enhanced")
    states = Counter(one.state for one in study.told)
    better = [one for one in study.told if one.metrics.get("test_accuracy", 0) > goal]
    counts = ", ".join(f"{count} {state.lower()}" for state, count in sorted(states.items()))
    lines = [
        (
            f"{SEARCH}: {len(study.told)} trials ({counts}) in {_minutes([study])} minutes; best "
            f"val_accuracy {study.finished[0].value:.4f}"
        )
    ]
    if better:
        first = min(better, key=lambda one: one.ended)
        lines.append(
            f"the article's {goal:.4f} was passed after {_minutes([study], first.ended)} "
            f"minutes, by trial {first.number}: "
            f"{first.metrics['test_accuracy']:.4f} on the test images"
        )
    if CARDS[1] in found:
        theirs = sum((row.seconds or 0) * EPOCHS for row in ARTICLE) / 60
        together = _minutes([study, found[CARDS[1]]])
        lines.append(
            f"search and final together {together} minutes; the article's eleven models at least "
            f"{theirs:.0f}"
        )
    return "\n".join(f"- {line}" for line in lines)


def _minutes(studies: Sequence[Comparison], end: float = math.inf) -> str:
    """How long any of their trials ran until then, with the gaps between left out."""
    spans = sorted(
        (one.ended - one.seconds, min(one.ended, end)) for study in studies for one in study.told
    )
    total, until = 0.0, 0.0
    for begun, ended in spans:
        total += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return f"{total / 60:.0f}"


def _card(study: Comparison, tracking_uri: str | None) -> str:
    """What is to be known of a study's best model."""
    best: Configuration = study.finished[0]
    name = f"{study.name}: {best.name}" if best.params else study.name
    datasets = {str(told).rpartition(":")[0] for told in study.meaning.get("data", [])}
    lines = [f"**{name}** on {' and '.join(sorted(datasets))}"]
    lines.append(
        f"{best.told.metrics['parameters']:,.0f} parameters; test accuracy {_mean(best.tests)}, "
        f"over {len(best.tests)} seeds"
    )
    lines.append(f"trained in {best.seconds / max(len(best.values), 1):.0f} s a seed")
    if classes := _classes(best.told, tracking_uri or study.uri):
        lines.append(
            "its best seed by class: "
            + ", ".join(f"{name} {share:.2f}" for name, share in classes.items())
        )
    return "\n".join(
        f"{'' if place == 0 else '- '}{line}" + ("\n" if place == 0 else "")
        for place, line in enumerate(lines)
    )


def _classes(told: FinishedTrial, uri: str | None) -> dict[str, float]:
    """The share of each class's test images that was recognised; empty where MLflow does not have
    it."""
    from cifar_hpo.tracking.reader import Records

    if not told.run_id:
        return {}
    matrix, names = Records(uri).confusion(told.run_id)
    return {
        name: float(matrix[place, place] / max(matrix[place].sum(), 1))
        for place, name in enumerate(names)
    }


def _mean(values: Mapping[int, float]) -> str:
    limits = confidence_interval(list(values.values()))
    return f"{fmean(values.values()):.4f}" + (
        f" ({limits[0]:.4f} – {limits[1]:.4f})" if limits else " (one seed)"
    )


if __name__ == "__main__":
    main()
