"""Ray that a sweep starts for itself, and a cluster that loses a node."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from pathlib import Path

import psutil
import pytest
from support import wait_for
from support_ray import Node, cluster, needs_ray, ray_app, seen, states

pytestmark = needs_ray


def left_by(pid: int) -> list[Path]:
    """The folders for temporary files of a process that started a Ray of its own."""
    sessions = Path(tempfile.gettempdir()).glob(f"cifar_hpo-*/session_*_{pid}")
    return [session.parent for session in sessions]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.long
def test_a_sweep_that_ends_early_leaves_nothing_of_its_own_ray_and_goes_on_without(
    tmp_path: Path, sent: signal.Signals
) -> None:
    """After kill -9 of the sweep Ray's two agents, which do nothing, look for it for a minute."""
    body = "time.sleep(60 if not Path('again').exists() and config.x > 1 else 0.1)"
    process = ray_app(tmp_path, body, "+x=0,1,2,3", "hydra.launcher.n_workers=2")
    wait_for(lambda: len(seen(tmp_path)) == 4)
    started = psutil.Process(process.pid).children(recursive=True)
    assert "raylet" in [one.name() for one in started]
    agents = [one for one in started if one.name().endswith("Agent")]
    trials = [psutil.Process(int(pid)) for _, pid, *_ in seen(tmp_path)[2:]]
    process.send_signal(sent)
    _, err = process.communicate(timeout=15)
    watched = [one for one in started if sent != signal.SIGKILL or one not in agents] + trials
    _, alive = psutil.wait_procs(watched, timeout=15)
    assert not [one.pid for one in alive if one.is_running()]
    if sent != signal.SIGKILL:
        assert process.returncode == 130
        assert err.splitlines() == ["interrupted; the same command goes on from here"]
        assert not left_by(process.pid)
        return
    (tmp_path / "again").touch()
    again = ray_app(tmp_path, body, "+x=0,1,2,3", launcher="workers")
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert sorted(x for x, *_ in seen(tmp_path)) == ["0", "1", "2", "2", "3", "3"]
    assert states(tmp_path) == ["COMPLETE"] * 4
    for folder in left_by(process.pid):
        shutil.rmtree(folder)
    for agent in agents:
        with contextlib.suppress(psutil.NoSuchProcess):
            agent.kill()


@pytest.mark.long
def test_a_node_that_is_lost_takes_no_trial_with_it(tmp_path: Path) -> None:
    """Its trials are tried again on the other one, and each is counted once."""
    with cluster("--num-cpus=2") as (head, folder):
        other = Node(folder, head.address, "--num-cpus=2")
        try:
            body = "time.sleep(0.5 if config.x < 12 else 1)"
            sweep = ("+x=range(0,16)", f"hydra.launcher.address={head.address}")
            process = ray_app(tmp_path, body, *sweep)
            wait_for(lambda: len({pid for _, pid, *_ in seen(tmp_path)}) == 4)
            other.kill()
            out, err = process.communicate(timeout=100)
        finally:
            other.kill()
    assert process.returncode == 0, err
    assert 1 <= out.count("will be tried again") <= 2, out
    assert "worker lost: its node" in out, "Ray tells of a lost node in another way"
    assert "raylet" not in out + err, "Ray prints what nodes say by another function"
    assert states(tmp_path) == ["COMPLETE"] * 16
