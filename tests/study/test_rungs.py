"""Trials that pause on rungs, and which of them go on; no training, real SQLite."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import STUB_SWEEP, finished, parse_space, run_command, study_options

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
    """Stub trainings whose value is the configuration's x, that keep where they are, unless they
    keep nothing."""

    def __init__(self, *, keep: bool = True) -> None:
        self.keep = keep
        self.epochs: dict[int, int] = {}

    def train(self, study: Study, spec: TrialSpec) -> TrialResult:
        x = int(spec.params["+x"])
        done = self.epochs.get(x, 0) if self.keep else 0
        for epoch in range(done + 1, EPOCHS + 1):
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


@pytest.mark.parametrize("pruner", ["promotion", "first"])
def test_what_keeps_no_checkpoint_comes_to_a_rung_again_and_goes_on(
    pruner: str, open_study: Open
) -> None:
    whole, forgetful = Trainings(), Trainings(keep=False)
    with open_study(pruner, study="whole") as study:
        whole.run(study, study.specs())
        wanted = states(study)
    with open_study(pruner) as study:
        order = forgetful.run(study, study.specs())
        assert states(study) == wanted
    assert len(order) < 2 * len(wanted)
    assert forgetful.epochs == whole.epochs


@pytest.mark.parametrize("pruner", ["promotion", "first"])
def test_what_was_told_to_pause_when_its_command_died_waits_on_its_rung(
    pruner: str, open_study: Open
) -> None:
    """Two commands die as the first trial of each has come to its rung, and note nothing of it."""
    top = {"top": 1} if pruner == "first" else {}
    trainings = Trainings()
    for _ in range(2):
        with open_study(pruner, "+x=3,2,1,0", **top) as study:
            spec = next(study.specs())
            assert spec
            assert spec.attempt == 0
            assert trainings.train(study, spec).state == PAUSED
    with open_study(pruner, "+x=3,2,1,0", **top) as study:
        trainings.run(study, study.specs())
        assert states(study) == {3: FINISHED, 2: PRUNED, 1: PRUNED, 0: PRUNED}
        errors = {int(trial.params["+x"]): trial.error for trial in study.ended_paused()}
    assert trainings.epochs == {3: 9, 2: 1, 1: 1, 0: 1}
    assert errors[2] == "paused after epoch 1"


def test_a_pause_that_was_left_on_disk_is_no_outcome(space: Callable[..., Space]) -> None:
    """Before it is noted it tells how the attempt went; once the trial has gone on, nothing."""
    left = {0: TrialResult(PAUSED, error="left", run_id="r"), 1: TrialResult(PAUSED)}
    chosen = vars(schema.First(name="first")) | {"top": 1}
    trainings = Trainings()

    def opened() -> Study:
        return Study.open(
            "s",
            space("+x=0,1"),
            study_options(pruner=chosen),
            {},
            left_result=lambda _, spec: left.get(int(spec.params["+x"])),
        )

    with opened() as study:
        specs = study.specs()
        first, second = next(specs), next(specs)
        assert first
        assert second
        trainings.train(study, first)
        study.tell(second, trainings.train(study, second))
    with opened() as study:
        promoted = next(study.specs())
        assert promoted
        assert promoted.params == {"+x": 1}
    with opened() as study:
        trainings.run(study, study.specs())
        assert states(study) == {0: PRUNED, 1: FINISHED}
        (ended,) = study.ended_paused()
    assert (ended.error, ended.run_id) == ("left", "r")


@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize("pruner", ["promotion", "first"])
def test_a_sampler_leaves_alone_what_pauses(
    pruner: str, sampler: str, space: Callable[..., Space]
) -> None:
    chosen = vars(schema.PRUNER_SCHEMAS[pruner](name=pruner))
    wish = {"+x": 5}
    options = study_options(sampler, pruner=chosen, n_trials=9, enqueue=[wish])
    trainings = Trainings()
    with Study.open("s", space("+x=range(0,30)"), options, {}) as study:
        order = trainings.run(study, study.specs())
        outcomes = states(study)
    assert order[0] == 5
    assert len(outcomes) == 9
    assert outcomes[max(outcomes)] == FINISHED
    assert set(outcomes.values()) == {FINISHED, PRUNED}


def test_what_is_known_beforehand_takes_no_place_on_a_rung(open_study: Open) -> None:
    trainings = Trainings()
    with open_study("first", "+x=7,8", study="earlier", top=2) as study:
        trainings.run(study, study.specs())
    chosen = vars(schema.First(name="first")) | {"top": 1}
    options = study_options("random", pruner=chosen, warm_start="earlier", n_trials=4)
    with Study.open("s", parse_space("+x=1,2,3,4,7,8"), options, {}) as study:
        trainings.epochs.clear()
        trainings.run(study, study.specs())
        outcomes = states(study)
    assert list(outcomes.values()).count(FINISHED) == 1
    assert outcomes[max(outcomes)] == FINISHED


def test_a_value_that_is_no_number_comes_last(open_study: Open) -> None:
    class Diverging(Trainings):
        def train(self, study: Study, spec: TrialSpec) -> TrialResult:
            if spec.params["+x"] == 0:
                assert study.should_prune(spec, Progress(1, EPOCHS, math.nan))
                return TrialResult(PAUSED)
            return super().train(study, spec)

    trainings = Diverging()
    with open_study("first", "+x=0,1,2", top=1) as study:
        trainings.run(study, study.specs())
        assert states(study) == {0: PRUNED, 1: PRUNED, 2: FINISHED}


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
    assert rungs.promoted([], are_all_begun=False) == (1, 2)


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
        "hydra/launcher=workers, or hydra/sweeper/pruner=asha\n"
    )
