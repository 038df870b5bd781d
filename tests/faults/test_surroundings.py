"""A stub sweep in surroundings that are not as usual, and values that are not as they look."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from invariants import check
from support import clean, config_loader, finished, swept

from cifar_hpo.paths import IN_MEMORY
from cifar_hpo.study.space import Space

APP = """
import hydra

@hydra.main(version_base="1.3", config_path=None)
def app(config):
    return float(config.x) + float(config.get("seed", 0))

if __name__ == "__main__":
    app()
"""


def sweep(
    folder: Path, *overrides: str, files: int = 1024, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A sweep over `x` by a stub, whose process may open so many files."""
    (folder / "app.py").write_text(APP)
    command = [sys.executable, "app.py", "-m", "hydra/sweeper=study", "hydra/launcher=workers"]
    command += ["hydra.sweeper.metric=y", "hydra.sweeper.direction=maximize"]
    command += ["hydra.sweeper.study_name=s", "+x=1,2", *overrides]
    return subprocess.run(
        ["bash", "-c", f'ulimit -n {files}; exec "$@"', "bash", *command],
        cwd=folder,
        env=clean() | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_long_folder_of_temporary_files_with_blanks_and_few_open_files(tmp_path: Path) -> None:
    folder, temporary = tmp_path / "sweep", tmp_path / ("a b" * 40)
    folder.mkdir()
    temporary.mkdir()
    shown = sweep(folder, files=256, TMPDIR=str(temporary))
    assert shown.returncode == 0, shown.stderr
    check(folder, planned=2, returncode=0)


def test_a_value_of_the_environment_that_changed_is_not_taken_for_done(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    folder.mkdir()
    assert sweep(folder, "+seed=${oc.env:SEED}", SEED="1").returncode == 0
    changed = sweep(folder, "+seed=${oc.env:SEED}", SEED="2")
    assert changed.returncode != 0
    assert "means something else" in changed.stderr
    assert "done before" not in changed.stdout
    again = sweep(folder, "+seed=${oc.env:SEED}", SEED="1")
    assert again.returncode == 0, again.stderr
    assert "2 done before" in again.stdout
    check(folder, planned=2, returncode=0)


@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_null_among_the_choices_of_params_and_in_what_is_enqueued_is_null(sampler: str) -> None:
    space = Space.parse((), {"+x": "1,null"}, config_loader(), {})
    specs, _ = swept(
        space,
        lambda _: finished(1.0),
        sampler=sampler,
        storage=IN_MEMORY,
        enqueue=[{"+x": None}],
    )
    assert [spec.overrides for spec in specs] == [("+x=null",), ("+x=1",)]
