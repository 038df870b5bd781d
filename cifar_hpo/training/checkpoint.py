"""Where a training stands after an epoch, on disk.

`save` writes a `State` beside weights, optimizer and random states, `load` puts all of them back,
`clear` removes the files. `keep` leaves those of a finished training for a longer one, which
`load_kept` begins with.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from cifar_hpo.errors import disk_error, one_line
from cifar_hpo.paths import (
    CHECKPOINT,
    CHECKPOINT_BEFORE,
    CHECKPOINT_DRAFT,
    CHECKPOINTS,
)
from cifar_hpo.training import _keras
from cifar_hpo.training.identity import differ_in_epochs, kept_name
from cifar_hpo.whole_files import whole_file

log = logging.getLogger(__name__)

# The keys of the npz file.
ABOUT = "about"
VARIABLE = "variable_{}"
BEST = "best_{}"

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What reading a file raises that is missing, cut short or garbled."""


@dataclass(frozen=True)
class State:
    """A training after an epoch, without its arrays.

    training: what is trained on what, so that nothing goes on as something else. epochs: the
    metrics of each epoch so far, for each replica. seconds: what they took. stopped: whether early
    stopping has ended them.
    """

    training: str
    epochs: list[list[dict[str, float]]]
    seconds: float
    stopped: bool


@dataclass(frozen=True)
class _Saved:
    """What a file holds. about: State and early stopping, as JSON."""

    about: dict[str, Any]
    variables: list[NDArray[Any]]
    best: list[NDArray[Any]]

    def fits(self, training: str, model: keras.Model) -> bool:
        """Whether it is of this training and this model."""
        return self.about.get("training") == training and self._fits(model)

    def can_be_extended_to(self, training: str, epochs: int, model: keras.Model) -> bool:
        """Whether it is of this training but for its epochs, of which there are no more here."""
        if len(self.about["epochs"]) > epochs or not self._fits(model):
            return False
        return differ_in_epochs(self.about["training"], training)

    def _fits(self, model: keras.Model) -> bool:
        shapes = [array.shape for array in self.variables]
        wanted = [tuple(variable.shape) for variable in _keras.training_variables(model)]
        return shapes == wanted


def save(
    path: Path, state: State, model: keras.Model, stopping: keras.callbacks.EarlyStopping
) -> None:
    """Write state, model, optimizer, random states and early stopping.

    The checkpoint before this one stays until this one is whole, and beside it afterwards. Raises
    OSError where it can't be written; then nothing of it is left, and the one before it is.
    """
    best = _keras.best_weights(stopping)
    arrays: dict[str, NDArray[Any]] = {}
    for number, variable in enumerate(_keras.training_variables(model)):
        arrays[VARIABLE.format(number)] = np.asarray(variable)
    for number, weight in enumerate(best):
        arrays[BEST.format(number)] = np.asarray(weight)
    about = asdict(state) | {"best": len(best), "stopping": _keras.stopping_state(stopping)}
    text = json.dumps(about, default=float)  # early stopping holds NumPy's numbers
    arrays[ABOUT] = np.frombuffer(text.encode(), np.uint8)
    _write(path, arrays)


def _write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    draft = path.with_name(CHECKPOINT_DRAFT.format(checkpoint=path.name))
    with whole_file(path, draft, before=_before(path)) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load(
    path: Path, training: str, model: keras.Model, stopping: keras.callbacks.EarlyStopping
) -> State | None:
    """Put model, optimizer, random states and early stopping where they were.

    A checkpoint that is cut short, garbled or of another training is passed over for the one before
    it. Returns None where neither can be used; then nothing has changed.
    """
    for file in (path, _before(path)):
        saved = _read(file, len(_keras.training_variables(model)))
        if saved and saved.fits(training, model):
            return _restore(saved, model, stopping)
    return None


def _read(file: Path, variables: int) -> _Saved | None:
    """What a file holds, None where it can't be read or holds fewer variables."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            about = json.loads(archive[ABOUT].tobytes())
            arrays = [archive[VARIABLE.format(number)] for number in range(variables)]
            best = [archive[BEST.format(number)] for number in range(about["best"])]
    except UNREADABLE:
        return None
    return _Saved(about, arrays, best)


def _restore(saved: _Saved, model: keras.Model, stopping: keras.callbacks.EarlyStopping) -> State:
    variables = _keras.training_variables(model)
    for array, variable in zip(saved.variables, variables, strict=True):
        variable.assign(array)
    about = saved.about
    _keras.restore_stopping(stopping, about["stopping"], saved.best)
    return State(about["training"], about["epochs"], about["seconds"], about["stopped"])


def clear(folder: Path) -> None:
    """Remove the checkpoints of a trial that has ended."""
    for file in folder.glob(CHECKPOINTS):
        file.unlink(missing_ok=True)


def keep(folder: Path) -> None:
    """Leave of each checkpoint of a finished training the last one, under the name by which a
    longer one looks for it. One that can't be read or renamed is left to be cleared, which is
    warned of."""
    for file in folder.glob(CHECKPOINT.format(replica="*")):
        try:
            with np.load(file, allow_pickle=False) as archive:
                about = json.loads(archive[ABOUT].tobytes())
            file.replace(folder / kept_name(about["training"]))
        except (*UNREADABLE, TypeError) as error:
            cause = disk_error(error) if isinstance(error, OSError) else ""
            log.warning("no checkpoint was kept: %s", cause or one_line(error))


def load_kept(
    folder: Path,
    training: str,
    epochs: int,
    model: keras.Model,
    stopping: keras.callbacks.EarlyStopping,
) -> State | None:
    """Put everything where a training ended that has no more epochs than this one, the longest of
    those that were kept in a folder or below it; None where there is none, and then nothing has
    changed.

    training: the identity of the one that begins. epochs: how many that has.
    """
    longest = None
    for file in folder.rglob(kept_name(training)):
        saved = _read(file, len(_keras.training_variables(model)))
        if saved is None or not saved.can_be_extended_to(training, epochs, model):
            continue
        if longest is None or len(saved.about["epochs"]) > len(longest.about["epochs"]):
            longest = saved
    return _restore(longest, model, stopping) if longest else None


def _before(path: Path) -> Path:
    return path.with_name(CHECKPOINT_BEFORE.format(checkpoint=path.name))
