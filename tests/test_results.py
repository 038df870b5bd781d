"""The README's results, from studies laid out in a real storage whose truth is known."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import optuna
from support import lay_out, run_in

from cifar_hpo.results import ARTICLE, BEGIN, END

JITTER = np.random.default_rng(0).normal(0, 0.004, (3, 5))


def studies(folder: Path) -> None:
    """Neurons that make no difference, kernels that are good where the article says bad, and depths
    as it says."""
    levels = {
        "neuron_count": ("model.filters", {"4": 0.64, "8": 0.64, "16": 0.64}),
        "kernel_size": ("model.kernel_size", {"7": 0.70, "5": 0.68, "3": 0.66}),
        "depth": (
            "model.filters",
            {"[16,32]": 0.60, "[16,32,32,64]": 0.70, "[16,32,32,32,32,64]": 0.65},
        ),
    }
    for name, (key, values) in levels.items():
        lay_out(
            folder,
            [
                ({key: value}, list(level + JITTER[place]))
                for place, (value, level) in enumerate(values.items())
            ],
            name,
        )
    lay_out(
        folder,
        [
            ({"model": value}, list(0.59 + 0.1 * place + JITTER[place]))
            for place, value in enumerate(("base", "enhanced"))
        ],
        "final",
    )
    rates = [
        ("adam", 0.001, 0.70),
        ("adam", 0.01, 0.60),
        ("nesterov", 0.03, 0.71),
        ("nesterov", 0.001, 0.50),
    ]
    outcomes = [
        ({"optimizer": name, "optimizer.learning_rate": rate}, list(level + JITTER[0]))
        for name, rate, level in rates
    ]
    lay_out(folder, outcomes, "optimizer_seeds")


def test_the_tables_say_what_the_studies_show(tmp_path: Path) -> None:
    studies(tmp_path)
    shown = run_in(tmp_path, module="cifar_hpo.results")
    assert shown.returncode == 0, shown.stderr
    assert "accuracy rises with the neurons in each layer | **not shown** |" in shown.stdout
    assert "accuracy rises as the kernel shrinks | **wrong** | 5 over 7: -0.0" in shown.stdout
    assert "four layers beat two and six | **confirmed** |" in shown.stdout
    tests = 0.64 - 0.01 + JITTER[0]
    row = next(line for line in shown.stdout.splitlines() if "4, 8, 16 neurons" in line)
    assert f"| 0.6339 | {tests.mean():.4f} (" in row
    assert f"| {tests.min():.4f} – {tests.max():.4f} | " in row
    assert row.endswith("| yes |" if tests.min() <= 0.6339 <= tests.max() else " |")
    assert re.search(r"kernel 7; .* \| 0\.6469 \| .* no, 0\.0\d\d below \|", shown.stdout)
    assert "| depth | 15 models | 0 | 29 min for 3 |" in shown.stdout
    assert "| at least 52 min for 3 | at most " in shown.stdout, (
        "one of its notebooks' times is not known"
    )
    assert re.search(
        r"^\| nesterov \| 0\.03 \| 0\.\d+ \(.*\) \| .* \| best \|\n\| adam \| 0\.001 \| .* \| p = ",
        shown.stdout,
        re.MULTILINE,
    )


def test_a_search_says_how_long_it_took_and_when_it_was_ahead_of_the_article(
    tmp_path: Path,
) -> None:
    found = [
        ({"model.filters": 16}, [0.71]),
        ({"model.filters": 32}, [0.74]),
        ({"model.filters": 64}, "diverged"),
        ({"model.filters": 48}, [0.83]),
    ]
    lay_out(tmp_path, found, "best_cnn", seconds=600)
    lay_out(tmp_path, [({}, [0.90, 0.91, 0.92])], "best_cnn_final", seconds=900)
    shown = run_in(tmp_path, module="cifar_hpo.results").stdout
    assert (
        "- best_cnn: 4 trials (1 failed, 3 finished) in 10 minutes; best val_accuracy 0.8300\n"
        in shown
    ), "what runs side by side counts once"
    assert "0.7160 was passed after 10 minutes, by trial 1: 0.7300 on the test images\n" in shown
    assert (
        "search and final together 15 minutes; the article's eleven models at least 176\n" in shown
    )
    assert "test accuracy 0.9000 (" in shown


def test_they_go_into_a_file_part_by_part_and_nowhere_else(tmp_path: Path) -> None:
    studies(tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text(
        f"before\n{BEGIN}\n<!-- optimizers -->\nold\n<!-- best_cnn -->\n- elsewhere\n\n- "
        f"0.9\n{END}\nafter\n"
    )
    texts = []
    for _ in range(2):
        shown = run_in(tmp_path, "--readme", "README.md", module="cifar_hpo.results")
        assert (shown.returncode, shown.stderr) == (
            0,
            "README.md keeps its part best_cnn: of best_cnn, best_cnn_final not all are here\n",
        )
        texts.append(readme.read_text())
    assert texts[0] == texts[1]
    assert texts[0].startswith(f"before\n{BEGIN}\n\n<!-- article -->\n\n| study |")
    assert texts[0].endswith(f"shows each.\n\n{END}\nafter\n")
    assert "old" not in texts[0]
    assert "| p = " in texts[0].partition("<!-- optimizers -->\n\n| optimizer |")[2]
    assert (
        "\n\n<!-- best_cnn -->\n\n- elsewhere\n\n- 0.9\n\n<!-- final -->\n\n**final: "
        "model=enhanced** on small\n\n" in texts[0]
    ), "a part without its studies here stays"
    optuna.delete_study(study_name="depth", storage=f"sqlite:///{tmp_path}/mlruns/studies.db")
    readme.write_text(texts[0].replace("| depth |", "| elsewhere |"))
    shown = run_in(tmp_path, "--readme", "README.md", module="cifar_hpo.results")
    assert "README.md keeps its part article" in shown.stderr
    assert readme.read_text() == texts[0].replace("| depth |", "| elsewhere |")
    readme.write_text("no place")
    refused = run_in(tmp_path, "--readme", "README.md", module="cifar_hpo.results")
    assert (refused.returncode, refused.stderr.count("\n"), readme.read_text()) == (
        2,
        1,
        "no place",
    )


def test_without_studies_it_says_how_to_get_them(tmp_path: Path) -> None:
    refused = run_in(tmp_path, module="cifar_hpo.results")
    assert refused.returncode == 2
    assert "studies.db is not here" in refused.stderr


def test_the_rows_are_the_cells_of_the_sweeps() -> None:
    for row in ARTICLE:
        sweep = (Path(__file__).parents[1] / "sweeps" / f"{row.study}.yaml").read_text()
        assert re.search(rf"model[.\w]*: .*{re.escape(str(row.value))}", sweep), row
