"""What is used of multiprocessing beyond its documented interface."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import psutil
from support import wait_for

MEND = "Python has changed its fork server: mend workers/_multiprocessing.py"

PROGRAM = """
import os, sys
from cifar_hpo.workers import _multiprocessing as forking

def report(pipe):
    import multiprocessing.process
    pipe.send(("colorsys" in sys.modules, os.getppid(), os.environ.get("MARK")))
    forking.wait_for_parent_to_end()
    open("ended", "w").close()

if __name__ == "__main__":
    os.environ["MARK"] = "here"
    forking.start_server(["colorsys"])
    os.environ["MARK"] = "later"
    context = forking.fork_server()
    ours, theirs = context.Pipe()
    process = context.Process(target=report, args=(theirs,))
    process.start()
    has_import, parent, mark = ours.recv()
    assert has_import, "the server did not import what it was told to"
    assert parent == forking.server_pid(), "the worker's parent is not the server"
    assert mark == "here", "the server did not inherit the environment of its start"
    print(forking.server_pid(), process.pid, flush=True)
    if "kill" in sys.argv:
        forking.kill_server()
    os._exit(0)
"""


def run(folder: Path, *arguments: str, program: str = PROGRAM) -> tuple[int, int]:
    """Process ids of the server and of a worker, whose starting process is gone by now."""
    (folder / "program.py").write_text(program)
    ended = subprocess.run(
        [sys.executable, "program.py", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, f"{MEND}\n{ended.stderr}"
    server, worker = map(int, ended.stdout.split())
    return server, worker


NEW_PROGRAM = """
import os, sys
from cifar_hpo.workers import _multiprocessing as forking

MARK = os.environ.get("MARK")
if __name__ == "__mp_main__":
    print("imported", file=sys.stderr)

def report(pipe):
    pipe.send((sys.modules["__mp_main__"].MARK, os.getppid(), os.environ.get("COMMON")))
    forking.wait_for_parent_to_end()
    open("ended", "w").close()

if __name__ == "__main__":
    os.environ["COMMON"] = "here"
    context = forking.new_programs()
    ours, theirs = context.Pipe()
    process = context.Process(target=report, args=(theirs,))
    forking.start_with({"MARK": "its own"}, process)
    assert "MARK" not in os.environ
    mark, parent, common = ours.recv()
    assert mark == "its own", "the file of the program was imported before the variables were set"
    assert (parent, common) == (os.getpid(), "here")
    assert forking.server_log().read_text() == "imported\\n", "standard error goes elsewhere"
    assert forking.server_pid() is None
    print(0, process.pid, flush=True)
    os._exit(0)
"""


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_worker_is_forked_from_the_server_and_notices_its_parents_end(tmp_path: Path) -> None:
    _, worker = run(tmp_path)
    wait_for((tmp_path / "ended").exists)
    wait_for(lambda: is_gone(worker))


def test_a_worker_that_is_a_program_of_its_own_has_its_variables_before_it_loads_anything(
    tmp_path: Path,
) -> None:
    _, worker = run(tmp_path, program=NEW_PROGRAM)
    wait_for((tmp_path / "ended").exists)
    wait_for(lambda: is_gone(worker))


def test_the_server_is_killed_at_once(tmp_path: Path) -> None:
    server, _ = run(tmp_path, "kill")
    wait_for(lambda: is_gone(server), seconds=5)


def test_the_private_attribute_that_holds_its_process_id_is_there() -> None:
    server = forkserver._forkserver  # noqa: SLF001
    assert hasattr(server, "_forkserver_pid"), MEND
    assert os.getpid() != server._forkserver_pid  # noqa: SLF001


DYING = """
import os, signal, threading
from cifar_hpo.workers import _multiprocessing as forking

def report(pipe):
    pipe.send(os.getppid())

if __name__ == "__main__":
    forking.start_server([])
    server = forking.server_pid()
    os.kill(server, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, (server, signal.SIGKILL)).start()
    context = forking.fork_server()
    ours, theirs = context.Pipe()
    forking.start(context.Process(target=report, args=(theirs,)))
    print(ours.recv() == forking.server_pid() != server)
"""


def test_a_server_that_dies_while_it_forks_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(DYING)
    command = [sys.executable, "program.py"]
    shown = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert shown.stdout == "True\n", f"{MEND}\n{shown.stderr}"
