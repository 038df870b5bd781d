"""What a user may say of runs, by `mlflow.tags` and `mlflow.note` of any app: `validate_tags`."""

from __future__ import annotations

import re
from typing import Any

from cifar_hpo.errors import ConfigError

TAG_NAME = re.compile(r"[\w .:/-]+", re.ASCII)
MAX_TAG_NAME, MAX_TAG_LENGTH = 250, 5_000
"""Characters that MLflow's stores take; a note shares its tag with the ranking."""
OUR_TAGS = (
    "attempt",
    "cpu",
    "data",
    "gpu",
    "kind",
    "mlflow.note.content",
    "mlflow.parentRunId",
    "mlflow.runName",
    "overrides",
    "pruned",
    "study",
    "synthetic",
    "trial",
)
"""Those that sweeps and their trials give their runs themselves."""


def validate_tags(tags: Any, note: Any) -> None:
    """Tags that MLflow takes, and no others than a user's; a note that fits into one.

    Both may be None. Raises ConfigError for the first that is wrong.
    """
    if tags is not None and not isinstance(tags, dict):
        problem = f"{str(tags)[:40]} is no mapping; write {{team: vision}}"
        raise ConfigError("mlflow.tags", problem)
    for key, value in (tags or {}).items():
        name = str(key)  # as in {1: a}
        path = f"mlflow.tags.{name}"
        if not TAG_NAME.fullmatch(name) or len(name) > MAX_TAG_NAME:
            problem = f"no tag: up to {MAX_TAG_NAME} letters, digits, blanks and _ - . : / are"
            raise ConfigError(path, problem)
        if name in OUR_TAGS or name.startswith("cifar_hpo."):
            raise ConfigError(path, "a tag that sweeps use; give it another name")
        if not isinstance(value, str | int | float) or len(str(value)) > MAX_TAG_LENGTH:
            problem = f"{str(value)[:40]!r} is no text of up to {MAX_TAG_LENGTH:,} characters"
            raise ConfigError(path, problem)
    if note is not None and not isinstance(note, str):
        raise ConfigError("mlflow.note", f"{str(note)[:40]} is no text")
    if note and len(note) > MAX_TAG_LENGTH:
        raise ConfigError("mlflow.note", f"longer than {MAX_TAG_LENGTH:,} characters")
