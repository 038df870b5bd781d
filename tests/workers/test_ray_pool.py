"""Slots on a Ray cluster: what they take of its nodes, and whole sweeps on one node that is shared
by these tests, with stub objectives and real signals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from support import run_command, run_in
from support_ray import UNGUARDED, Node, cluster, needs_ray, ray_app, seen, states

from cifar_hpo.errors import ConfigError
from cifar_hpo.study.ranking import OUTCOME
from cifar_hpo.workers import _ray
from cifar_hpo.workers.ray_pool import needs_of, room_for


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A cluster of one node."""
    with cluster("--num-cpus=2", '--resources={"special": 2}') as (first, _):
        yield first


@pytest.fixture
def at(node: Node) -> str:
    """The override that names the cluster."""
    return f"hydra.launcher.address={node.address}"


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a sweep that comes to its end has said."""
    return process.communicate(timeout=100)


NOT_THERE = "for a trial, and no node has as much; nodes have CPU 2"
NODES = [{"CPU": 2.0}, {"CPU": 4.0, "GPU": 1.0, "special": 3.0}]


@pytest.mark.parametrize(
    ("asked", "room"),
    [
        ({}, 6),
        ({"num_cpus": 2}, 3),
        ({"num_cpus": 0.5}, 12),
        ({"num_gpus": 1}, 1),
        ({"num_gpus": 0.25}, 4),
        ({"num_cpus": 3, "resources": {"special": 1}}, 1),
        ({"num_cpus": 0.1, "resources": {"special": 0.1}}, 30),
    ],
)
def test_as_many_trials_run_at_a_time_as_the_nodes_hold(asked: dict[str, Any], room: int) -> None:
    assert (
        room_for(needs_of({"num_cpus": 1, "num_gpus": 0, "resources": {}} | asked), NODES) == room
    )


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (
            {"num_gpus": 2},
            f"hydra.launcher.num_gpus: 2 wanted {NOT_THERE}; CPU 4, GPU 1, special 3",
        ),
        ({"num_cpus": 8}, "hydra.launcher.num_cpus: 8 wanted for a trial"),
        ({"resources": {"tpu": 1}}, "hydra.launcher.resources.tpu: 1 wanted for a trial"),
        ({"resources": {"tpu": "many"}}, "hydra.launcher.resources.tpu: 'many' is no amount"),
        ({"num_gpus": 1.5}, "hydra.launcher.num_gpus: 1.5 is neither whole nor a share of one"),
    ],
)
def test_resources_that_can_never_fit_are_named_with_what_there_is(
    asked: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        room_for(needs_of({"num_cpus": 1, "num_gpus": 0, "resources": {}} | asked), NODES)
    assert str(raised.value).startswith(problem)


def test_resources_that_no_node_has_together_are_named() -> None:
    nodes = [{"CPU": 1.0}, {"GPU": 1.0}]
    with pytest.raises(ConfigError, match="no node has CPU 1, GPU 1 together; nodes have CPU 1; "):
        room_for({"CPU": 1, "GPU": 1}, nodes)


def test_without_ray_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    code = "import runpy, sys; sys.modules['ray'] = None; sys.argv[0] = 'cifar_hpo'; "
    code += "runpy.run_module('cifar_hpo', run_name='__main__')"
    command = [sys.executable, "-c", code, "-m", "model.filters=4,8", "hydra/launcher=ray"]
    shown = run_command(tmp_path, [*command, "data=synthetic"])
    assert shown.returncode == 2, shown.stderr
    (line,) = shown.stderr.splitlines()
    assert line == (
        "error: hydra/launcher: ray needs ray, which is not installed; pip install 'cifar_hpo[ray]'"
    )


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("127.0.0.1:1", "no Ray answers at 127.0.0.1:1 ([Errno 111] Connection refused)"),
        ("somewhere", "'somewhere' is no address; write host:port, or auto"),
    ],
)
def test_an_address_at_which_nobody_answers_is_refused_at_once(address: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        _ray.connect(address, {}, "", 1)
    assert str(raised.value) == f"hydra.launcher.address: {problem}"


@needs_ray
def test_actors_are_warm_and_take_the_next_trial_at_once(tmp_path: Path, at: str) -> None:
    body = "time.sleep(3 if config.x == 0 else 0.3)"
    out, err = ended(process := ray_app(tmp_path, body, at, "+x=range(0,6)"))
    assert process.returncode == 0, err
    assert "[6/6]" in out
    workers = [pid for _, pid, *_ in seen(tmp_path)]
    assert len(set(workers)) == 2
    assert {(threads, gpus) for *_, threads, gpus in seen(tmp_path)} == {("1", "[]")}
    slow = next(pid for x, pid, *_ in seen(tmp_path) if x == "0")
    assert workers.count(slow) <= 2, "the free slot should have taken nearly all other trials"
    assert "printed by trial" not in out + err
    logs = [log.read_text() for log in sorted((tmp_path / "out").glob("worker_*.log"))]
    assert len(logs) == 2
    assert "".join(logs).count("printed by trial") == 6


@needs_ray
def test_whoever_dies_costs_its_own_trial_one_attempt(tmp_path: Path, at: str) -> None:
    """The process of trial 1, and the actor of trial 2 with all that it started."""
    body = """died = Path(f"died-{config.x}")
if config.x in (1, 2) and not died.exists():
    died.touch()
    actor = psutil.Process().parent().parent()
    os.kill(os.getpid() if config.x == 1 else actor.pid, signal.SIGKILL)
    time.sleep(60)
