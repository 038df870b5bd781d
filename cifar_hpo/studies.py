"""`python -m cifar_hpo.studies`: list, show, export and delete the studies of a storage, run the
best trial of one again, and export its model; let a running sweep pause, stop, or try more."""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from cifar_hpo.config.fields import as_list
from cifar_hpo.console import set_up_output, terminal
from cifar_hpo.errors import StudyError, TrialError, UserError, exit_with
from cifar_hpo.export import FORMATS, export_run_model
from cifar_hpo.hydra_internals import search_arguments
from cifar_hpo.paths import (
    EXPORTS,
    HYDRA_CONFIG,
    HYDRA_FOLDER,
    HYDRA_OVERRIDES,
    HYDRA_SETTINGS,
    OUTPUTS,
    STUDIES_DB,
)
from cifar_hpo.redaction import redacted
from cifar_hpo.study.attributes import PROGRAM, folders_of, run_of
from cifar_hpo.study.control import Request, ask
from cifar_hpo.study.ranking import FinishedTrial, finished_trials, no_trial, ranked
from cifar_hpo.study.seeds import is_seed
from cifar_hpo.study.storage import (
    as_file_name,
    load_study,
    open_existing,
    storage_errors,
    study_lock,
)
from cifar_hpo.study.stored import meaning_of
from cifar_hpo.study.tables import MISSING, trial_table
from cifar_hpo.table import Table
from cifar_hpo.trial import FAILED, FINISHED, PRUNED

GROUPS = ("model", "data", "optimizer", "training", "mlflow")
WRITING = ("delete", "pause", "resume", "stop", "enqueue", "add")
"""The commands that write to the storage."""

DEFAULT_CONFIG = "config"
"""The config that runs when none is named."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exit code 2 for a storage or a study that is not there, 1 where an exported
    model predicts otherwise."""
    set_up_output()
    given = _parser().parse_args(arguments)
    try:
        with storage_errors(given.storage):
            run_command(given)
    except (UserError, TrialError, OSError) as error:
        exit_with(error)


def run_command(given: argparse.Namespace) -> None:
    """One of the commands, on the storage that is given."""
    storage = open_existing(given.storage, will_write=given.command in WRITING)
    match given.command:
        case "pause" | "resume" | "stop" | "enqueue" | "add":
            control(storage, given)
        case "list":
            list_studies(storage, as_json=given.json)
        case "show":
            show(storage, given.study, as_json=given.json)
        case "best":
            best(storage, given.study, given.config)
        case "export":
            export(storage, given.study, given.format)
        case "export-model":
            export_model(storage, given)
        case "delete":
            delete(storage, given.study, is_sure=given.yes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cifar_hpo.studies", description="What the studies hold."
    )
    parser.add_argument("--storage", help=f"Optuna's storage; {STUDIES_DB} unless said")
    commands = parser.add_subparsers(dest="command", required=True)
    list_parser = commands.add_parser("list", help="every study with its trials and its best value")
    show_parser = commands.add_parser("show", help="the ranking of one study")
    for command in (list_parser, show_parser):
        command.add_argument("--json", action="store_true", help="as JSON alone, for programs")
    best_parser = commands.add_parser(
        "best", help="its best configuration, as a command; with --config as a file that runs"
    )
    best_parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="write a config: python -m cifar_hpo -cd FOLDER -cn NAME runs it",
    )
    export_parser = commands.add_parser(
        "export", help="all trials, as CSV or JSON, on standard output"
    )
    export_parser.add_argument("--format", choices=("csv", "json"), default="csv")
    model_parser = commands.add_parser(
        "export-model", help="a trial's model as a file for another runtime, checked on images"
    )
    model_parser.add_argument("--format", choices=FORMATS, required=True)
    model_parser.add_argument(
        "--trial", type=int, metavar="N", help="the number of the trial; the best unless said"
    )
    model_parser.add_argument(
        "--output", type=Path, metavar="DIR", help=f"{EXPORTS}/STUDY/N unless said"
    )
    model_parser.add_argument(
        "--tracking-uri",
        help="MLflow's store; the one that the study was logged to unless said",
    )
    delete_parser = commands.add_parser(
        "delete", help="a study from the storage; its MLflow runs stay"
    )
    delete_parser.add_argument("--yes", action="store_true", help="do not ask")
    pause_parser = commands.add_parser(
        "pause",
        help="a running sweep: no trial starts, and those that run wait at their next epoch's end",
    )
    resume_parser = commands.add_parser("resume", help="a sweep that was paused")
    stop_parser = commands.add_parser(
        "stop", help="a running sweep, as Ctrl-C does; its command goes on with it later"
    )
    stop_parser.add_argument(
        "--after-running", action="store_true", help="let the trials that run come to their end"
    )
    enqueue_parser = commands.add_parser(
        "enqueue", help="a configuration that a running sweep is to try next"
    )
    add_parser = commands.add_parser(
        "add", help="values to keys of a running sweep's grid, which stay the study's"
    )
    asking = (pause_parser, resume_parser, stop_parser, enqueue_parser, add_parser)
    known = (show_parser, best_parser, export_parser, model_parser, delete_parser)
    for command in (*known, *asking):
        command.add_argument("study")
    enqueue_parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE")
    add_parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE,VALUE")
    return parser


