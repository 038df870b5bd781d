"""Which of a dataset's images a value is measured on: SPLIT_KEYS decide it, `split_of` has them of
a config."""

from __future__ import annotations

from collections.abc import Mapping

SPLIT_KEYS = ("data.validation", "data.split_seed", "data.folds")
"""What decides it, beside the images themselves."""

NULL = "null"


def split_of(settings: Mapping[str, object]) -> dict[str, str]:
    """The values of SPLIT_KEYS, as text, of a flat config whose values may be texts.

    One that is not there is null, which is what earlier versions did that did not know it.
    """
    split = {}
    for key in SPLIT_KEYS:
        text = str(settings.get(key))
        split[key] = NULL if text == "None" else text
    return split


def differing_key(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """The first key by which two splits are of other images; empty where they are of the same."""
    for key in SPLIT_KEYS:
        if not _are_equal(one[key], other[key]):
            return key
    return ""


def _are_equal(first: str, second: str) -> bool:
    """Whether two texts of a config have one value: 0.10 is 0.1."""
    try:
        return float(first) == float(second)
    except ValueError:
        return first == second
