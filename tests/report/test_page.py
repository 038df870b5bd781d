"""The page and what the command prints, of studies laid out in a real storage."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from support import call_in, lay_out

from cifar_hpo.analysis.comparison import compare_study
from cifar_hpo.report.__main__ import main
from cifar_hpo.report.charts import Chart
from cifar_hpo.report.page import draw_sections, to_svg
from cifar_hpo.report.style import INK
from cifar_hpo.study.storage import open_storage

PRUNED_APP = """
import hydra
from cifar_hpo import trial

@hydra.main(version_base="1.3", config_path=None)
def app(config):
    for epoch in (1, 2, 3):
        trial.report(trial.Progress(epoch, 3, config.x * epoch))
    return config.x * 3

if __name__ == "__main__":
    app()
"""

CHARTS = {"effect_model.filters", "timeline", "history", "trade_off"}
"""Those of a study of one parameter without runs."""


def report(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call_in(folder, main, *arguments)


def page_of(folder: Path, study: str = "laid") -> str:
    path = folder / "mlruns" / "reports" / study / "report.html"
    return path.read_text(encoding="utf-8")


def pictures_of(folder: Path, study: str = "laid") -> set[str]:
    return {path.stem for path in (folder / "mlruns" / "reports" / study).glob("*.png")}


def test_the_page_has_the_charts_and_nothing_from_the_network(tmp_path: Path) -> None:
    jitter = np.random.default_rng(0).normal(0, 0.003, (3, 5))
    jitter -= jitter.mean(axis=1, keepdims=True)
    outcomes = []
    for place, (width, mean) in enumerate({"4": 0.57, "8": 0.699, "16": 0.70}.items()):
        outcomes.append(({"model.filters": width}, list(mean + jitter[place])))
    lay_out(tmp_path, outcomes)
    shown = report(tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^1 +16 .* best ", shown.stdout, re.MULTILINE)
    assert "Tied with filters=16, as far as these replicas can tell: filters=8 " in shown.stdout
    assert shown.stdout.endswith("page: mlruns/reports/laid/report.html\n")
    page = page_of(tmp_path)
    reference = r"""(src|href)=["']?(https?:)?//|url\(["']?http|<script|<link|@import"""
    assert not re.search(reference, page)
    assert "prefers-color-scheme: dark" in page
    assert 'id="effect_model.filters"' in page
    assert 'id="timeline"' in page
    assert "currentColor" in page
    assert "not drawn" not in page
    assert pictures_of(tmp_path) == CHARTS


def test_a_study_of_many_parameters_calls_its_trials_by_number_and_draws_what_varies(
    tmp_path: Path,
) -> None:
    fixed = {f"+fixed_{place}": 1 for place in range(6)}
    outcomes = []
    for width, value in (("4", 0.6), ("8", 0.61)):
        outcomes.append(({**fixed, "model.filters": width}, [value]))
    lay_out(tmp_path, outcomes)
    shown = report(tmp_path)
    assert re.search(r"^rank +trial +configuration +val_accuracy", shown.stdout)
    assert "trial 1 is ahead of trial 0 by 0.0100" in shown.stdout
    assert pictures_of(tmp_path) == CHARTS


@pytest.mark.parametrize(
    ("outcomes", "sentence"),
    [
        ([], "No trial has finished"),
        ([({"a": "1"}, [0.5])], "One configuration finished: a=1, val_accuracy 0.5000 (with one"),
        ([({"a": "1"}, [0.5]), ({"a": "2"}, [0.6])], "a=2 is ahead of a=1 by 0.1000"),
        (
            [
                ({"a": "1"}, "diverged: loss nan, val_loss nan"),
                ({"a": "2"}, "<b>worker killed</b>"),
            ],
            "No trial has finished",
        ),
        (
            [({"a": "1"}, "diverged: loss nan, val_loss nan"), ({"a": "2"}, [0.6, 0.6])],
            "One configuration finished: a=2",
        ),
    ],
)
def test_studies_with_few_trials_or_only_failures(
    tmp_path: Path, outcomes: Any, sentence: str
) -> None:
    lay_out(tmp_path, outcomes)
    shown = report(tmp_path, "laid")
    assert shown.returncode == 0, shown.stderr
    assert sentence in shown.stdout
    page = page_of(tmp_path)
    has_diverged = any("diverged" in str(values) for _, values in outcomes)
    assert ("diverged: loss nan" in page) == has_diverged
    assert "<b>worker" not in page
    assert "not drawn" not in page


def test_values_that_are_no_numbers_have_a_page(tmp_path: Path) -> None:
    lay_out(tmp_path, [({"a": "1"}, [0.5]), ({"a": "2"}, "")])
    assert report(tmp_path).returncode == 0


def test_what_was_pruned_when(tmp_path: Path) -> None:
    """A real study with a pruner, of a task that is not ours."""
    (tmp_path / "app.py").write_text(PRUNED_APP)
    command = [
        sys.executable,
        "app.py",
        "-m",
        "hydra/sweeper=study",
        "hydra/launcher=workers",
        "hydra/sweeper/pruner=median",
        "hydra.sweeper.metric=y",
        "hydra.sweeper.pruner.n_startup_trials=1",
        "hydra.launcher.n_workers=1",
        "+x=3,2,1,0",
    ]
    swept = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert swept.returncode == 0, swept.stderr
    shown = report(tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert len(re.findall(r" PRUNED after epoch 1 of 3 by median", shown.stdout)) == 3
    storage = open_storage(f"sqlite:///{tmp_path}/mlruns/studies.db")
    page = page_of(tmp_path, compare_study(None, storage).name)
    assert 'id="pruning"' in page
    assert "not drawn" not in page


@pytest.mark.long
def test_a_study_of_500_trials_in_ten_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    outcomes = []
    for place in range(500):
        a, b, c = place // 50, place // 5 % 10, place % 5
        values = 0.5 + a / 100 + rng.normal(0, 0.01, 3)
        outcomes.append(({"a": str(a), "b": str(b), "c": str(c)}, list(values)))
    lay_out(tmp_path, outcomes)
    shown = report(tmp_path)
    assert shown.returncode == 0, shown.stderr
    page = page_of(tmp_path)
    assert page.count("<tr>") >= 500
    assert {'id="importance"', 'id="parallel_coordinates"'} <= set(re.findall(r'id="\w+"', page))
    assert "not drawn" not in page


def test_what_is_not_there_is_said_on_one_line(tmp_path: Path) -> None:
    shown = report(tmp_path)
    assert shown.returncode == 2
    assert shown.stderr.startswith("error: mlruns/studies.db is not here")
    lay_out(tmp_path, [])
    shown = report(tmp_path, "other")
    assert shown.returncode == 2
    assert shown.stderr == "error: there is no study other; there are: laid\n"


def test_without_its_mlflow_store_the_report_says_what_it_lacks(tmp_path: Path) -> None:
    lay_out(tmp_path, [({"a": "1"}, [0.5])])
    shown = report(tmp_path, "--tracking-uri", f"sqlite:///{tmp_path}/gone.db")
    assert shown.returncode == 0, shown.stderr
    assert "without curves and images: MLflow's store" in shown.stdout


def test_a_chart_that_cannot_be_drawn_does_not_cost_the_others(tmp_path: Path) -> None:
    def broken() -> Figure:
        raise ValueError("no data")

    charts = [
        Chart("One section", "broken", "of the first", broken),
        Chart("One section", "drawn", "of the second", plt.figure),
    ]
    sections = draw_sections(charts, tmp_path)
    assert list(sections) == ["One section"]
    section = sections["One section"]
    assert section.explanation == "of the first"
    assert section.missing == ["broken: ValueError: no data"]
    assert [picture.name for picture in section.pictures] == ["drawn"]
    assert [path.name for path in tmp_path.iterdir()] == ["drawn.png"]


def test_a_chart_on_a_page_has_the_page_s_ink_and_ids_of_its_own() -> None:
    figure, axes = plt.subplots()
    axes.plot([0, 1], [0, 1], color=INK, label="line")
    svg = to_svg(figure, "chart")
    plt.close(figure)
    assert svg.startswith("<svg")
    assert INK not in svg
    assert "currentColor" in svg
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert ids
    assert all(name.startswith("chart-") for name in ids)
    references = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg)
    for linked, painted in references:
        assert (linked or painted) in ids
