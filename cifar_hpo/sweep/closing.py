"""The end of a sweep: `Closing` logs what its trials kept, registers the champion, and ends the
study's own run with what was found. A step that fails costs the others nothing, and the user is
told of it."""

from __future__ import annotations

from collections.abc import Callable

from cifar_hpo.errors import one_line
from cifar_hpo.metrics import values_by_replica
from cifar_hpo.redaction import redacted
from cifar_hpo.study.ranking import FinishedTrial
from cifar_hpo.study.seeds import is_seed
from cifar_hpo.study.study import Study
from cifar_hpo.sweep.plan import Plan
from cifar_hpo.sweep.progress import ranking_note
from cifar_hpo.sweep.tracker import StudyTracker
from cifar_hpo.trial import KILLED


class Closing:
    """What is left to do when no trial runs any more.

    status: the sweep's; KILLED where it did not come to its end. notices: what the user should know
    at the end, a list that grows.
    """

    def __init__(
        self, status: str, plan: Plan, study: Study, tracker: StudyTracker, *, notices: list[str]
    ) -> None:
        self.status = status
        self.plan = plan
        self.study = study
        self.tracker = tracker
        self.notices = notices

    def deliver_kept(self) -> None:
        """Log what trials kept while MLflow's store was away, now or in an earlier command."""
        if self.status != KILLED:  # who interrupts does not want to wait
            self._try_step("trials' runs", self._deliver_kept)

    def close(self) -> None:
        """End the study's run with what was found; runs of trials that have no end are taken for
        those of dead workers."""
        self._try_step("runs of dead workers", self.tracker.close_abandoned)
        if not self.plan.options["final"] or self.study.is_cut_short:  # else that has a better one
            self._try_step("the champion", self._register_champion)
        self._try_step("the study's run", self._close_run)
        self.notices += self.tracker.unlogged()

    def _try_step(self, what: str, step: Callable[[], None]) -> None:
        """Do a step of the tracker's in a turn; where it fails, that is said at the end."""
        try:
            with self.study.turn():
                step()
        except Exception as error:  # noqa: BLE001  MLflow's and its servers' errors share no base
            self.notices.append(f"not logged: {what} ({redacted(one_line(error))[:200]})")

    def _deliver_kept(self) -> None:
        for folder in self.study.attributes.folders():
            for number, run_id in self.tracker.deliver_kept(folder).items():
                self.study.set_trial_run(number, run_id)

    def _register_champion(self) -> None:
        """The best trial's model becomes the champion if it is one; with several seeds it is of the
        configuration whose mean is best, for the best seed of all may be a lucky one of another."""
        best, value = self._best()
        if best and best.run_id:
            metric, direction = self.study.metrics[0], self.study.directions[0]
            assert value is not None
            kept = self.tracker.register_champion(best.run_id, metric, value, direction)
            if kept:
                self.notices.append(kept)

    def _close_run(self) -> None:
        """End the study's own run, unless others go on with it."""
        self.study.look()
        elsewhere = self.study.elsewhere()
        if elsewhere:
            trials = ", ".join(f"{number} on {host}" for number, host in elsewhere.items())
            self.notices.append(f"others go on with study {self.study.name}: trial {trials}")
            return
        note, best = ranking_note(self.study), self.plan.best(self.study.ranking())
        if self.status != KILLED:
            self._try_step("the note in Optuna's dashboard", lambda: self._write_note(note))
        self.tracker.close(self.status, note, best)

    def _write_note(self, ranking: str) -> None:
        report = f"`python -m cifar_hpo.report {self.study.name}` says which differences are real."
        self.study.write_note("\n\n".join([*self._verdict(), ranking, report]))

    def _verdict(self) -> list[str]:
        """What the report says of the study, as sentences; none where no configuration has several
        seeds, which is when it could say little."""
        if not self._has_seeds():
            return []
        # They load SciPy.
        from cifar_hpo.analysis.comparison import compare_study
        from cifar_hpo.analysis.verdict import verdict

        return verdict(compare_study(self.study.name, self.study.storage))

    def _best(self) -> tuple[FinishedTrial | None, float | None]:
        """The best trial of the best configuration, and the mean of that over its seeds; None where
        no trial has a value."""
        if not self._has_seeds():
            best = self.study.best
            return best, best.value if best else None
        from cifar_hpo.analysis.comparison import compare_study  # loads SciPy

        finished = compare_study(self.study.name, self.study.storage).finished
        return (finished[0].trial, finished[0].value) if finished else (None, None)

    def _has_seeds(self) -> bool:
        """Whether any configuration may have several seeds."""
        return any(self._has_several_seeds(trial) for trial in self.study.ranking())

    def _has_several_seeds(self, trial: FinishedTrial) -> bool:
        """Whether a trial has replicas, or may be one of a configuration's seeds."""
        if values_by_replica(trial.metrics, self.study.metrics[0]):
            return True
        return any(is_seed(key) for key in trial.params)
