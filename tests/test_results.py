"""`python -m cifar_hpo.results`, on the terminal and into a file."""

from __future__ import annotations

from pathlib import Path

import optuna
from results.laid_out import lay_out_article, lay_out_optimizers
from support import call_in, lay_out, run_in

from cifar_hpo.results.__main__ import main as results
from cifar_hpo.results.document import BEGIN, END

KEPT_SEARCH = "README.md keeps its part best_cnn: of best_cnn, best_cnn_final not all are here\n"


def test_the_tables_say_what_the_studies_show(tmp_path: Path) -> None:
    lay_out_article(tmp_path)
    lay_out_optimizers(tmp_path)
    shown = run_in(tmp_path, module="cifar_hpo.results")
    assert shown.returncode == 0, shown.stderr
    assert "accuracy rises as the kernel shrinks | **wrong** | 5 over 7: -0.0" in shown.stdout
    assert "| depth | 15 models | 0 | 29 min for 3 |" in shown.stdout
    assert "\n| nesterov | 0.03 | 0." in shown.stdout
    assert "\n\n**final: model=enhanced** on small\n\n- " in shown.stdout
    assert shown.stdout.endswith("shows each.\n")


def test_they_go_into_a_file_part_by_part_and_nowhere_else(tmp_path: Path) -> None:
    lay_out_article(tmp_path)
    lay_out_optimizers(tmp_path)
    readme = tmp_path / "README.md"
    old = "<!-- optimizers -->\nold\n<!-- best_cnn -->\n- elsewhere\n\n- 0.9\n"
    readme.write_text(f"before\n{BEGIN}\n{old}{END}\nafter\n")
    shown = call_in(tmp_path, results, "--readme", "README.md")
    assert (shown.returncode, shown.stderr) == (0, KEPT_SEARCH)
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\n<!-- article -->\n\n| study |")
    assert text.endswith(f"shows each.\n\n{END}\nafter\n")
    assert "old" not in text
    assert "| p < 0.0001 " in text.partition("<!-- optimizers -->\n\n| optimizer |")[2]
    kept = "\n\n<!-- best_cnn -->\n\n- elsewhere\n\n- 0.9\n\n<!-- final -->\n\n**final: "
    assert kept in text, "a part without its studies here stays"


def test_a_part_stays_where_one_of_its_studies_is_missing(tmp_path: Path) -> None:
    storage = lay_out_article(tmp_path)
    optuna.delete_study(study_name="depth", storage=storage)
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n<!-- article -->\nelsewhere\n{END}\n")
    shown = call_in(tmp_path, results, "--readme", "README.md")
    assert shown.stderr.startswith("README.md keeps its part article: of neuron_count, ")
    assert readme.read_text().startswith(f"{BEGIN}\n\n<!-- article -->\n\nelsewhere\n\n")


def test_a_file_without_a_place_for_them_is_refused_on_one_line(tmp_path: Path) -> None:
    lay_out_article(tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("no place")
    refused = call_in(tmp_path, results, "--readme", "README.md")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert readme.read_text() == "no place"


def test_without_studies_it_says_how_to_get_them(tmp_path: Path) -> None:
    refused = call_in(tmp_path, results)
    assert refused.returncode == 2
    assert "studies.db is not here" in refused.stderr
    lay_out(tmp_path, [], "neuron_count")
    refused = call_in(tmp_path, results)
    assert refused.returncode == 2
    assert "python -m cifar_hpo -cn neuron_count makes one" in refused.stderr
