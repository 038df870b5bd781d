"""The parts of the results, from studies laid out in a real storage whose truth is known."""

from __future__ import annotations

import re
from pathlib import Path

from results.laid_out import lay_out_article, lay_out_optimizers, lay_out_search

from cifar_hpo.analysis.comparison import compare_study
from cifar_hpo.results.parts import model_card, optimizer_table, parts_of, search


def test_there_is_a_part_for_all_that_has_a_study(tmp_path: Path) -> None:
    lay_out_article(tmp_path)
    storage = lay_out_optimizers(tmp_path)
    studies = ("neuron_count", "final", "optimizer_final")
    parts = parts_of({study: compare_study(study, storage) for study in studies}, None)
    assert list(parts) == ["article", "optimizers", "final", "versions"]
    assert len(parts["article"].split("\n\n")) == 3, "three tables"
    assert parts["versions"].endswith("`python -m cifar_hpo.report STUDY` shows each.")


def test_each_optimizer_stands_at_its_best_learning_rate(tmp_path: Path) -> None:
    table = optimizer_table(compare_study("optimizer_final", lay_out_optimizers(tmp_path)))
    first, second = table.rows
    assert (first[0], first[1], first[4]) == ("nesterov", "0.03", "best")
    assert (second[0], second[1]) == ("adam", "0.001")
    assert second[4] == "p < 0.0001"


def test_a_search_says_how_long_it_took_and_when_it_was_ahead_of_the_article(
    tmp_path: Path,
) -> None:
    storage = lay_out_search(tmp_path)
    comparison = compare_study("best_cnn", storage)
    final = compare_study("best_cnn_final", storage)
    took, passed, together = search(comparison, final).splitlines()
    assert took == (
        "- best_cnn: 4 trials (1 failed, 3 finished) in 10 minutes; best val_accuracy 0.8300"
    ), "what runs side by side counts once"
    assert passed == (
        "- the article's 0.7160 was passed after 10 minutes, by trial 1: 0.7300 on the test images"
    )
    assert together == (
        "- search and final together 15 minutes; the article's eleven models at least 176"
    )
    assert search(comparison, None).count("\n") == 1


def test_a_model_card_says_what_it_is_and_how_good(tmp_path: Path) -> None:
    title, empty, first, second = model_card(
        compare_study("best_cnn_final", lay_out_search(tmp_path)), None
    ).splitlines()
    assert (title, empty) == ("**best_cnn_final** on small", "")
    assert re.fullmatch(
        r"- 1,000 parameters; test accuracy 0\.9000 \(.* – .*\), over 3 seeds", first
    )
    assert second == "- trained in 300 s a seed"


def test_a_card_names_the_configuration_where_several_were_tried(tmp_path: Path) -> None:
    card = model_card(compare_study("final", lay_out_article(tmp_path)), None)
    assert card.startswith("**final: model=enhanced** on small\n\n- ")
