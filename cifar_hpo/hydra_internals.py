"""What is used of Hydra beyond its documented interface.

tests/test_hydra_internals.py says what broke when a new Hydra changes one of these.
"""

from __future__ import annotations

from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn


def return_value(returned: JobReturn) -> Any:
    """What a job returned or raised; Hydra's own property prints and raises the latter."""
    return returned._return_value  # noqa: SLF001


def parsed_value(override: Override) -> Any:
    """What Hydra's parser made of an override's text; its own `value()` forgets quotes."""
    return override._value  # noqa: SLF001