if config.x == 4: raise OSError("no luck")"""
    out, err = ended(process := ray_app(tmp_path, body, at, "+x=0,1,2,3,4"))
    assert process.returncode == 1, err
    assert "worker killed by SIGKILL" in out
    assert "worker lost: its worker process has died" in out
    assert out.count("will be tried again") == 2
    assert "1 of 5 trials failed; the first: OSError: no luck" in err
    assert sorted(x for x, *_ in seen(tmp_path)) == ["0", "1", "1", "2", "2", "3", "4"]
    assert sorted(states(tmp_path)) == ["COMPLETE"] * 4 + ["FAIL"]
    assert not [pid for _, pid, *_ in seen(tmp_path) if psutil.pid_exists(int(pid))]


@needs_ray
def test_an_idle_actor_that_died_gets_no_trial(tmp_path: Path, at: str) -> None:
    """Trial 1 ends the actor that trial 0 has left idle, and then its own process."""
    body = """died = Path("died")
if config.x == 1 and not died.exists():
    while not Path("seen.txt").read_text().count("\\n") == 2: time.sleep(0.02)
    time.sleep(1)
    died.touch()
    pids = dict(line.split()[:2] for line in Path("seen.txt").read_text().splitlines())
    psutil.Process(int(pids["0"])).parent().parent().kill()
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)"""
    out, err = ended(process := ray_app(tmp_path, body, at, "+x=0,1"))
    assert process.returncode == 0, err
    assert "worker killed by SIGKILL" in out
    assert out.count("will be tried again") == 1
    assert sorted(x for x, *_ in seen(tmp_path)) == ["0", "1", "1"]


@pytest.mark.long
@needs_ray
def test_a_trial_beyond_a_limit_is_killed_labelled_and_not_tried_again(
    tmp_path: Path, at: str
) -> None:
    body = "hog = bytearray(2**30) if config.x == 2 else 0\ntime.sleep(60 if config.x else 0)"
    limits = ("hydra.launcher.trial_timeout=3", "hydra.launcher.memory_limit=0.7")
    out, err = ended(process := ray_app(tmp_path, body, at, "+x=0,1,2", *limits))
    assert process.returncode == 1, err
    assert "timed out after 3 s (hydra.launcher.trial_timeout)" in out
    assert "GiB, more than 0.7 (hydra.launcher.memory_limit)" in out
    assert sorted(x for x, *_ in seen(tmp_path)) == ["0", "1", "2"]


@needs_ray
def test_a_trial_that_will_not_win_is_stopped_and_workers_are_replaced(
    tmp_path: Path, at: str
) -> None:
    body = """for epoch in range(1, 4):
    cifar_hpo.report(epoch, 3, 0.1 * config.x * epoch)"""
    pruner = ("hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=1")
    options = [
        "hydra.launcher.n_workers=1",
        "hydra.launcher.trials_per_worker=2",
        "hydra.sweeper.order=given",
        "hydra.sweeper.direction=maximize",
    ]
    out, err = ended(process := ray_app(tmp_path, body, at, "+x=3,2,4", *pruner, *options))
    assert process.returncode == 0, err
    assert "PRUNED after epoch 1 of 3 by median" in out
    assert states(tmp_path) == ["COMPLETE", "PRUNED", "COMPLETE"]
    first, second, third = [pid for _, pid, *_ in seen(tmp_path)]
    assert first == second != third


@needs_ray
def test_what_no_node_has_ends_the_sweep_before_it_starts(tmp_path: Path, at: str) -> None:
    _, err = ended(process := ray_app(tmp_path, "", at, "+x=0,1", "hydra.launcher.num_gpus=1"))
    assert process.returncode == 2
    wanted = "hydra.launcher.num_gpus: 1 wanted for a trial, and no node has as much"
    assert err == f"error: {wanted}; nodes have CPU 2, special 2\n"
    assert seen(tmp_path) == []


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        (
            "hydra.launcher.resources={GPU: 1}",
            "hydra.launcher.resources.GPU: it is not among Ray's custom resources; write ",
        ),
        ("hydra.launcher.runtime_env={env_vars: {N: 1}}", "hydra.launcher.runtime_env: "),
    ],
)
@needs_ray
def test_what_ray_does_not_take_is_one_line(tmp_path: Path, option: str, problem: str) -> None:
    _, err = ended(process := ray_app(tmp_path, "", "+x=0,1", option))
    assert process.returncode == 2, err
    assert err.startswith(f"error: {problem}")
    assert err.count("\n") == 1


@needs_ray
@pytest.mark.long
def test_networks_come_to_the_same_values_as_with_local_workers(
    tmp_path: Path, at: str, small: list[str], store: None
) -> None:
    sweep = [
        "-m",
        "model.filters=4,8,16",
        *small,
        "training.epochs=1",
        "mlflow.system_metrics=false",
    ]
    values: list[list[Any]] = []
    for more in (["hydra/launcher=workers"], ["hydra/launcher=ray", at]):
        name = f"hydra.sweeper.study_name=s{len(values)}"
        shown = run_in(tmp_path, *sweep, name, *more, **UNGUARDED)
        assert shown.returncode == 0, shown.stderr
        storage = f"sqlite:///{tmp_path}/mlruns/studies.db"
        trials = optuna.load_study(study_name=f"s{len(values)}", storage=storage).trials
        values.append([trial.user_attrs[OUTCOME]["values"] for trial in trials])
    assert values[0] == values[1]
    assert len(values[0]) == 3
