"""A study as MLflow gets it: a `StudyRun`, the parent of its trials' runs, with the champion."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, RunTag

from cifar_hpo import paths
from cifar_hpo.config.splits import differing_key, split_of
from cifar_hpo.owner import owner
from cifar_hpo.redaction import redacted
from cifar_hpo.tracking import _mlflow
from cifar_hpo.tracking.delivery import NO_ANSWER, Delivery, Undelivered, reason
from cifar_hpo.tracking.ownership import OWNER, RUNNING, end_dead_runs
from cifar_hpo.tracking.source import is_dirty, source_tags, uncommitted_diff
from cifar_hpo.tracking.store import SERVERS, connect, experiment
from cifar_hpo.tracking.writer import (
    NOT_YET,
    UNREADABLE,
    WAY_ON,
    KeptRun,
    RunWriter,
    kept_folders,
    lost_line,
    milliseconds,
)
from cifar_hpo.trial import KILLED

log = logging.getLogger(__name__)

CHAMPION = "champion"
"""The alias of the best version of a registered model."""

STUDY_ID = "cifar_hpo.study_id"
"""The tag that tells a study's run from those of other studies of its name."""

USERS_NOTE = "cifar_hpo.note"
"""The tag with what the user says of a study, above its ranking or report."""

BEST_VALUE = "best_value"
"""The study's metric: its best value, by the number of finished trials."""

PATIENCE = 10.0
"""Seconds in which something must arrive at the store, for the end of a sweep to wait for more."""

MAX_LISTED = 5
"""Trials that are named in a line."""

MAX_BATCH = 1_000
"""Metrics that MLflow takes in one call."""


def registered_name(dataset: str) -> str:
    """The name of the registered model whose versions are a dataset's champions."""
    return f"cifar_hpo-{dataset}"


@dataclass(frozen=True)
class Measured:
    """By what a model's value was measured; None where that is not known any more.

    digest: of the images' content. split: which of them it is, as `split_of` has it.
    """

    metric: str
    digest: str | None = None
    split: Mapping[str, str] | None = None

    @classmethod
    def by_run(cls, run: Any, metric: str) -> Measured:
        """As its MLflow run has it."""
        return cls(metric, _mlflow.dataset_digest(run), split_of(run.data.params))

    def difference(self, other: Measured) -> str:
        """How the other was measured in another way; empty where the two can be compared."""
        if self.metric != other.metric:
            return f"by {other.metric}"
        if other.digest is not None and self.digest != other.digest:
            return "on other images"
        if self.split is None or other.split is None:
            return ""
        key = differing_key(self.split, other.split)
        return f"with {key}={other.split[key]}" if key else ""


