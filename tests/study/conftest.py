"""A folder for each study, since its storage lies in the current one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import parse_space

from cifar_hpo.study.space import Space


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def space() -> Callable[..., Space]:
    return parse_space
