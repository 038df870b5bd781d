"""A worker's process: what it is given, what it prints and logs, and the folder and the files that
it may open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
from support import clean

from cifar_hpo.study.ranking import OUTCOME

LEAKING = """
import logging, os, sys, warnings
import hydra

@hydra.main(version_base="1.3", config_path=None)
def app(config):
    uri = os.environ["STORE"]
    print("printed", uri)
    sys.stderr.write(f"written {uri}")
    warnings.warn(uri)
    logging.getLogger("a.library").warning("logged %s", uri)
    try:
        raise OSError(f"wrong password {'LETMEIN' + '77'} for {uri}")
    except OSError:
        logging.exception("caught")
        if config.x == 2:
            raise
    return config.x

if __name__ == "__main__":
    app()
"""


def test_no_password_is_left_behind_and_a_long_tmpdir_and_few_files_do(tmp_path: Path) -> None:
    folder, long_name = tmp_path / "work", tmp_path / ("t" * 100)
    folder.mkdir()
    long_name.mkdir()
    (folder / "app.py").write_text(LEAKING)
    plugins = "hydra/sweeper=study hydra/launcher=workers hydra.launcher.n_workers=2"
    ended = subprocess.run(
        ["bash", "-c", f"ulimit -n 256; exec {sys.executable} app.py -m +x=1,2 {plugins}"],
        cwd=folder,
        env=clean() | {"STORE": "postgresql://me:LETMEIN77@host/db", "TMPDIR": str(long_name)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "1 of 2 trials failed" in ended.stdout + ended.stderr
    assert "AF_UNIX" not in ended.stderr
    (study,) = optuna.get_all_study_summaries(f"sqlite:///{folder}/mlruns/studies.db")
    trials = optuna.load_study(
        study_name=study.study_name, storage=f"sqlite:///{folder}/mlruns/studies.db"
    ).trials
    errors = [trial.user_attrs[OUTCOME]["error"] for trial in trials]
    assert "OSError: wrong password *** for postgresql://me:***@host/db" in errors
    (workers_say,) = [path.read_text() for path in folder.rglob("worker_*.log")][:1]
    assert f'{folder}/app.py", line 13, in app' in workers_say, "a traceback names the app's file"
    assert "printed postgresql://me:***@host/db" in workers_say
    for path in folder.rglob("*"):
        assert not path.is_file() or b"LETMEIN77" not in path.read_bytes(), path
    assert "LETMEIN77" not in ended.stdout
