"""A trial's model as a file for another runtime: `export_run_model` writes it by Keras' own
`Model.export`, and keeps it only where it predicts what Keras predicts.

A `Format` says what a file's runtime needs, and how it is asked for predictions.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_hpo import processor
from cifar_hpo.console import stderr_redirected
from cifar_hpo.errors import TrialError, UserError, named_line
from cifar_hpo.paths import EXPORT_ABOUT, EXPORT_DRAFT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifar_hpo.tracking.reader import LoadedModel, RunReader

MAX_CHECKED = 100
"""Images on which an exported model is compared with Keras' own."""

ROUNDING = {"float32": 1e-4, "bfloat16": 5e-2}
"""How far predictions may differ by the arithmetic of the model as it was trained: of the largest
prediction, or of 1 where that is less. Sums in another order differ by some 1e-6; a number in
bfloat16 has eight digits of two, so that a layer alone differs by 4e-3."""

BFLOAT16 = ("mixed_bfloat16", "bfloat16")
"""Names of it in a Keras model's config."""


@dataclass(frozen=True)
class Runtime:
    """An exported file that another library has loaded.

    dtype: of the images that it takes, which may be float32 where the dataset's are uint8. predict:
    its predictions of images of that dtype, as Keras' own `predict` has them.
    """

    dtype: str
    predict: Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Format:
    """A format of `Model.export`.

    artifact: the name of its file or folder. extra: the extra of this package that brings what it
    needs, which is `modules`; empty where TensorFlow is enough. has_bfloat16: whether it can hold a
    model's arithmetic in bfloat16; else that is float32 in it. load: gives the artifact to the
    library that it is for.
    """

    artifact: str
    extra: str
    modules: tuple[str, ...]
    has_bfloat16: bool
    load: Callable[[Path], Runtime]


def _load_by_tensorflow(artifact: Path) -> Runtime:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(artifact))
    _, inputs = loaded.signatures["serving_default"].structured_input_signature
    (spec,) = inputs.values()

    def predict(images: NDArray[Any]) -> NDArray[Any]:
        predictions: NDArray[Any] = loaded.serve(images).numpy()
        return predictions

    return Runtime(spec.dtype.name, predict)


ONNX_DTYPES = {"float": "float32", "double": "float64"}
"""NumPy's names of dtypes that are called otherwise there."""


def _load_by_onnxruntime(artifact: Path) -> Runtime:
    # Both of an extra; tf2onnx writes also what it could not convert, which the check tells best.
    importlib.import_module("onnx.checker").check_model(str(artifact))
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(artifact), providers=["CPUExecutionProvider"])
    (spec,) = session.get_inputs()
    dtype = spec.type.removeprefix("tensor(").removesuffix(")")

    def predict(images: NDArray[Any]) -> NDArray[Any]:
        predictions: NDArray[Any] = session.run(None, {spec.name: images})[0]
        return predictions

    return Runtime(ONNX_DTYPES.get(dtype, dtype), predict)


def _load_by_litert(artifact: Path) -> Runtime:
    interpreter = importlib.import_module("ai_edge_litert.interpreter")  # of an extra
    runner = interpreter.Interpreter(str(artifact)).get_signature_runner()
    ((name, spec),) = runner.get_input_details().items()

    def predict(images: NDArray[Any]) -> NDArray[Any]:
        predictions: NDArray[Any]
        (predictions,) = runner(**{name: images}).values()
        return predictions

    return Runtime(spec["dtype"].__name__, predict)


FORMATS: Mapping[str, Format] = {
    "tf_saved_model": Format("saved_model", "", (), has_bfloat16=True, load=_load_by_tensorflow),
    "onnx": Format(
        "model.onnx",
        "onnx",
        ("onnx", "tf2onnx", "onnxruntime"),
        has_bfloat16=False,
        load=_load_by_onnxruntime,
    ),
    "litert": Format(
        "model.tflite",
        "litert",
        ("ai_edge_litert",),
        has_bfloat16=False,
        load=_load_by_litert,
    ),
}
"""By the names that Keras gives them."""


@dataclass(frozen=True)
class Exported:
    """A model that was exported and checked.

    checked: on what. difference: the largest between a prediction of it and of Keras' own.
    is_float32: whether it computes in that, where the model computed in bfloat16.
    """

    title: str
    path: Path
    checked: str
    difference: float
    is_float32: bool

    @property
    def sentence(self) -> str:
        arithmetic = ", in float32" if self.is_float32 else ""
        return (
            f"{self.title}: {self.path}{arithmetic}; on {self.checked} its predictions differ from "
            f"Keras' own by {self.difference:.2g} at most"
        )


@dataclass(frozen=True)
class CheckImages:
    """What predictions are compared on, and what it is to a user."""

    images: NDArray[Any]
    title: str


def export_run_model(
    run_id: str, tracking_uri: str | None, name: str, output: Path, *, title: str
) -> Exported:
    """Export the model of a run in a format of FORMATS, and return where it lies.

    output: the folder, made here; beside the artifact lies `ARTIFACT.json`, which says what goes in
    and comes out. title: of the model to a user. Raises UserError where an extra is missing or the
    format can't have the model, StudyError where the run has none, TrialError where predictions
    differ by more than rounding, whereupon nothing is left.
    """
    form = FORMATS[name]
    _check_installed(name, form)
    processor.set_tensorflow_switches()
    from cifar_hpo.tracking.reader import runs_read

    with runs_read(tracking_uri) as runs:
        loaded = runs.model(run_id, None)
        check = _check_images(runs, run_id, loaded)
    return export_model(loaded, name, output, check, title=title)


