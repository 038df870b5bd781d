"""`cifar_hpo.load`: a study in Python, for notebooks and scripts: a `LoadedStudy` with its trials,
its best configuration, its verdict, learning curves and models.

Reading alone: it may be done while a sweep runs, and writes nothing.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cifar_hpo.analysis.claims import Claim, claims
from cifar_hpo.analysis.comparison import Comparison, compare_study
from cifar_hpo.analysis.verdict import verdict
from cifar_hpo.errors import StudyError
from cifar_hpo.redaction import redacted
from cifar_hpo.report.tables import MAX_ROWS, configuration_table
from cifar_hpo.study.ranking import FinishedTrial, no_trial, ranked
from cifar_hpo.study.space import Value
from cifar_hpo.study.storage import open_existing, storage_errors
from cifar_hpo.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from cifar_hpo.tracking.reader import RunReader

OWN_COLUMNS = ("number", "state", "seconds", "ended", "error", "run_id")
"""The columns of `LoadedStudy.trials` beside parameters and metrics."""

PARAMS, METRICS = "params.", "metrics."
"""Begin the names of columns of parameters and metrics whose own names are taken."""


def load(name: str | None = None, storage: str | None = None) -> LoadedStudy:
    """A study as it stands now; load it again for what has come since.

    name: None for the study that was worked on last. storage: Optuna's, as a URL; None for
    mlruns/studies.db here. Raises StudyError where there is no such study, naming those that there
    are, or the storage can't be read.
    """
    with storage_errors(storage):
        return LoadedStudy(compare_study(name, open_existing(storage)))


@dataclass(frozen=True)
class BestConfiguration:
    """The configuration that a study ranks first.

    params: what varied, without the seed. value: the study's metric, the mean over seeds. by_seed:
    its value for each seed. interval: of the mean over all seeds, at 95 %; None for one seed.
    trial: the number of the best of its trials. run_id: of that trial's MLflow run, which has its
    model; empty where it has none.
    """

    params: Mapping[str, Value]
    metric: str
    value: float
    by_seed: Mapping[int, float]
    interval: tuple[float, float] | None
    trial: int
    run_id: str


@dataclass(frozen=True)
class Verdict:
    """What can be said of a study.

    sentences: as the report prints them. claims: the best configuration beside each other one that
    it was compared with: gap, interval, p and n.
    """

    sentences: Sequence[str]
    claims: Sequence[Claim]

    def __str__(self) -> str:
        return " ".join(self.sentences)

    def _repr_html_(self) -> str:
        return _paragraphs(self.sentences)


class LoadedStudy:
    """A study as it stood when it was loaded; `load` gives one."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison

    @property
    def name(self) -> str:
        return self._comparison.name

    @property
    def metrics(self) -> Sequence[str]:
        """What it optimizes, the first of which ranks."""
        return self._comparison.metrics

    @property
    def directions(self) -> Sequence[str]:
        """Of each metric, maximize or minimize."""
        return self._comparison.directions

    @property
    def trials(self) -> pd.DataFrame:
        """A row for each counted trial, the best first.

        Columns: number, state; each parameter under its key, each metric under its name, of which
        a name that is taken already has `params.` or `metrics.` before it; seconds, ended, error,
        run_id. Numbers are int64, float64 or, where some trials lack a whole number, Int64.
        """
        import pandas as pd

        trials = self._ranked()
        columns: dict[str, Any] = {
            "number": [trial.number for trial in trials],
            "state": [trial.state for trial in trials],
        }
        for key in _names(trial.params for trial in trials):
            name = PARAMS + key if key in OWN_COLUMNS else key
            columns[name] = _column([trial.params.get(key) for trial in trials])
        for key in _names(trial.metrics for trial in trials):
            name = METRICS + key if key in (*OWN_COLUMNS, *columns) else key
            values = [trial.metrics.get(key) for trial in trials]
            columns[name] = pd.Series(values, dtype="float64")
        ended = pd.Series([trial.ended or None for trial in trials], dtype="float64")
        columns["seconds"] = pd.Series([trial.seconds for trial in trials], dtype="float64")
        columns["ended"] = pd.to_datetime(ended, unit="s", utc=True)
        columns["error"] = [trial.error for trial in trials]
        columns["run_id"] = [trial.run_id for trial in trials]
        return pd.DataFrame(columns)

    @property
    def best(self) -> BestConfiguration:
        """The configuration that is ranked first. Raises StudyError where no trial finished."""
        if not self._comparison.finished:
            raise StudyError(f"study {self.name}: no trial has finished")
        first = self._comparison.finished[0]
        assert first.value is not None
        return BestConfiguration(
            params=dict(first.params),
            metric=self.metrics[0],
            value=first.value,
            by_seed=dict(first.values),
            interval=first.confidence_interval,
            trial=first.trial.number,
            run_id=first.trial.run_id,
        )

    @property
    def verdict(self) -> Verdict:
        """Which differences are real."""
        return Verdict(verdict(self._comparison), claims(self._comparison))

    def curves(self, n: int | None = None) -> pd.DataFrame:
        """Metrics after each epoch, as MLflow has them: the index is `epoch`, from 1, and each
        metric a column.

        n: the number of a trial, which may still be running; the best unless given. Metrics of
        replicas are `replica_0/val_accuracy`. Raises StudyError where there is no such trial, or
        MLflow does not have it.
        """
        import pandas as pd

        with self._runs() as runs:
            curves = runs.all_curves(self._run_id(n, runs))
        series = {name: pd.Series(curve, dtype="float64") for name, curve in curves.items()}
        table = pd.DataFrame(series).sort_index()
        table.index.name = "epoch"
        return table

    def model(self, n: int | None = None) -> Any:
        """The Keras model of a trial, with the weights of its best replica.

        n: the number of the trial; the best unless given. It is looked at before it is loaded, as
        `predict` does. Raises StudyError where there is no such trial, or it has no model that can
        be loaded.
        """
        with self._runs() as runs:
            return runs.model(self._run_id(n, runs), None).model

    def __repr__(self) -> str:
        table = self._table()
        lines = [self._title(), *verdict(self._comparison)]
        widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
        for cells in (table.columns, *table.rows):
            padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        table = self._table()
        head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
        rows = []
        for cells in table.rows:
            rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return (
            f"<p><b>{html.escape(self._title())}</b></p>"
            f"{_paragraphs(verdict(self._comparison))}"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def _title(self) -> str:
        comparison = self._comparison
        counted, ranked_rows = len(comparison.trials), len(comparison.configurations)
        title = f"study {self.name}: {counted} trials of {ranked_rows} configurations"
        return f"{title}, the first {MAX_ROWS}" if ranked_rows > MAX_ROWS else title

    def _table(self) -> Table:
        """The best configurations."""
        table = configuration_table(self._comparison)
        rows = []
        for cells in table.rows[:MAX_ROWS]:
            rows.append([redacted(cell) for cell in cells])
        return Table(table.columns, rows)

    def _ranked(self) -> list[FinishedTrial]:
        return ranked(self._comparison.trials, self._comparison.directions)

    def _runs(self) -> Any:
        """A reader of the store that the study was logged to, as a context manager."""
        from cifar_hpo.tracking.reader import runs_read

        if not self._comparison.run_id:
            raise StudyError(f"study {self.name} was not logged to MLflow")
        return runs_read(self._comparison.tracking_uri)

    def _run_id(self, n: int | None, runs: RunReader) -> str:
        """The run of a trial; the best one's without a number."""
        if n is None:
            n = self.best.trial
        for trial in self._comparison.trials:
            if trial.number == n and trial.run_id:
                return trial.run_id
        assert self._comparison.run_id is not None
        running = runs.latest_attempt(self._comparison.run_id, n)
        if running is None:
            raise StudyError(no_trial(self.name, n, self._comparison.trials))
        return running


def _names(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all, in the order in which they come."""
    names: dict[str, None] = {}
    for mapping in mappings:
        names |= dict.fromkeys(mapping)
    return list(names)


def _column(values: Sequence[Any]) -> Any:
    """The values of a parameter as a column; whole numbers and truth values stay such where some
    are missing."""
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    is_whole = None not in values
    if kinds == {int} and all(abs(value) < 2**63 for value in values if value is not None):
        return pd.Series(values, dtype="int64" if is_whole else "Int64")
    if kinds == {bool}:
        return pd.Series(values, dtype="bool" if is_whole else "boolean")
    if kinds and kinds <= {int, float}:
        return pd.Series(values, dtype="float64")
    return pd.Series(values, dtype="str" if kinds == {str} else "object")


def _paragraphs(sentences: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(redacted(sentence))}</p>" for sentence in sentences)
