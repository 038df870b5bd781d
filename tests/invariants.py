"""What holds of a sweep's folder after every fault: `violations` reads Optuna, MLflow and the disk
and says in sentences what does not; `check` fails with them.

It reads what is stored, not what a command printed. Whoever calls it says what was planned and how
the command ended.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import socket
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from cifar_hpo.paths import GENERATED, HYDRA_FOLDER, LOCK_HOLDER, MLFLOW_DB, STUDIES_DB
from cifar_hpo.study.attributes import FOLDER
from cifar_hpo.study.ranking import OUTCOME
from cifar_hpo.study.space import identity
from cifar_hpo.study.stored import MEANING
from cifar_hpo.trial import FAILED, FINISHED, KILLED, PRUNED

Again = Callable[[], "subprocess.CompletedProcess[str]"]
"""Runs the command once more."""

INTERRUPTED = {128 + signal.SIGHUP, 128 + signal.SIGINT, 128 + signal.SIGTERM}
"""Exit codes of a sweep that was stopped and goes on with the same command."""

SECONDS_TO_END = 5.0
"""In which the workers of a killed parent are gone."""

OPTUNA_STATES = {FINISHED: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}


@dataclass(frozen=True)
class Counted:
    """A trial with an outcome. configuration: its identity. folder: where its files lie; None where
    the study does not say."""

    study: str
    number: int
    configuration: str
    outcome: dict[str, Any]
    state: TrialState
    values: list[float] | None
    folder: Path | None

    def __str__(self) -> str:
        return f"study {self.study}, trial {self.number}"

    @property
    def is_success(self) -> bool:
        """Whether it is finished or pruned: nothing that may be tried again."""
        return self.outcome["state"] in (FINISHED, PRUNED)


def check(
    folder: Path,
    *,
    planned: int | None = None,
    budget: int | None = None,
    returncode: int | None = None,
    tracking_uri: str | None = None,
    again: Again | None = None,
) -> None:
    """Fail with every violation; the arguments are those of `violations`."""
    found = violations(
        folder,
        planned=planned,
        budget=budget,
        returncode=returncode,
        tracking_uri=tracking_uri,
        again=again,
    )
    assert not found, "\n".join(["what must hold after every fault does not:", *found])


def violations(
    folder: Path,
    *,
    planned: int | None = None,
    budget: int | None = None,
    returncode: int | None = None,
    tracking_uri: str | None = None,
    again: Again | None = None,
) -> list[str]:
    """What does not hold of the studies in a folder in which no command runs any more.

    planned: configurations that the study is to have counted in the end; None where a limit of
    time, failures or success may end it earlier. budget: trials that it may count at most.
    returncode: of the last command, as `subprocess` has it. After SIGKILL nobody was there to close
    what was running, so that is held against the next command only. tracking_uri: MLflow's store
    where it is not the folder's own. again: runs the command once more, which must change nothing.
    """
    was_killed = returncode == -signal.SIGKILL
    found = [*_orphans(folder), *_held_locks(folder)]
    studies = _studies(folder)
    runs = _runs(folder, tracking_uri)
    for study in studies:
        counted = _counted(study)
        found += _miscounted(study, counted, planned, budget, returncode)
        found += _disagreeing_states(study, counted)
        if runs is not None:
            own = [run for run in runs if run.data.tags.get("study") == study.study_name]
            found += _disagreeing_runs(counted, own)
            found += _untrue_study_runs(study, own, len(_configurations(counted)), planned)
        if not was_killed:
            found += _running_trials(study)
            found += _leftovers(counted)
    if runs is not None and not was_killed:
        found += _running_runs(runs)
    if again is not None:
        found += _work_done_again(folder, again, tracking_uri)
    return found


def wait_for_orphans(folder: Path, seconds: float = SECONDS_TO_END) -> None:
    """Return when no process works in the folder any more; `violations` names those that stay."""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.wait_procs(list(_processes(folder)), timeout=seconds)


def _orphans(folder: Path) -> list[str]:
    """Processes of the sweep that outlived it."""
    wait_for_orphans(folder)
    found = []
    for process in _processes(folder):
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())[:120]
            found.append(f"process {process.pid} is left: {command}")
    return found


def _processes(folder: Path) -> Iterator[psutil.Process]:
    """Those that work in the folder or name it in their command, without this one's ancestors."""
    own = psutil.Process()
    ours = {own.pid, *(parent.pid for parent in own.parents())}
    for process in psutil.process_iter():
        if process.pid in ours:
            continue
        with contextlib.suppress(psutil.Error, OSError):
            is_inside = Path(process.cwd()).is_relative_to(folder.resolve())
            is_named = any(str(folder) in word for word in process.cmdline())
            if (is_inside or is_named) and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _held_locks(folder: Path) -> list[str]:
    """Locks that a process holds."""
    found = []
    for path in sorted((folder / GENERATED).glob(".*.lock")):
        try:
            FileLock(path, timeout=0).acquire().lock.release()
        except Timeout:
            holder = path.with_suffix(LOCK_HOLDER)
            who = holder.read_text() if holder.exists() else "a process"
            found.append(f"{path.name} is held by {who}")
    return found


