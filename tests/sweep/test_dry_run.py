"""A dry run: what a sweep would do and take, with nothing started and nothing left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import STUB_SWEEP, Run, run_command

DRY = "hydra.sweeper.dry_run=true"

APP = """
import hydra
from pathlib import Path

@hydra.main(version_base="1.3", config_path=None)
def app(config):
    Path("ran.txt").touch()
    return {"y": float(config.x)}

if __name__ == "__main__":
    app()
"""


def stub(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "app.py").write_text(APP)
    return run_command(folder, [sys.executable, *STUB_SWEEP, *arguments])


def lines_of(shown: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The lines of a dry run by their titles."""
    assert shown.returncode == 0, shown.stderr
    titles = ("to try", "time", "memory", "disk", "left out")
    lines = {}
    for line in shown.stdout.splitlines():
        for title in titles:
            if line.startswith(f"{title} "):
                lines[title] = line.removeprefix(title).strip()
    return lines


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_dry_run_says_what_a_sweep_takes_and_leaves_nothing(
    run: Run, small: list[str], tmp_path: Path
) -> None:
    grid = ["model.filters=4,8,16", "hydra.sweeper.constraints=['parameters <= 40000']"]
    shown = run("-m", *small, *grid, DRY)
    lines = lines_of(shown)
    assert lines["to try"] == "2 configurations of a grid of 3"
    assert "by 11 steps of model.filters=8, timed alone" in lines["time"], "540 images, 50 a step"
    assert lines["memory"].startswith("about ")
    assert "2 × " in lines["disk"]
    assert lines["left out"] == "1 by constraints"
    assert "model.filters=16" in shown.stdout
    assert "against 'parameters <= 40000'" in shown.stdout
    assert not names_in(tmp_path)


def test_a_dry_run_of_a_single_run_is_refused(run: Run, small: list[str]) -> None:
    refused = run(*small, DRY)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == (
        "error: hydra.sweeper.dry_run: a single run would train; add -m for a sweep"
    )


@pytest.mark.long
def test_another_app_is_estimated_by_the_trials_that_its_study_has(tmp_path: Path) -> None:
    unknown = lines_of(stub(tmp_path, "+x=1,2,3", DRY))
    assert unknown["time"] == "not known, before a first trial of this app has ended here"
    assert "does not say" in unknown["memory"]
    assert names_in(tmp_path) == {"app.py"}

    assert stub(tmp_path, "+x=1,2").returncode == 0
    (tmp_path / "ran.txt").unlink()
    before = (tmp_path / "mlruns" / "studies.db").read_bytes()
    known = lines_of(stub(tmp_path, "+x=1,2,3", DRY))
    assert known["to try"] == "1 configuration of a grid of 3; 2 done before"
    assert known["time"].startswith("about 0:0")
    assert known["time"].endswith("with 1 worker, by the 2 of its trials that were timed")
    assert not (tmp_path / "ran.txt").exists()
    assert (tmp_path / "mlruns" / "studies.db").read_bytes() == before
    assert lines_of(stub(tmp_path, "+x=1,2", DRY))["time"] == "none: all is done"
    refused = stub(tmp_path, "+x=1,2", "+z=1", DRY)
    assert refused.returncode == 2
    assert "study s means something else" in refused.stderr, "as the sweep would say"


@pytest.mark.long
def test_a_value_that_comes_to_a_study_with_further_seeds_has_its_least(tmp_path: Path) -> None:
    replicas = "hydra.sweeper.replicas={least: 2, most: 4}"
    assert stub(tmp_path, "+x=1,2", "+seed=0", replicas).returncode == 0
    known = lines_of(stub(tmp_path, "+x=1,2,3", "+seed=0", replicas, DRY))
    assert known["to try"].startswith("3 configurations with 2 to 4 trials each: 2")


@pytest.mark.parametrize(
    ("options", "to_try"),
    [
        (
            ["hydra.sweeper.timeout=90"],
            "trials by random until 1:30 (hydra.sweeper.timeout)",
        ),
        (
            ["hydra.sweeper.n_trials=7", "hydra.sweeper.timeout=90"],
            "7 configurations by random; none starts after 1:30 (hydra.sweeper.timeout)",
        ),
    ],
)
def test_a_sampled_space_is_as_large_as_its_limits(
    options: list[str], to_try: str, tmp_path: Path
) -> None:
    sampled = ["hydra/sweeper/sampler=random", "+x=interval(0,1)", *options]
    assert lines_of(stub(tmp_path, *sampled, DRY))["to try"] == to_try


def test_a_dry_run_makes_no_tables_in_a_server(database: str, tmp_path: Path) -> None:
    import sqlalchemy

    shown = stub(tmp_path, "+x=1,2", f"hydra.sweeper.storage='{database}'", DRY)
    assert lines_of(shown)["to try"] == "2 configurations of a grid of 2"
    url = database.replace("postgresql://", "postgresql+psycopg://")
    engine = sqlalchemy.create_engine(url)
    assert not sqlalchemy.inspect(engine).get_table_names()
    engine.dispose()
