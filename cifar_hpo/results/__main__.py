"""`python -m cifar_hpo.results`: print the results that the studies here show, or put them into a
file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.storages import BaseStorage

from cifar_hpo.analysis.comparison import Comparison, compare_study
from cifar_hpo.console import set_up_output
from cifar_hpo.errors import StudyError, UserError, exit_with
from cifar_hpo.paths import STUDIES_DB
from cifar_hpo.results.document import replace_parts
from cifar_hpo.results.parts import ALL_STUDIES, PARTS, VERSIONS, parts_of
from cifar_hpo.study.storage import open_existing, storage_errors


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exit code 2 where there are no studies, or no place for them in the
    file."""
    set_up_output()
    given = _parser().parse_args(arguments)
    try:
        with storage_errors(given.storage):
            comparisons = finished_studies(open_existing(given.storage))
        parts = parts_of(comparisons, given.tracking_uri)
        if given.readme:
            update(given.readme, parts, comparisons)
        else:
            sys.stdout.write("\n\n".join(parts.values()) + "\n")
    except (UserError, OSError) as error:
        exit_with(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cifar_hpo.results",
        description="The results that the studies here show, as Markdown.",
    )
    parser.add_argument("--storage", help=f"Optuna's storage; {STUDIES_DB} unless said")
    parser.add_argument(
        "--tracking-uri", help="MLflow's store; the one that the studies were logged to unless said"
    )
    parser.add_argument(
        "--readme",
        type=Path,
        help="put them into this file, between the lines that mark their place",
    )
    return parser


def finished_studies(storage: BaseStorage) -> dict[str, Comparison]:
    """The studies of the results that have a finished trial, by name.

    Raises StudyError where there are none.
    """
    known = optuna.get_all_study_names(storage)
    comparisons = {}
    for name in ALL_STUDIES:
        if name in known:
            comparison = compare_study(name, storage)
            if comparison.finished:
                comparisons[name] = comparison
    if not comparisons:
        raise StudyError(
            "no study of the results has a finished trial here; python -m cifar_hpo -cn "
            "neuron_count makes one"
        )
    return comparisons


def update(path: Path, parts: Mapping[str, str], comparisons: Mapping[str, Comparison]) -> None:
    """Put the parts whose studies are all here into a file, and say which stay as they are."""
    whole = {}
    for name, text in parts.items():
        needed = PARTS.get(name, ())
        if all(study in comparisons for study in needed):
            whole[name] = text
    for name in replace_parts(path, whole, [*PARTS, VERSIONS]):
        studies = ", ".join(PARTS[name])
        sys.stderr.write(f"{path} keeps its part {name}: of {studies} not all are here\n")


if __name__ == "__main__":
    main()