def control(storage: BaseStorage, given: argparse.Namespace) -> None:
    """Ask a running sweep for something, and print what it answers.

    Raises StudyError where no sweep works on the study, or this one refuses.
    """
    request = Request(
        given.command,
        overrides=getattr(given, "overrides", ()),
        after_running=getattr(given, "after_running", False),
    )
    sys.stdout.write(ask(storage, given.study, request) + "\n")


@dataclass(frozen=True)
class RankedStudy:
    """A study as its storage has it.

    storage: which that is. directions: of each of its metrics. ranking: its counted trials, the
    best first.
    """

    study: optuna.Study
    storage: BaseStorage
    directions: Sequence[str]
    ranking: Sequence[FinishedTrial]

    @classmethod
    def load(cls, storage: BaseStorage, name: str) -> RankedStudy:
        """Raises StudyError when the study is not there."""
        study = load_study(storage, name)
        trials = finished_trials(study.get_trials(deepcopy=False), study.user_attrs)
        directions = [direction.name.lower() for direction in study.directions]
        return cls(study, storage, directions, ranked(trials, directions))

    @property
    def name(self) -> str:
        return self.study.study_name

    @property
    def metrics(self) -> list[str]:
        return as_list(meaning_of(self.study.user_attrs).get("metric", "value"))

    @property
    def keys(self) -> list[str]:
        """The parameters of all trials, in the order in which they come."""
        return list(dict.fromkeys(key for trial in self.ranking for key in trial.params))

    def trial(self, number: int | None) -> FinishedTrial:
        """The trial of a number, the best one without. Raises StudyError where it is not there."""
        if number is None:
            return self.best
        for trial in self.ranking:
            if trial.number == number:
                return trial
        raise StudyError(no_trial(self.name, number, self.ranking))

    @property
    def best(self) -> FinishedTrial:
        """Where seeds vary, of the configuration whose mean over them is best, as in the report.

        Raises StudyError when no trial has finished.
        """
        if not self.ranking or self.ranking[0].value is None:
            raise StudyError(f"study {self.name}: no trial has finished")
        if not any(is_seed(key) for key in self.keys):
            return self.ranking[0]
        from cifar_hpo.analysis.comparison import compare_study  # loads SciPy

        return compare_study(self.name, self.storage).finished[0].trial


def list_studies(storage: BaseStorage, *, as_json: bool) -> None:
    """Print a row for each study: how many of its trials ended how, and the best value."""
    names = sorted(optuna.get_all_study_names(storage))
    studies = [RankedStudy.load(storage, name) for name in names]
    if as_json:
        from cifar_hpo.report.as_json import list_document, to_json  # loads SciPy

        listed = [(stored.study, stored.ranking, stored.metrics) for stored in studies]
        sys.stdout.write(to_json(list_document(listed)) + "\n")
        return
    rows = []
    for stored in studies:
        states = [trial.state for trial in stored.ranking]
        counts = [str(states.count(state)) for state in (FINISHED, PRUNED, FAILED)]
        waiting = stored.study.get_trials(
            deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)
        )
        value = stored.ranking[0].value if stored.ranking else None
        shown = MISSING if value is None else f"{value:.4f}"
        rows.append([stored.name, *counts, str(len(waiting)), shown])
    columns = ["study", "finished", "pruned", "failed", "waiting", "best"]
    terminal().print(Table(columns, rows).to_rich())


def show(storage: BaseStorage, name: str, *, as_json: bool) -> None:
    """Print the ranking of a study."""
    if as_json:
        from cifar_hpo.analysis.comparison import compare_study  # loads SciPy
        from cifar_hpo.report.as_json import study_document, to_json

        document = study_document(compare_study(name, storage))
        sys.stdout.write(to_json(document) + "\n")
        return
    stored = RankedStudy.load(storage, name)
    table = trial_table(stored.ranking, stored.metrics, stored.directions, stored.keys)
    terminal().print(table.to_rich())


