"""Where a training stands after an epoch, on disk: `save` leaves a `State`, `load` takes it up
again, weights included."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

STOPPING = ("wait", "stopped_epoch", "best", "best_epoch")


@dataclass(frozen=True)
class State:
    """The metrics of each epoch so far, for each replica; the seconds they took; whether early
    stopping has ended them.

    training: what is trained on what, so that nothing goes on as something else.
    """

    training: str
    epochs: list[list[dict[str, float]]]
    seconds: float
    stopped: bool


def save(path: Path, state: State, model: Any, stopping: Any) -> None:
    """Write state, model, optimizer, random state and early stopping; the checkpoint before stays
    until this one is whole."""
    best = stopping.best_weights or []
    arrays = {f"variable_{n}": np.asarray(one) for n, one in enumerate(_variables(model))}
    arrays |= {f"best_{n}": np.asarray(one) for n, one in enumerate(best)}
    about = asdict(state) | {
        "best": len(best),
        "stopping": {name: getattr(stopping, name, None) for name in STOPPING},
    }
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        arrays["about"] = np.frombuffer(json.dumps(about, default=float).encode(), np.uint8)
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileNotFoundError):
        path.replace(_before(path))
    draft.replace(path)


def load(path: Path, training: str, model: Any, stopping: Any) -> State | None:
    """Put model, optimizer, random state and early stopping where they were.

    A checkpoint that is cut short, garbled or of another training is passed over for the one before
    it; without one, None.
    """
    for file in (path, _before(path)):
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
                about = json.loads(archive["about"].tobytes())
                arrays = [archive[f"variable_{n}"] for n in range(len(_variables(model)))]
                best = [archive[f"best_{n}"] for n in range(about["best"])]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue
        if about.get("training") != training or any(
            array.shape != tuple(variable.shape)
            for array, variable in zip(arrays, _variables(model), strict=True)
        ):
            continue
        for array, variable in zip(arrays, _variables(model), strict=True):
            variable.assign(array)
        for name, value in about["stopping"].items():
            setattr(stopping, name, value)
        stopping.best_weights = best or None
        return State(training, about["epochs"], about["seconds"], about["stopped"])
    return None


def clear(folder: Path) -> None:
    """Remove the checkpoints of a trial that has ended."""
    for file in folder.glob("replica_*.checkpoint*"):
        file.unlink(missing_ok=True)


def _before(path: Path) -> Path:
    return path.with_name(path.name + ".before")


def _variables(model: Any) -> Sequence[Any]:
    return [*model.variables, *model.optimizer.variables]
