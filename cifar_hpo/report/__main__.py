"""`python -m cifar_hpo.report [STUDY]`: the report on the terminal, as a page and as pictures; with
`--serve` as a page that is live, with `--json` for programs, with `--not-worse-than` as an exit
code."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Sequence

from optuna.storages import BaseStorage

from cifar_hpo.analysis.comparison import Comparison, compare_study
from cifar_hpo.analysis.verdict import verdict
from cifar_hpo.console import PLAIN, set_up_output, terminal
from cifar_hpo.errors import StudyError, UserError, exit_with
from cifar_hpo.paths import STUDIES_DB
from cifar_hpo.report.as_json import report_document, to_json
from cifar_hpo.report.follow import follow
from cifar_hpo.report.reference import CHAMPION, Held, hold_against
from cifar_hpo.report.runs import attach, open_runs, with_new_images, with_new_images_if_there
from cifar_hpo.report.tables import leaderboard, note
from cifar_hpo.study.storage import open_existing, storage_errors
from cifar_hpo.study.stored import write_note


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line.

    Exit code 1 where the study's best is shown to be worse than --not-worse-than, 2 for a study, a
    reference or a store that is not there.
    """
    set_up_output()
    parser = _parser()
    given = parser.parse_args(arguments)
    _refuse_together(parser, given)
    try:
        with storage_errors(given.storage):
            if given.beside:
                show_beside(given)
                return
            if given.serve:
                serve_page(given)
                return
            if given.watch:
                watch(given.study, given.storage, given.tracking_uri)
                return
            held = report(given)
    except (UserError, OSError) as error:
        exit_with(error)
    if held is not None and held.is_worse:
        sys.exit(1)


def _refuse_together(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """End the program for arguments that do not go together."""
    if given.json and given.open:
        parser.error("argument --open: not allowed with argument --json, which writes no page")
    if given.watch and given.not_worse_than:
        parser.error("argument --not-worse-than: not allowed with argument --watch")
    if given.serve and given.not_worse_than:
        parser.error("argument --not-worse-than: not allowed with argument --serve")
    for option in ("watch", "serve", "json", "not_worse_than"):
        if given.beside and getattr(given, option):
            written = option.replace("_", "-")
            parser.error(f"argument --{written}: not allowed with two studies")
    if given.port is not None and not given.serve:
        parser.error("argument --port: goes with --serve alone")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cifar_hpo.report",
        description="Which configuration, by how much, and is it luck?",
    )
    parser.add_argument("study", nargs="?", help="the one that was worked on last unless said")
    parser.add_argument("beside", nargs="?", help="a second study: the two side by side")
    parser.add_argument("--storage", help=f"Optuna's storage; {STUDIES_DB} unless said")
    parser.add_argument(
        "--tracking-uri", help="MLflow's store; the one that the study was logged to unless said"
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument(
        "--watch", action="store_true", help="follow a running sweep in the terminal, until Ctrl-C"
    )
    forms.add_argument(
        "--serve",
        action="store_true",
        help="show the page on this machine alone, and renew it as trials end, until Ctrl-C",
    )
    forms.add_argument(
        "--json", action="store_true", help="print it as JSON alone, and write no page"
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="of --serve; one that is free unless said"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--not-worse-than",
        metavar=f"{CHAMPION}|STUDY",
        help="exit code 1 where the study's best is shown to be worse than the champion of its "
        "dataset, or than the best of another study; 0 where it is not shown",
    )
    return parser


def report(given: argparse.Namespace) -> Held | None:
    """Print the leaderboard and the verdict and write the page, or print them as JSON.

    Returns how the study's best stands beside the reference, where one was named.
    """
    storage = open_existing(given.storage)
    comparison = compare_study(given.study, storage)
    held = None
    if given.not_worse_than:
        held = hold_against(comparison, given.not_worse_than, storage, given.tracking_uri)
    if given.json:
        comparison = with_new_images_if_there(comparison, given.tracking_uri)
        sys.stdout.write(to_json(report_document(comparison, held)) + "\n")
    else:
        _print_report(comparison, held, storage, given)
    return held


def _print_report(
    comparison: Comparison, held: Held | None, storage: BaseStorage, given: argparse.Namespace
) -> None:
    from cifar_hpo.report.page import write_page  # loads matplotlib, which the rest does without

    console = terminal()
    runs = open_runs(comparison, given.tracking_uri, console)
    comparison = with_new_images(comparison, runs)
    console.print(leaderboard(comparison))
    for sentence in verdict(comparison):
        console.print(sentence, **PLAIN)
    if held is not None:
        console.print(held.sentence, **PLAIN)
    page = write_page(comparison, runs)
    console.print(f"page: {page}", **PLAIN)
    if runs and comparison.run_id:
        attach(runs, comparison, page.parent, console)
    try:
        with storage_errors(given.storage):
            write_note(storage, comparison.name, note(comparison))
    except StudyError as error:
        console.print(f"the verdict is not in Optuna's dashboard: {error}", **PLAIN)
    if given.open:
        webbrowser.open(page.absolute().as_uri())


def watch(study: str | None, storage: str | None, tracking_uri: str | None) -> None:
    """Follow a study in the terminal."""
    opened = open_existing(storage)
    comparison = compare_study(study, opened)
    console = terminal()
    runs = open_runs(comparison, tracking_uri, console)
    follow(comparison.name, opened, runs, console)


def show_beside(given: argparse.Namespace) -> None:
    """Print two studies side by side, and write their page."""
    from cifar_hpo.report.beside import Beside, print_beside  # loads matplotlib

    storage = open_existing(given.storage)
    beside = Beside.load(given.study, given.beside, storage, given.tracking_uri)
    page = print_beside(beside, terminal())
    if given.open:
        webbrowser.open(page.absolute().as_uri())


def serve_page(given: argparse.Namespace) -> None:
    """Show a study's page on loopback, until Ctrl-C."""
    from cifar_hpo.report.serve import LivePage, serve  # loads matplotlib

    opened = open_existing(given.storage)
    name = compare_study(given.study, opened).name
    live = LivePage(name, opened, given.storage, given.tracking_uri)
    serve(live, given.port or 0, terminal(), is_opened=given.open)


if __name__ == "__main__":
    main()
