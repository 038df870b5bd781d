"""`python -m cifar_hpo.report [STUDY]`: the report on the terminal, as a page and as pictures."""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Sequence

from cifar_hpo.analysis.comparison import compare_study
from cifar_hpo.analysis.verdict import verdict
from cifar_hpo.console import PLAIN, set_up_output, terminal
from cifar_hpo.errors import StudyError, UserError, exit_with
from cifar_hpo.paths import STUDIES_DB
from cifar_hpo.report.follow import follow
from cifar_hpo.report.runs import attach, open_runs
from cifar_hpo.report.tables import leaderboard, note
from cifar_hpo.study.storage import open_existing, storage_errors
from cifar_hpo.study.stored import write_note


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exit code 2 for a study or a store that is not there."""
    set_up_output()
    given = _parser().parse_args(arguments)
    try:
        with storage_errors(given.storage):
            if given.watch:
                watch(given.study, given.storage, given.tracking_uri)
            else:
                report(given.study, given.storage, given.tracking_uri, in_browser=given.open)
    except (UserError, OSError) as error:
        exit_with(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cifar_hpo.report",
        description="Which configuration, by how much, and is it luck?",
    )
    parser.add_argument("study", nargs="?", help="the one that was worked on last unless said")
    parser.add_argument("--storage", help=f"Optuna's storage; {STUDIES_DB} unless said")
    parser.add_argument(
        "--tracking-uri", help="MLflow's store; the one that the study was logged to unless said"
    )
    parser.add_argument(
        "--watch", action="store_true", help="follow a running sweep in the terminal, until Ctrl-C"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    return parser


def report(
    study: str | None, storage: str | None, tracking_uri: str | None, *, in_browser: bool
) -> None:
    """Print the leaderboard and the verdict, and write the page."""
    from cifar_hpo.report.page import write_page  # loads matplotlib, which --watch does without

    opened = open_existing(storage)
    comparison = compare_study(study, opened)
    console = terminal()
    console.print(leaderboard(comparison))
    for sentence in verdict(comparison):
        console.print(sentence, **PLAIN)
    runs = open_runs(comparison, tracking_uri, console)
    page = write_page(comparison, runs)
    console.print(f"page: {page}", **PLAIN)
    if runs and comparison.run_id:
        attach(runs, comparison, page.parent, console)
    try:
        with storage_errors(storage):
            write_note(opened, comparison.name, note(comparison))
    except StudyError as error:
        console.print(f"the verdict is not in Optuna's dashboard: {error}", **PLAIN)
    if in_browser:
        webbrowser.open(page.absolute().as_uri())


def watch(study: str | None, storage: str | None, tracking_uri: str | None) -> None:
    """Follow a study in the terminal."""
    opened = open_existing(storage)
    comparison = compare_study(study, opened)
    console = terminal()
    runs = open_runs(comparison, tracking_uri, console)
    follow(comparison.name, opened, runs, console)


if __name__ == "__main__":
    main()