def _check_installed(name: str, form: Format) -> None:
    missing = [module for module in form.modules if importlib.util.find_spec(module) is None]
    if missing:
        command = f"pip install 'cifar_hpo[{form.extra}]'"
        raise UserError(f"--format: {name} needs {', '.join(missing)}; {command}")


def export_model(
    loaded: LoadedModel, name: str, output: Path, check: CheckImages, *, title: str
) -> Exported:
    """The same for a model that was loaded."""
    import numpy as np

    form = FORMATS[name]
    model: Any = loaded.model
    path = output / form.artifact
    _check_replaceable(path)
    with _draft_folder(output) as folder, _one_line(title, name), _quiet():
        own = model.predict(check.images, verbose=0)
        was_bfloat16 = _computes_in_bfloat16(model)
        is_float32 = was_bfloat16 and not form.has_bfloat16
        if is_float32:
            model = _in_float32(model)
            model.predict(check.images[:1], verbose=0)  # exports want it to have been called
        draft = folder / form.artifact
        model.export(str(draft), format=name, verbose=False)
        runtime = form.load(draft)
        predictions = runtime.predict(_in_dtype(check.images, runtime.dtype))
        is_alike = predictions.shape == own.shape
        difference = float(np.abs(predictions - own).max()) if is_alike else np.inf
        limit = ROUNDING["bfloat16" if was_bfloat16 else "float32"]
        if not difference <= limit * max(1.0, float(np.abs(own).max())):  # it may be nan
            raise TrialError(
                f"{title} as {name}: on {check.title} its predictions differ from Keras' own by "
                f"{difference:.2g}, which is more than rounding; nothing was written"
            )
        described = _about(loaded, check, runtime.dtype, own, title)
        described["checked"] = {"on": check.title, "largest_difference": difference}
        about = folder / EXPORT_ABOUT.format(artifact=form.artifact)
        about.write_text(json.dumps(described, indent=1) + "\n")
        _put_in_place(draft, path)
        _put_in_place(about, output / about.name)
    return Exported(title, path, check.title, difference, is_float32)


def _check_images(runs: RunReader, run_id: str, loaded: LoadedModel) -> CheckImages:
    """Test images of the model's dataset where it was decoded in this folder, else noise."""
    import numpy as np

    from cifar_hpo.data.dataset import find_decoded

    digest = runs.dataset_digest(run_id)
    dataset = find_decoded(digest) if digest else None
    if dataset is not None:
        images = np.array(dataset.test[0][:MAX_CHECKED])  # no longer mapped from the file
        return CheckImages(images, f"{len(images)} test images of {dataset.name}")
    drawn = noise((MAX_CHECKED, *loaded.shape), loaded.dtype)
    return CheckImages(drawn, f"{MAX_CHECKED} images of noise (its dataset is not here)")


def noise(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Images drawn from a seed; whole numbers up to 255, others from 0 to 1."""
    import numpy as np

    rng = np.random.default_rng(0)
    if dtype.startswith(("int", "uint")):
        return rng.integers(0, 256, shape).astype(dtype)
    return rng.random(shape).astype(dtype)


def _in_dtype(images: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Images in the dtype that a file takes, where that holds each of their numbers, as Keras takes
    them; else as they are, for the file's library to refuse."""
    import numpy as np

    if np.can_cast(images.dtype, dtype):
        return images.astype(dtype)
    return images


def _computes_in_bfloat16(layer: Any) -> bool:
    """Whether a layer does, or one of the layers that a model consists of."""
    if layer.compute_dtype == "bfloat16":
        return True
    return any(_computes_in_bfloat16(part) for part in getattr(layer, "layers", []))


def _in_float32(model: Any) -> Any:
    """A model of the same weights, which are float32 in either, that computes in float32."""
    copied = type(model).from_config(_with_float32(model.get_config()))
    copied.set_weights(model.get_weights())
    return copied


def _with_float32(config: Any) -> Any:
    """A Keras model's config with float32 in the place of bfloat16."""
    if isinstance(config, Mapping):
        return {key: _with_float32(child) for key, child in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_with_float32(child) for child in config)
    return "float32" if config in BFLOAT16 else config


def _about(
    loaded: LoadedModel, check: CheckImages, dtype: str, own: NDArray[Any], title: str
) -> dict[str, Any]:
    """What goes into a model, of this dtype, and what comes out."""
    return {
        "model": title,
        "input": {"shape": [None, *check.images.shape[1:]], "dtype": dtype},
        "output": {"shape": [None, *own.shape[1:]], "dtype": str(own.dtype)},
        "classes": loaded.classes,
    }


def _check_replaceable(path: Path) -> None:
    """Raise UserError where an earlier export has not left what lies there."""
    if path.is_dir() and not (path / "saved_model.pb").is_file():
        raise UserError(f"--output: {path} is a folder of something else; name another")


@contextlib.contextmanager
def _draft_folder(output: Path) -> Iterator[Path]:
    """Where an export is made, on the disk of `output`, which stays as it is until then."""
    there = next(folder for folder in (output, *output.absolute().parents) if folder.is_dir())
    with tempfile.TemporaryDirectory(prefix=EXPORT_DRAFT, dir=there) as folder:
        yield Path(folder)


def _put_in_place(draft: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    draft.replace(path)


@contextlib.contextmanager
def _one_line(title: str, name: str) -> Iterator[None]:
    """Raise UserError in place of what Keras and the converters raise, which share no base."""
    try:
        yield
    except (UserError, TrialError, OSError):
        raise
    except Exception as error:  # noqa: BLE001
        cause = named_line(error, 160)
        problem = f"{title} can't be exported as {name} ({cause})"
        raise UserError(f"{problem}; choose another --format") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discard what the converters warn of and write to stderr."""
    with warnings.catch_warnings(), stderr_redirected(os.devnull):
        warnings.simplefilter("ignore")
        yield