class StudyRun:
    """The parent run of a study: its best value over trials, its report, its best configuration.

    A study that goes on has the run that it had. uri: of the store, as it was found.

    To open it the store must be there. What is logged while the sweep goes on arrives later, from a
    thread; what closes it waits for its turn, and raises Undelivered where the store does not
    answer for PATIENCE seconds.
    """

    def __init__(
        self,
        tracking_uri: str | None,
        experiment_name: str,
        study: str,
        *,
        study_id: str = "",
        is_exclusive: bool = False,
        tags: Mapping[str, object] | None = None,
        note: str | None = None,
        folder: Path | None = None,
    ) -> None:
        """study_id: tells it from those of other folders, which may have its name.

        is_exclusive: whether no other process can have a trial of the study at work. tags, note:
        the user's. folder: where the command was started, whose state is its source.
        """
        self.uri = connect(tracking_uri)
        self.experiment_name = experiment_name
        self.experiment_id = experiment(experiment_name)
        self.client = mlflow.MlflowClient()
        self.is_exclusive = is_exclusive
        self._delivery = Delivery[Callable[[], object]](_call, _mlflow.may_succeed_later)
        self._unlogged: dict[int, str] = {}
        self.run_id = self._reopen(study, study_id) or self._create(study, study_id)
        self.users_tags = dict(tags or {})
        self.note = self._describe(note)
        if folder is not None:
            self._delivery.put(partial(self._log_source, folder))
        self._end_dead_runs(of_all=is_exclusive)

    def _reopen(self, study: str, study_id: str) -> str:
        """The run that the study has, RUNNING again and ours; empty where it has none."""
        condition = f"tags.study = '{study}' and tags.kind = 'study'"
        for run in self.client.search_runs([self.experiment_id], condition):
            # Runs of version 0.1 have no id of their study.
            if run.data.tags.get(STUDY_ID, study_id) == study_id:
                run_id = str(run.info.run_id)
                self.client.set_tag(run_id, STUDY_ID, study_id)
                self.client.set_tag(run_id, OWNER, owner())
                self.client.update_run(run_id, status="RUNNING")
                return run_id
        return ""

    def _create(self, study: str, study_id: str) -> str:
        tags = {"study": study, "kind": "study", STUDY_ID: study_id, OWNER: owner()}
        run = self.client.create_run(self.experiment_id, tags=tags, run_name=f"study {study}")
        run_id = str(run.info.run_id)
        if self.uri.startswith(SERVERS):
            self._delete_twins(run_id, study_id)
        return run_id

    def _delete_twins(self, run_id: str, study_id: str) -> None:
        """MLflow repeats a request whose answer is late, which may have made two runs."""
        condition = f"tags.`{STUDY_ID}` = '{study_id}' and tags.`{OWNER}` = '{owner()}'"
        for run in self.client.search_runs([self.experiment_id], condition):
            if run.info.run_id != run_id:
                self.client.delete_run(run.info.run_id)

    def _describe(self, note: str | None) -> str:
        """Give the run the user's tags and note; returns the note, or an earlier command's."""
        described = {str(key): redacted(str(value)) for key, value in self.users_tags.items()}
        if note:
            described |= {USERS_NOTE: redacted(note), _mlflow.NOTE: redacted(note)}
        if described:
            self._tag(described)
        return str(self.client.get_run(self.run_id).data.tags.get(USERS_NOTE, ""))

    def _log_source(self, folder: Path) -> None:
        """The user, the program, the commit of its folder and what is not committed there."""
        tags, diff = source_tags(folder), uncommitted_diff(folder)
        commit = tags.get(_mlflow.GIT_COMMIT)
        if commit:
            tags[_mlflow.GIT_DIRTY] = str(is_dirty(folder)).lower()
        self._tag({key: value for key, value in tags.items() if key not in self.users_tags})
        if commit and diff:
            self.client.log_text(self.run_id, diff, paths.ARTIFACT_DIFF.format(commit=commit))

    def _tag(self, tags: Mapping[str, str]) -> None:
        entities = [RunTag(key, value) for key, value in tags.items()]
        self.client.log_batch(self.run_id, tags=entities)

    def _now(self, call: Callable[[], Any]) -> Any:
        """Do a call after all that wait for their turn, and return its value.

        Raises its error, Undelivered where the store does not answer.
        """
        outcome: Future[Any] = Future()

        def attempt() -> None:
            try:
                outcome.set_result(call())
            except Exception as error:
                if _mlflow.may_succeed_later(error):
                    raise
                outcome.set_exception(error)

        self._delivery.put(attempt)
        if not self._delivery.drain(PATIENCE):
            raise Undelivered(self._delivery.trouble or NO_ANSWER)
        return outcome.result()

    def wait(self) -> bool:
        """Wait until what was logged so far has arrived; returns whether it has."""
        return self._delivery.drain(PATIENCE)

    def _end_dead_runs(self, *, of_all: bool = False) -> None:
        of_trials = _mlflow.child_runs(self.run_id, RUNNING)
        for condition in (of_trials, _mlflow.running_runs_of_app(self.run_id)):
            end_dead_runs(self.client, self.experiment_id, condition, of_all=of_all)

    def close_abandoned(self) -> None:
        """Mark as KILLED what still says RUNNING but whose process is gone.

        Where the study is exclusive that is all, for no trial is at work any more.
        """
        self._now(partial(self._end_dead_runs, of_all=self.is_exclusive))

    def end_attempt(self, run_id: str, status: str) -> None:
        """Give a child run its status, where its own process can't.

        Where its id is not known, which was to come from that process, it is looked for.
        """
        if run_id:
            self._delivery.put(partial(self.client.set_terminated, run_id, status))
        else:
            self._delivery.put(self._end_dead_runs)

    def end_earlier_attempts(self, number: int, attempt: int) -> None:
        """Mark as KILLED what still says RUNNING of a trial's attempts before this one, whose
        process lost it."""
        self._delivery.put(partial(self._end_earlier_attempts, number, attempt))

    def _end_earlier_attempts(self, number: int, attempt: int) -> None:
        of_trial = f"{_mlflow.child_runs(self.run_id, RUNNING)} and tags.trial = '{number}'"
        for run in self.client.search_runs([self.experiment_id], of_trial):
            if int(run.data.tags["attempt"]) < attempt:
                self.client.set_terminated(run.info.run_id, KILLED)

    def note_unlogged(self, number: int, unlogged: str) -> None:
        """A trial's attempt says what of it has not arrived; nothing where that is empty."""
        if unlogged:
            self._unlogged[number] = unlogged

    def unlogged(self) -> list[str]:
        """What has not arrived, a line for each cause."""
        numbers: dict[str, list[str]] = {}
        for number, unlogged in sorted(self._unlogged.items()):
            numbers.setdefault(unlogged, []).append(str(number))
        lines = []
        for unlogged, trials in numbers.items():
            shown = ", ".join(trials[:MAX_LISTED])
            more = f" and {len(trials) - MAX_LISTED} more" if len(trials) > MAX_LISTED else ""
            lines.append(f"trial{'s' * (len(trials) > 1)} {shown}{more}: {unlogged}")
        if self._delivery.refused:
            _, cause = self._delivery.refused[0]
            lines.append(f"not logged: {len(self._delivery.refused)} of the study's ({cause})")
        return lines

    def deliver_kept(self, folder: Path) -> dict[int, str]:
        """Write what attempts have kept below a folder; returns their runs by trial.

        What still does not arrive stays there, and is told by `unlogged`.
        """
        runs = {}
        for kept_folder in kept_folders(folder):
            try:
                kept = KeptRun.read(kept_folder)
            except UNREADABLE as error:
                log.warning("%s can't be read: %s", kept_folder, reason(error))
                continue
            writer = RunWriter(self.uri, kept.folder, kept.run_id, may_exist=True)
            try:
                lost = self._write_kept(writer, kept)
            except Exception as error:  # noqa: BLE001  MLflow's and its servers' errors share no base
                self._unlogged[kept.number] = f"{NOT_YET} ({reason(error)}); {WAY_ON}"
                continue
            self._unlogged.pop(kept.number, None)
            self.note_unlogged(kept.number, lost)
            runs[kept.number] = writer.run_id
            shutil.rmtree(kept.folder, ignore_errors=True)
        return runs

    def _write_kept(self, writer: RunWriter, kept: KeptRun) -> str:
        """Returns what MLflow refuses, empty where it takes all.

        Raises its error where there is no run, or no place for an artifact.
        """
        lost = []
        for entry in kept.entries:
            try:
                self._now(partial(writer.write, entry))
            except mlflow.MlflowException as error:
                if not writer.run_id:
                    raise
                lost.append(f"{entry[0]} ({reason(error)})")
        return lost_line(lost)

    def set_ui_columns(self, metrics: Sequence[str], direction: str, params: Sequence[str]) -> None:
        """A view of the runs for MLflow's UI, the best first.

        Its columns are what varied and what came of it. metrics: the first of which sorts. params:
        those that vary.
        """
        state = _mlflow.view_state(metrics, params, direction, self.run_id)
        tag = partial(self.client.set_experiment_tag, self.experiment_id, _mlflow.VIEW_TAG, state)
        self._delivery.put(tag)

    def log_best(self, finished: int, value: float | None) -> None:
        """A point of the chart of the best value over finished trials, once there is a value."""
        if value is not None:
            now = milliseconds()
            point = partial(self.client.log_metric, self.run_id, BEST_VALUE, value, now, finished)
            self._delivery.put(point)

    def restore_best(self, points: Mapping[int, float]) -> None:
        """Log what the chart of the best value lacks of earlier commands.

        points: the best value by the number of finished trials.
        """
        if points:
            self._delivery.put(partial(self._restore_best, dict(points), milliseconds()))

    def _restore_best(self, points: Mapping[int, float], now: int) -> None:
        history = self.client.get_metric_history(self.run_id, BEST_VALUE)
        known = {point.step for point in history}
        missing = []
        for finished, value in points.items():
            if finished not in known:
                missing.append(Metric(BEST_VALUE, value, now, finished))
        for start in range(0, len(missing), MAX_BATCH):
            self.client.log_batch(self.run_id, metrics=missing[start : start + MAX_BATCH])

    def close(self, status: str, note: str, best: Mapping[str, Any] | None) -> None:
        """End the parent run with its report and its best configuration.

        note: the report, Markdown, which MLflow shows as the run's description.
        """
        self._now(partial(self._end, status, note))
        self._now(partial(self._log_report, note, best))

    def _end(self, status: str, note: str) -> None:
        self.client.set_tag(self.run_id, _mlflow.NOTE, described_by(self.note, note))
        self.client.set_terminated(self.run_id, status)

    def _log_report(self, note: str, best: Mapping[str, Any] | None) -> None:
        self.client.log_text(self.run_id, note, paths.ARTIFACT_RANKING)
        if best:
            self.client.log_dict(self.run_id, dict(best), paths.ARTIFACT_BEST)

    def register_champion(self, run_id: str, metric: str, value: float, direction: str) -> str:
        """Register the model of a run as the champion of its dataset.

        value: of its configuration, over all seeds. The present champion stays where it is as good
        and another study's, or was measured otherwise: by another metric, on images of another
        content, or on another split of them. Returns why it stays in the latter case, as a
        sentence; else it is empty.
        """
        kept: str = self._now(partial(self._register_champion, run_id, metric, value, direction))
        return kept

    def _register_champion(self, run_id: str, metric: str, value: float, direction: str) -> str:
        run = self.client.get_run(run_id)
        source = _mlflow.model_uri(run)
        if source is None:
            return ""
        name = registered_name(run.data.tags["data"])
        with contextlib.suppress(mlflow.MlflowException):  # it is there already
            self.client.create_registered_model(name)
        measured = Measured.by_run(run, metric)
        present = self._champion(name)
        if present is not None and not (present.run_id and "value" in present.tags):
            return f"{name} keeps its champion, version {present.version}, which is not of a sweep"
        if present is not None:
            difference = measured.difference(self._measured(present))
            if difference:
                return f"{name} keeps its champion, which was measured {difference}"
            best = float(present.tags["value"])
            is_better = value > best if direction == "maximize" else value < best
            if not is_better and not self._is_own(present):
                return ""
            if present.run_id == run_id:
                self.client.set_model_version_tag(name, present.version, "value", str(value))
                return ""
        tags = {"metric": metric, "value": str(value), "study": run.data.tags.get("study", "")}
        version = self.client.create_model_version(
            name, source, run_id, tags=tags, model_id=_mlflow.model_id(run)
        )
        self.client.set_registered_model_alias(name, CHAMPION, version.version)
        return ""

    def _is_own(self, version: Any) -> bool:
        """Whether a champion is of a trial of this study, which has changed its mind since: by
        further seeds another configuration is the best."""
        try:
            tags = self.client.get_run(version.run_id).data.tags
        except mlflow.MlflowException:
            return False
        return bool(tags.get(_mlflow.PARENT_RUN) == self.run_id)

    def _champion(self, name: str) -> Any:
        """The version of a registered model that is champion now; None where none is."""
        try:
            return self.client.get_model_version_by_alias(name, CHAMPION)
        except mlflow.MlflowException:
            return None

    def _measured(self, version: Any) -> Measured:
        """How a champion was measured; by its metric alone where its run is gone."""
        metric = str(version.tags.get("metric", ""))
        try:
            return Measured.by_run(self.client.get_run(version.run_id), metric)
        except mlflow.MlflowException:
            return Measured(metric)


def described_by(users_note: str, note: str) -> str:
    """A run's description: what the user says of it, above what is known of it."""
    return f"{users_note}\n\n{note}" if users_note else note


def _call(call: Callable[[], object]) -> None:
    call()