def _studies(folder: Path) -> list[optuna.Study]:
    """All studies of the folder, read anew."""
    database = folder / STUDIES_DB
    if not database.exists():
        return []
    storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
    studies = []
    for name in optuna.get_all_study_names(storage):
        studies.append(optuna.load_study(study_name=name, storage=storage))
    return studies


def _counted(study: optuna.Study) -> list[Counted]:
    folder = study.user_attrs.get(FOLDER)
    counted = []
    for trial in study.get_trials(deepcopy=False):
        outcome = trial.user_attrs.get(OUTCOME)
        if outcome:
            counted.append(
                Counted(
                    study=study.study_name,
                    number=trial.number,
                    configuration=identity(trial.params),
                    outcome=outcome,
                    state=trial.state,
                    values=trial.values,
                    folder=Path(folder, str(trial.number)) if folder else None,
                )
            )
    return counted


def _configurations(counted: Sequence[Counted]) -> dict[str, list[Counted]]:
    """The counted trials of each configuration."""
    trials: dict[str, list[Counted]] = defaultdict(list)
    for trial in counted:
        trials[trial.configuration].append(trial)
    return trials


def _miscounted(
    study: optuna.Study,
    counted: Sequence[Counted],
    planned: int | None,
    budget: int | None,
    returncode: int | None,
) -> list[str]:
    """Configurations that were counted twice, too many or too few of them, an untrue exit code."""
    name = study.study_name
    found = []
    trials = _configurations(counted)
    outcomes = []
    for configuration, tried in trials.items():
        *earlier, last = tried
        outcomes.append(last.outcome["state"])
        if any(trial.is_success for trial in earlier):
            numbers = ", ".join(str(trial.number) for trial in tried)
            found.append(f"study {name} counts {configuration} more than once: trials {numbers}")
    if budget is not None and len(trials) > budget:
        found.append(f"study {name} counts {len(trials)} configurations, its budget is {budget}")
    if planned is None:
        return found
    if len(trials) > planned:
        found.append(f"study {name} counts {len(trials)} configurations, planned are {planned}")
    is_done = returncode in (0, 1)
    if is_done and len(trials) < planned:
        missing = planned - len(trials)
        found.append(f"{missing} of {planned} configurations of study {name} have no outcome")
    if is_done and (FAILED in outcomes or KILLED in outcomes) != (returncode == 1):
        found.append(f"exit code {returncode}, and the outcomes of study {name} are {outcomes}")
    if returncode is not None and not is_done and not _is_stopped(returncode):
        found.append(f"exit code {returncode}, which tells nothing of how study {name} stands")
    return found


def _is_stopped(returncode: int) -> bool:
    """Whether an exit code says that the sweep was stopped, or that what it needs is not there."""
    refused = 2
    return returncode < 0 or returncode == refused or returncode in INTERRUPTED


def _disagreeing_states(study: optuna.Study, counted: Sequence[Counted]) -> list[str]:
    """Where Optuna's state or values are not those of the outcome that was noted with it."""
    metrics = study.user_attrs.get(MEANING, {}).get("metric", [])
    names = [metrics] if isinstance(metrics, str) else metrics
    found = []
    for trial in counted:
        outcome = trial.outcome
        has_values = outcome["values"] is not None
        wanted = OPTUNA_STATES[outcome["state"]] if outcome["state"] != KILLED else TrialState.FAIL
        if outcome["state"] == FINISHED and not has_values:
            wanted = TrialState.FAIL  # the task returned no value
        if trial.state is not wanted:
            state = trial.state.name
            found.append(f"{trial}: {state} in Optuna, {outcome['state']} as its outcome")
        if has_values:
            noted = [outcome["metrics"].get(name) for name in names]
            if trial.values != outcome["values"] or (names and noted != outcome["values"]):
                found.append(f"{trial}: Optuna has {trial.values}, the outcome {outcome['values']}")
            if not all(math.isfinite(value) for value in outcome["values"]):
                found.append(f"{trial}: {outcome['values']} is counted as a value")
    known = {trial.number for trial in counted}
    for finished in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if finished.number not in known and not finished.user_attrs:
            found.append(f"study {study.study_name}, trial {finished.number}: without an outcome")
    return found


