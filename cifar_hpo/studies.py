"""`python -m cifar_hpo.studies`: the studies of a storage as things: list, show, best, export,
delete."""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import yaml
from rich.table import Table

from cifar_hpo.console import terminal
from cifar_hpo.errors import StudyError, UserError, exit_with
from cifar_hpo.paths import GENERATED
from cifar_hpo.study.ranking import FinishedTrial, finished_trials, parameter_columns, ranked
from cifar_hpo.study.storage import open_existing
from cifar_hpo.study.study import MEANING
from cifar_hpo.sweep.progress import table

GROUPS = ("model", "data", "optimizer", "training", "mlflow")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exit code 2 for a study that is not there."""
    parser = argparse.ArgumentParser(
        prog="python -m cifar_hpo.studies", description="What the studies hold."
    )
    parser.add_argument("--storage", help=f"Optuna's storage; {GENERATED}/studies.db unless said")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every study with its trials and its best value")
    for name, meaning in {
        "show": "the ranking of one study",
        "best": "its best configuration, as a command; with --config as a file that runs",
        "export": "all trials, as CSV or JSON, on standard output",
        "delete": "a study from the storage; its MLflow runs stay",
    }.items():
        command = commands.add_parser(name, help=meaning)
        command.add_argument("study")
        if name == "best":
            command.add_argument(
                "--config",
                metavar="FILE",
                type=Path,
                help="write a config: python -m cifar_hpo -cd FOLDER -cn NAME runs it",
            )
        if name == "export":
            command.add_argument("--format", choices=("csv", "json"), default="csv")
        if name == "delete":
            command.add_argument("--yes", action="store_true", help="do not ask")
    given = parser.parse_args(arguments)
    try:
        run(given)
    except UserError as error:
        exit_with(error)


def run(given: argparse.Namespace) -> None:
    """Do one command. Raises StudyError when the storage or the study is not there."""
    storage = open_existing(given.storage)
    if given.command == "list":
        studies = Table(
            "study", "finished", "pruned", "failed", "waiting", "best", box=None, pad_edge=False
        )
        for name in sorted(optuna.get_all_study_names(storage)):
            study, told = _open(name, storage)
            states = [one.state for one in told]
            best = ranked(told, _directions(study))[:1]
            waiting = len(
                study.get_trials(
                    deepcopy=False,
                    states=(optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING),
                )
            )
            shown = f"{best[0].value:.4f}" if best and best[0].value is not None else "–"
            studies.add_row(
                name,
                *(str(states.count(state)) for state in ("FINISHED", "PRUNED", "FAILED")),
                str(waiting),
                shown,
            )
        terminal().print(studies)
        return
    study, told = _open(given.study, storage)
    ranking = ranked(told, _directions(study))
    if given.command == "show":
        terminal().print(_ranking_table(study, ranking))
    elif given.command == "export":
        _export(ranking, given.format)
    elif given.command == "best":
        _best(given, ranking)
    elif (
        given.yes
        or input(f"delete study {given.study} with {len(told)} trials? [y/N] ").lower() == "y"
    ):
        optuna.delete_study(study_name=given.study, storage=storage)


def _open(name: str, storage: Any) -> tuple[optuna.Study, list[FinishedTrial]]:
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        known = ", ".join(sorted(optuna.get_all_study_names(storage))) or "none"
        raise StudyError(f"there is no study {name}; there are: {known}") from None
    return study, finished_trials(study.get_trials(deepcopy=False))


def _directions(study: optuna.Study) -> list[str]:
    return [direction.name.lower() for direction in study.directions]


def _ranking_table(study: optuna.Study, ranking: Sequence[FinishedTrial]) -> Table:
    metric = study.user_attrs.get(MEANING, {}).get("metric", "value")
    metrics = metric if isinstance(metric, list) else [metric]
    keys, cells = parameter_columns(
        ranking, dict.fromkeys(key for told in ranking for key in told.params)
    )
    rows = []
    for rank, (told, cell) in enumerate(zip(ranking, cells, strict=True), start=1):
        values = [f"{value:.4f}" for value in told.values] if told.values else ["–"] * len(metrics)
        rows.append(
            [
                str(rank),
                str(told.number),
                *cell,
                *values,
                f"{told.seconds:.1f}",
                f"{told.state} {told.error[:100]}".strip(),
            ]
        )
    return table(["rank", "trial", *keys, *metrics, "seconds", "state"], rows)


def _export(ranking: Sequence[FinishedTrial], form: str) -> None:
    if form == "json":
        json.dump([asdict(told) for told in ranking], sys.stdout, indent=1)
        return
    keys = list(dict.fromkeys(key for told in ranking for key in told.params))
    metrics = list(dict.fromkeys(name for told in ranking for name in told.metrics))
    writer = csv.writer(sys.stdout)
    writer.writerow(["trial", "state", *keys, *metrics, "seconds", "error", "run_id"])
    for told in ranking:
        values = [
            *(told.params.get(key, "") for key in keys),
            *(told.metrics.get(name, "") for name in metrics),
        ]
        writer.writerow([told.number, told.state, *values, told.seconds, told.error, told.run_id])


def _best(given: argparse.Namespace, ranking: Sequence[FinishedTrial]) -> None:
    if not ranking or ranking[0].value is None:
        raise StudyError(f"study {given.study}: no trial has finished")
    folder = Path(GENERATED, "outputs", given.study, str(ranking[0].number), ".hydra")
    if not folder.is_dir():
        raise StudyError(f"{folder} is not there; it holds the configuration of the best trial")
    if not given.config:
        overrides = yaml.safe_load((folder / "overrides.yaml").read_text())
        hydra = yaml.safe_load((folder / "hydra.yaml").read_text())["hydra"]
        name = hydra["job"]["config_name"]
        chosen = "" if name == "config" else f"-cn {name} hydra.mode=RUN "
        sys.stdout.write(f"python -m cifar_hpo {chosen}{shlex.join(overrides)}\n")
        return
    config = yaml.safe_load((folder / "config.yaml").read_text())
    choices = yaml.safe_load((folder / "hydra.yaml").read_text())["hydra"]["runtime"]["choices"]
    groups = [{f"override {group}": choices[group]} for group in GROUPS if choices.get(group)]
    text = f"# Trial {ranking[0].number} of study {given.study}, value {ranking[0].value:.4f}.\n"
    given.config.write_text(
        text
        + yaml.safe_dump({"defaults": ["config", *groups, "_self_"], **config}, sort_keys=False)
    )


if __name__ == "__main__":
    main()
