"""Trials that pause on rungs, and which of them go on; no training, real SQLite."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import STUB_SWEEP, finished, run_command, study_options

from cifar_hpo.config import sweep as schema
from cifar_hpo.errors import ConfigError
from cifar_hpo.study.rungs import Rungs
from cifar_hpo.study.space import Space
from cifar_hpo.study.study import Study
from cifar_hpo.trial import FINISHED, PAUSED, PRUNED, Progress, TrialResult, TrialSpec

EPOCHS = 9

Open = Callable[..., Study]


@pytest.fixture
def open_study(space: Callable[..., Space]) -> Open:
    def opened(
        pruner: str, cells: str = "+x=8,7,6,5,4,3,2,1,0", study: str = "s", **given: Any
    ) -> Study:
        chosen = vars(schema.PRUNER_SCHEMAS[pruner](name=pruner)) | given
        return Study.open(study, space(cells), study_options(pruner=chosen), {})

    return opened


class Trainings:
    """Stub trainings whose value is the configuration's x, that keep where they are."""

    def __init__(self) -> None:
        self.epochs: dict[int, int] = {}

    def train(self, study: Study, spec: TrialSpec) -> TrialResult:
        x = int(spec.params["+x"])
        for epoch in range(self.epochs.get(x, 0) + 1, EPOCHS + 1):
            self.epochs[x] = epoch
            if study.should_prune(spec, Progress(epoch, EPOCHS, float(x))):
                return TrialResult(PAUSED, error=f"after epoch {epoch}")
        return finished(float(x))

    def run(self, study: Study, specs: Iterator[TrialSpec | None]) -> list[int]:
        """Until nothing is left; the configurations in the order of their attempts."""
        order = []
        for spec in specs:
            assert spec
            order.append(int(spec.params["+x"]))
            study.tell(spec, self.train(study, spec))
        return order


def states(study: Study) -> dict[int, str]:
    return {int(trial.params["+x"]): trial.state for trial in study.finished_trials()}


def test_of_each_rung_the_best_third_goes_on(open_study: Open) -> None:
    trainings = Trainings()
    with open_study("promotion") as study:
        trainings.run(study, study.specs())
        assert states(study) == dict.fromkeys(range(8), PRUNED) | {8: FINISHED}
        assert study.best
        assert study.best.values == [8.0]
        paused = {trial.state for trial in study.ended_paused()}
    assert trainings.epochs == dict.fromkeys(range(6), 1) | {6: 3, 7: 3, 8: 9}
    assert paused == {PRUNED}


def test_what_paused_long_ago_goes_on_when_it_deserves_it(open_study: Open) -> None:
    """Where the best come first, the second of them is promoted as soon as six have come."""
    trainings = Trainings()
    with open_study("promotion") as study:
        order = trainings.run(study, study.specs())
    assert order == [8, 7, 6, 8, 5, 4, 3, 7, 2, 1, 0, 6, 8]
    assert trainings.epochs[8] == EPOCHS


def test_few_epochs_for_all_and_the_first_go_on_to_their_end(open_study: Open) -> None:
    trainings = Trainings()
    with open_study("first", top=2, epochs=2) as study:
        order = trainings.run(study, study.specs())
        assert order[9:] == [8, 7]
        assert states(study) == dict.fromkeys(range(7), PRUNED) | {8: FINISHED, 7: FINISHED}
    assert trainings.epochs == dict.fromkeys(range(7), 2) | {8: 9, 7: 9}


def test_those_that_go_on_run_side_by_side_once_all_have_come(open_study: Open) -> None:
    trainings = Trainings()
    with open_study("first", "+x=0,1,2,3", top=2) as study:
        specs = study.specs()
        begun = [next(specs) for _ in range(4)]
        for spec in begun[:3]:
            assert spec
            study.tell(spec, trainings.train(study, spec))
        assert next(specs) is None, "the fourth may be better than these"
        assert begun[3]
        study.tell(begun[3], trainings.train(study, begun[3]))
        on = [next(specs), next(specs)]
        assert [spec and spec.params["+x"] for spec in on] == [3, 2]
        assert next(specs) is None


@pytest.mark.parametrize("pruner", ["promotion", "first"])
@pytest.mark.parametrize("after", [2, 7, 12])
def test_a_study_that_is_interrupted_anywhere_comes_to_the_same(
    pruner: str, after: int, open_study: Open
) -> None:
    whole, trainings = Trainings(), Trainings()
    with open_study(pruner, "+x=4,8,1,5,0,7,3,2,6") as study:
        for count, spec in enumerate(study.specs(), start=1):
            assert spec
            if count == after:
                break
            study.tell(spec, trainings.train(study, spec))
    with open_study(pruner, "+x=4,8,1,5,0,7,3,2,6") as study:
        trainings.run(study, study.specs())
        outcomes = states(study)
        assert study.planned() == 9
    with open_study(pruner, "+x=4,8,1,5,0,7,3,2,6", study="whole") as study:
        whole.run(study, study.specs())
    assert len(outcomes) == 9
    assert outcomes[8] == FINISHED
    assert trainings.epochs == whole.epochs