def export(storage: BaseStorage, name: str, form: str) -> None:
    """Print all trials of a study, the best first, as `csv` or `json`."""
    stored = RankedStudy.load(storage, name)
    if form == "json":
        json.dump([asdict(trial) for trial in stored.ranking], sys.stdout, indent=1)
        return
    metrics = list(dict.fromkeys(metric for trial in stored.ranking for metric in trial.metrics))
    writer = csv.writer(sys.stdout)
    writer.writerow(["trial", "state", *stored.keys, *metrics, "seconds", "error", "run_id"])
    for trial in stored.ranking:
        params = [trial.params.get(key, "") for key in stored.keys]
        values = [trial.metrics.get(metric, "") for metric in metrics]
        row = [trial.number, trial.state, *params, *values]
        writer.writerow([*row, trial.seconds, trial.error, trial.run_id])


def export_model(storage: BaseStorage, given: argparse.Namespace) -> None:
    """Export a trial's model, and say by how much its predictions differ from Keras' own.

    Raises StudyError where there is no such trial or model, UserError where the format can't have
    it, TrialError where it predicts otherwise.
    """
    stored = RankedStudy.load(storage, given.study)
    trial = stored.trial(given.trial)
    title = f"trial {trial.number} of study {stored.name}"
    if not trial.run_id:
        raise StudyError(f"{title} has no run in MLflow, so it has no model")
    output = given.output or EXPORTS / as_file_name(stored.name) / str(trial.number)
    tracking_uri, _ = run_of(stored.study.user_attrs)
    uri = given.tracking_uri or tracking_uri
    exported = export_run_model(trial.run_id, uri, given.format, output, title=title)
    sys.stdout.write(exported.sentence + "\n")


def delete(storage: BaseStorage, name: str, *, is_sure: bool) -> None:
    """Delete a study from its storage, after asking unless the user is sure.

    Raises StudyError while a sweep works on it, and where nobody can be asked.
    """
    stored = RankedStudy.load(storage, name)
    with study_lock(storage, name, hint="end it"):
        question = f"delete study {name} with {len(stored.ranking)} trials? [y/N] "
        if is_sure or _confirmed(question):
            optuna.delete_study(study_name=name, storage=storage)


def _confirmed(question: str) -> bool:
    """Whether the user says yes. Raises StudyError where there is nobody to say so."""
    try:
        return input(question).lower() == "y"
    except (EOFError, RuntimeError):  # the latter without a standard input
        sys.stdout.write("\n")
        raise StudyError("nothing was deleted: nobody can be asked here; say --yes") from None


