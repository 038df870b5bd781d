"""The article's figures as data, beside the named studies that try them again."""

from __future__ import annotations

import re

from cifar_hpo.paths import SWEEPS
from cifar_hpo.results.article import CLAIMS, ENHANCED, ROWS, STUDIES


def test_the_rows_are_the_cells_of_the_sweeps() -> None:
    for row in ROWS:
        sweep = (SWEEPS / f"{row.study}.yaml").read_text(encoding="utf-8")
        assert re.search(rf"model[.\w]*: .*{re.escape(str(row.value))}", sweep), row


def test_the_claims_are_about_rows() -> None:
    values = {(row.study, row.value) for row in ROWS}
    for claim in CLAIMS:
        assert claim.study in STUDIES
        for better, worse in claim.pairs:
            assert {(claim.study, better), (claim.study, worse)} <= values


def test_the_enhanced_model_is_the_best_of_the_last_table() -> None:
    last_table = [row for row in ROWS if row.study == ENHANCED.study]
    assert max(last_table, key=lambda row: row.accuracy) is ENHANCED