def _running_trials(study: optuna.Study) -> list[str]:
    """Trials that nobody works on: the folder has no process any more."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    name = study.study_name
    return [f"study {name}, trial {trial.number}: RUNNING without an owner" for trial in running]


def _leftovers(counted: Sequence[Counted]) -> list[str]:
    """What lies in the folder of a counted trial beside its config and its logs."""
    found = []
    for trial in counted:
        if trial.folder is None or not trial.folder.is_dir():
            continue
        for path in sorted(trial.folder.iterdir()):
            if path.name != HYDRA_FOLDER and path.suffix != ".log":
                found.append(f"{trial}: counted, and {path.name} is left in its folder")
    return found


def _runs(folder: Path, tracking_uri: str | None) -> list[Any] | None:
    """All runs of MLflow's store; None where the folder has none."""
    if tracking_uri is None and not (folder / MLFLOW_DB).exists():
        return None
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri or f"sqlite:///{folder / MLFLOW_DB}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = []
    token = None
    while True:
        page = client.search_runs(experiments, max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _running_runs(runs: Sequence[Any]) -> list[str]:
    """Runs that say RUNNING though the process that wrote them is gone."""
    found = []
    for run in runs:
        tags = run.data.tags
        owner = tags.get("cifar_hpo.owner", "")
        if run.info.status == "RUNNING" and not _is_alive(owner):
            kind = f"of {tags['study']} ({tags['kind']})" if "study" in tags else "outside a study"
            found.append(f"MLflow's run {run.info.run_id} {kind}: RUNNING, its owner is gone")
    return found


def _is_alive(owner: str) -> bool:
    """Whether the process of this host that an owner's tag names is there."""
    host, _, rest = owner.partition(":")
    pid, _, started = rest.partition(":")
    if host != socket.gethostname() or not pid:
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(started)) < 0.1
    except psutil.NoSuchProcess:
        return False


def _disagreeing_runs(counted: Sequence[Counted], runs: Sequence[Any]) -> list[str]:
    """Where MLflow's runs of trials are not those of the outcomes."""
    found = []
    by_id = {run.info.run_id: run for run in runs}
    finished: dict[int, list[str]] = defaultdict(list)
    for run in runs:
        if run.data.tags.get("kind") == "trial" and run.info.status == "FINISHED":
            finished[int(run.data.tags["trial"])].append(run.info.run_id)
    for tried in _configurations(counted).values():
        last = tried[-1]
        wanted = [last.outcome["run_id"]] if last.is_success else []
        of_all = [run_id for trial in tried for run_id in finished.get(trial.number, [])]
        if of_all != wanted:
            found.append(f"{last}: its outcome has the runs {wanted}, FINISHED are {of_all}")
    for trial in counted:
        run = by_id.get(trial.outcome["run_id"])
        if run is None:
            if trial.is_success:
                found.append(f"{trial}: MLflow does not have its run {trial.outcome['run_id']!r}")
            continue
        found += _differing_metrics(trial, run)
        if (trial.outcome["state"] == PRUNED) != ("pruned" in run.data.tags):
            found.append(f"{trial}: {trial.outcome['state']}, and its run's tags say otherwise")
        if not trial.is_success and run.info.status not in ("FAILED", "KILLED"):
            found.append(f"{trial}: failed, and its run is {run.info.status}")
    return found


def _differing_metrics(trial: Counted, run: Any) -> list[str]:
    found = []
    for name, value in trial.outcome["metrics"].items():
        logged = run.data.metrics.get(name)
        if logged is None or not math.isclose(logged, value, rel_tol=1e-12):
            found.append(f"{trial}: {name} is {value} in its outcome, {logged} in MLflow")
    return found


def _untrue_study_runs(
    study: optuna.Study, runs: Sequence[Any], counted: int, planned: int | None
) -> list[str]:
    """A study has one run, which is FINISHED only if everything planned has an outcome."""
    own = [run for run in runs if run.data.tags.get("kind") == "study"]
    name = study.study_name
    found = []
    if len(own) != 1:
        found.append(f"study {name} has {len(own)} runs of its own in MLflow")
    for run in own:
        if run.info.status == "FINISHED" and planned is not None and counted < planned:
            found.append(f"study {name}: FINISHED in MLflow with {counted} of {planned} outcomes")
    return found


def _work_done_again(folder: Path, again: Again, tracking_uri: str | None) -> list[str]:
    """What the same command changed once it had been run to its end."""
    before = _state(folder, tracking_uri)
    failed = any(
        tried[-1].outcome["state"] in (FAILED, KILLED)
        for study in _studies(folder)
        for tried in _configurations(_counted(study)).values()
    )
    shown = again()
    found = []
    if shown.returncode != int(failed):
        last = (shown.stderr.splitlines() or [""])[-1]
        found.append(f"the same command again ends with exit code {shown.returncode}: {last}")
    after = _state(folder, tracking_uri)
    for what in sorted(before.keys() | after.keys()):
        if before.get(what) != after.get(what):
            change = f"{before.get(what, 'nothing')} → {after.get(what, 'nothing')}"
            found.append(f"the same command again changed {what}: {change}")
    return found


def _state(folder: Path, tracking_uri: str | None) -> dict[str, str]:
    """Each trial and each run of a trial, as they stand."""
    state = {}
    for study in _studies(folder):
        for trial in study.get_trials(deepcopy=False):
            state[f"{study.study_name} {trial.number}"] = _trial_as_text(trial)
    for run in _runs(folder, tracking_uri) or []:
        if run.data.tags.get("kind") != "study":
            state[f"run {run.info.run_id}"] = f"{run.info.status} {sorted(run.data.metrics)}"
        else:
            state[f"run {run.info.run_id}"] = str(run.info.status)
    return state


def _trial_as_text(trial: FrozenTrial) -> str:
    outcome = json.dumps(trial.user_attrs.get(OUTCOME), sort_keys=True)
    return f"{trial.state.name} {trial.values} {outcome}"