def best(storage: BaseStorage, name: str, config: Path | None) -> None:
    """Print the command that runs the best trial of a study again, or write a config that does.

    Raises StudyError when no trial has finished, or nothing holds its configuration any more.
    """
    stored = RankedStudy.load(storage, name)
    trial = stored.best
    program = stored.study.user_attrs.get(PROGRAM)
    if config is not None and program is not None:
        problem = f"this writes a config of cifar_hpo, and {name} is of another app, {program}"
        raise StudyError(f"--config: {problem}; without it the trial's command is printed")
    composed = replace(composed_trial(stored, trial), program=program)
    if config is None:
        sys.stdout.write(composed.to_command() + "\n")
        return
    title = f"# Trial {trial.number} of study {name}, value {trial.value:.4f}.\n"
    try:
        config.write_text(title + composed.to_config(), encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(f"--config: {config.parent} is no folder") from None


@dataclass(frozen=True)
class ComposedTrial:
    """What Hydra made of a trial's command line.

    overrides: as on the command line. config: composed. config_name: of the primary config.
    choices: of each config group. search: the arguments that name folders with configs. program: of
    another app, how that is started.
    """

    overrides: Sequence[str]
    config: Mapping[str, Any]
    config_name: str
    choices: Mapping[str, str]
    search: Sequence[str] = ()
    program: str | None = None

    def to_command(self) -> str:
        """The command that runs the trial again."""
        if self.program is not None:
            shown = [redacted(override) for override in self.overrides]
            return f"{self.program} {shlex.join(shown)}"
        arguments = [*self.search, *self.overrides]
        if self.config_name != DEFAULT_CONFIG:
            arguments = ["-cn", self.config_name, "hydra.mode=RUN", *arguments]
        return f"python -m cifar_hpo {shlex.join(arguments)}"

    def to_config(self) -> str:
        """A config file that stands for the trial, as YAML; groups are chosen for their schemas."""
        defaults: list[Any] = [DEFAULT_CONFIG]
        for group in GROUPS:
            if self.choices.get(group):
                defaults.append({f"override {group}": self.choices[group]})
        defaults.append("_self_")
        return yaml.safe_dump({"defaults": defaults, **self.config}, sort_keys=False)


def composed_trial(stored: RankedStudy, trial: FinishedTrial) -> ComposedTrial:
    """A trial's configuration: from its folder, else from its MLflow run.

    Raises StudyError when neither has it.
    """
    folder = trial_folder(stored, trial.number)
    composed = None if folder is None else _from_folder(folder)
    if composed is not None:
        return composed
    tracking_uri, _ = run_of(stored.study.user_attrs)
    expected = sweep_folders(stored)[0] / str(trial.number) / HYDRA_FOLDER
    state = "not there" if folder is None else "damaged"
    problem = f"{expected} is {state}; it holds the configuration of the best trial"
    if not trial.run_id:
        raise StudyError(problem)
    from cifar_hpo.tracking.reader import RunReader

    try:
        overrides, config = RunReader(tracking_uri).configuration(trial.run_id)
    except StudyError as error:
        raise StudyError(f"{problem}, and MLflow does not: {error}") from None
    sys.stderr.write(
        f"{expected} is {state}: this is what MLflow has, which does not know the sweep's -cn\n"
    )
    return ComposedTrial(overrides, config, DEFAULT_CONFIG, _choices(overrides, config))


def _from_folder(folder: Path) -> ComposedTrial | None:
    """None where a file is missing or damaged."""
    settings = _read_yaml(folder / HYDRA_SETTINGS)
    overrides = _read_yaml(folder / HYDRA_OVERRIDES)
    config = _read_yaml(folder / HYDRA_CONFIG)
    if not isinstance(overrides, list) or not isinstance(config, dict):
        return None
    try:
        return ComposedTrial(
            overrides=overrides,
            config=config,
            config_name=settings["hydra"]["job"]["config_name"],
            choices=settings["hydra"]["runtime"]["choices"],
            search=search_arguments(settings["hydra"]),
        )
    except (KeyError, TypeError):
        return None


def _read_yaml(path: Path) -> Any:
    """What a file says; None where it can't be read."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None


def _choices(overrides: Sequence[str], config: Mapping[str, Any]) -> dict[str, str]:
    """The choices of groups that overrides name; of the optimizers, which differ in their keys, the
    one that was composed."""
    choices = {}
    optimizer = config.get("optimizer") or {}
    if "name" in optimizer:
        choices["optimizer"] = optimizer["name"]
    for override in overrides:
        key, _, value = override.partition("=")
        if key in GROUPS:
            choices[key] = value
    return choices


def trial_folder(stored: RankedStudy, number: int) -> Path | None:
    """Where Hydra kept a trial's configuration; None where that is not to be found.

    hydra.sweep.subdir may name the trials' folders otherwise than by their numbers, and another
    study may have used the same folders since.
    """
    for sweep_folder in sweep_folders(stored):
        for folder in _hydra_folders(sweep_folder, number):
            if _is_of_trial(folder, number, stored.name):
                return folder
    return None


def _is_of_trial(folder: Path, number: int, study: str) -> bool:
    """Whether a folder of Hydra's is of this trial, as far as its settings can be read."""
    try:
        settings = _read_yaml(folder / HYDRA_SETTINGS)["hydra"]
        name, job = settings["sweeper"].get("study_name"), settings["job"].get("num")
    except (AttributeError, KeyError, TypeError):
        return folder.parent.name == str(number)
    return job == number and name in (None, study)


def sweep_folders(stored: RankedStudy) -> list[Path]:
    """Where the study's sweeps may have left its trials: what they noted, the latest first, and the
    default."""
    return [*reversed(folders_of(stored.study.user_attrs)), OUTPUTS / stored.name]


def _hydra_folders(sweep_folder: Path, number: int) -> Iterator[Path]:
    """The folders that may be those of a trial: first the one with its number, then all whose
    settings mention it."""
    usual = sweep_folder / str(number) / HYDRA_FOLDER
    if (usual / HYDRA_SETTINGS).is_file():
        yield usual
    for settings in sorted(sweep_folder.rglob(f"{HYDRA_FOLDER}/{HYDRA_SETTINGS}")):
        # To read one as YAML takes a tenth of a second.
        if settings.parent != usual and f" num: {number}\n" in settings.read_text(encoding="utf-8"):
            yield settings.parent


if __name__ == "__main__":
    main()