def test_one_goes_on_however_few_there_are(open_study: Open) -> None:
    trainings = Trainings()
    with open_study("promotion", "+x=1,0") as study:
        trainings.run(study, study.specs())
        assert states(study) == {0: PRUNED, 1: FINISHED}


def test_what_fails_on_its_way_leaves_the_others_their_places(open_study: Open) -> None:
    trainings = Trainings()
    with open_study("first", "+x=0,1,2,3", top=2) as study:
        for spec in study.specs():
            assert spec
            result = trainings.train(study, spec)
            is_bad = spec.params["+x"] == 3 and spec.attempt
            study.tell(spec, TrialResult("FAILED", error="no luck") if is_bad else result)
        assert states(study) == {0: PRUNED, 1: PRUNED, 2: FINISHED, 3: "FAILED"}


def test_rungs_stand_at_powers_and_the_smaller_is_better_where_it_is() -> None:
    rungs = Rungs({"name": "promotion", "min_resource": 2, "reduction_factor": 3}, "minimize")
    assert [epoch for epoch in range(1, 60) if rungs.is_rung(epoch)] == [2, 6, 18, 54]
    for number, value in enumerate([0.3, 0.1, math.inf]):
        assert rungs.reach(number, 2, value)
        rungs.pause(number, 2)
    assert rungs.promoted([], are_all_begun=False) == 1


def test_a_study_that_several_commands_share_is_refused(
    database: str, space: Callable[..., Space]
) -> None:
    chosen = vars(schema.Promotion(name="promotion"))
    options = study_options(pruner=chosen, storage=database)
    with pytest.raises(ConfigError, match=r"^hydra.sweeper.pruner: trials pause and go on in a"):
        Study.open("s", space("+x=1,2"), options, {})


APP = """
import json, signal
from pathlib import Path
import hydra, psutil, cifar_hpo

@hydra.main(version_base="1.3", config_path=None)
def train(config):
    checkpoint = cifar_hpo.folder() / "epoch.json"
    done = json.loads(checkpoint.read_text()) if checkpoint.exists() else 0
    for epoch in range(done + 1, 10):
        with Path("seen.txt").open("a") as seen:
            seen.write(f"{config.x} {epoch}\\n")
            if seen.tell() == KILLED_AT and not Path("killed").exists():
                Path("killed").touch()
                psutil.Process().parent().parent().kill()
                signal.pause()
        checkpoint.write_text(json.dumps(epoch))
        cifar_hpo.report(epoch, 9, config.x)
    return float(config.x)

if __name__ == "__main__":
    train()
"""


@pytest.mark.parametrize("killed_at", [8, pytest.param(16, marks=pytest.mark.long)])
def test_a_sweep_that_is_killed_goes_on_with_what_paused_and_what_ran(
    killed_at: int, tmp_path: Path
) -> None:
    """On the way of the first rung, and of one that was promoted."""
    (tmp_path / "app.py").write_text(APP.replace("KILLED_AT", str(killed_at)))
    sweep = (sys.executable, *STUB_SWEEP, "+mlflow={tracking_uri:null,experiment:null}")
    command = [*sweep, "hydra/sweeper/pruner=promotion", "hydra.sweeper.order=given"]
    command.append("+x=8,7,6,5,4,3,2,1,0")
    killed = run_command(tmp_path, command)
    again = run_command(tmp_path, command)
    assert killed.returncode == 0 or (tmp_path / "killed").exists(), killed.stderr
    assert again.returncode == 0, again.stderr
    assert "[9/9]" in again.stdout
    seen = Counter((tmp_path / "seen.txt").read_text().splitlines())
    wanted = {8: 9, 7: 3, 6: 3} | dict.fromkeys(range(6), 1)
    epochs = {f"{x} {epoch}" for x, last in wanted.items() for epoch in range(1, last + 1)}
    assert set(seen) == epochs
    assert sum(seen.values()) == len(epochs) + 1, "the epoch in which it was killed, again"


def test_other_launchers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    options = ("hydra/sweeper/pruner=first", "hydra/launcher=basic", "+x=1,2")
    named = (*STUB_SWEEP[:3], "hydra.sweeper.study_name=s")
    refused = run_command(tmp_path, [sys.executable, *named, *options])
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: hydra.sweeper.pruner: first lets trials pause, which other launchers can't; "
        "hydra/launcher=workers, or pruner=asha\n"
    )
