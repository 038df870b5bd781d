"""Models as files for other runtimes: each format that is installed here, and what is refused.

The command on a real study is in test_api.py.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import composed

from cifar_hpo import export, processor
from cifar_hpo.config.validation import validate_config
from cifar_hpo.errors import TrialError, UserError
from cifar_hpo.export import FORMATS, CheckImages, export_model, noise
from cifar_hpo.tracking.reader import LoadedModel
from cifar_hpo.training.compiled import keras_model
from cifar_hpo.training.signature import Signature

IMAGES = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), np.uint8)
CLASSES = [f"class {number}" for number in range(10)]


def built(*overrides: str) -> keras.Model:
    """A model as its run keeps it, not trained."""
    small = ["model.filters=4", "model.kernel_size=3", "model.dense_units=16"]
    return keras_model(validate_config(composed(*small, *overrides)), Signature(10))


def exported(
    model: keras.Model, name: str, output: Path, images: np.ndarray = IMAGES
) -> export.Exported:
    loaded = LoadedModel("a model", model, CLASSES, (32, 32, 3), 255, "classes")
    check = CheckImages(images, "100 images")
    return export_model(loaded, name, output, check, title="trial 3 of study s")


def needs(name: str) -> None:
    """Skip a test of a format whose extra is not installed."""
    form = FORMATS[name]
    for module in form.modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs pip install 'cifar_hpo[{form.extra}]'")


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> str:
    needs(request.param)
    return str(request.param)


KINDS: dict[str, list[str]] = {
    "base": [],
    "whitening, mirror, shift and batch norm": [
        "model.whitening=true",
        "model.mirror=true",
        "model.shift=true",
        "model.batch_norm=true",
    ],
    "residual, dropout and global pooling": [
        "model.residual=true",
        "model.convolutions=2",
        "model.dropout=0.2",
        "model.global_pooling=average",
        "model.activation=silu",
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_predicts_the_same_from_its_file(
    kind: str, form: str, tmp_path: Path
) -> None:
    model = built(*KINDS[kind])
    made = exported(model, form, tmp_path / "deep" / "here")
    assert made.path == tmp_path / "deep" / "here" / FORMATS[form].artifact
    assert made.difference < 1e-5
    again = FORMATS[form].load(made.path).predict(IMAGES[:7])
    assert again == pytest.approx(model.predict(IMAGES[:7], verbose=0), abs=1e-5)
    about = json.loads(made.path.with_name(f"{made.path.name}.json").read_text())
    assert about["classes"] == CLASSES
    assert about["output"] == {"shape": [None, 10], "dtype": "float32"}
    assert about["checked"]["largest_difference"] == made.difference
    assert {path.name for path in made.path.parent.iterdir()} == {
        made.path.name,
        f"{made.path.name}.json",
    }


@pytest.mark.skipif(not processor.can_compute_in_bfloat16(), reason="no bfloat16 here")
def test_a_model_in_bfloat16_is_exported_in_float32_where_the_format_has_no_other(
    form: str, tmp_path: Path
) -> None:
    model = built("training.precision=mixed_bfloat16", "model.mirror=true")
    keras.mixed_precision.set_dtype_policy("float32")
    made = exported(model, form, tmp_path)
    assert made.is_float32 == (form != "tf_saved_model")
    assert (", in float32; on" in made.sentence) == made.is_float32
    assert made.difference < 0.02


def test_an_operation_that_a_converter_has_not_is_named(tmp_path: Path) -> None:
    needs("onnx")
    with pytest.raises(UserError) as raised:
        exported(built("model.activation=gelu"), "onnx", tmp_path / "out")
    said = str(raised.value)
    assert said.startswith("trial 3 of study s can't be exported as onnx (ValidationError: No Op ")
    assert "Erfc" in said
    assert said.endswith("; choose another --format")
    assert list(tmp_path.iterdir()) == []


def other_model(dtype: str) -> keras.Model:
    """A user's: other sizes, one channel, a number as its output."""
    inputs = keras.Input((20, 12, 1), dtype=dtype)
    x = keras.layers.Conv2D(3, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(1)(x))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_model_of_other_images_and_another_output_is_exported(
    dtype: str, form: str, tmp_path: Path
) -> None:
    model = other_model(dtype)
    drawn = noise((100, 20, 12, 1), dtype)
    assert drawn.shape == (100, 20, 12, 1)
    assert drawn.dtype == dtype
    assert exported(model, form, tmp_path, drawn).difference < 1e-4
    (about,) = tmp_path.glob("*.json")
    assert json.loads(about.read_text())["input"] == {"shape": [None, 20, 12, 1], "dtype": dtype}


class Subclassed(keras.Model):  # type: ignore[misc]
    """A user's model without a graph of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.scaled = keras.layers.Rescaling(1 / 255)
        self.convolution = keras.layers.Conv2D(3, 3, activation="relu")
        self.pooled = keras.layers.GlobalAveragePooling2D()
        self.dense = keras.layers.Dense(4, activation="softmax")

    def call(self, images: Any) -> Any:
        return self.dense(self.pooled(self.convolution(self.scaled(images))))


KERAS_OWN = "of keras.applications"
USERS: dict[str, Callable[[], keras.Model]] = {
    "functional, float32": lambda: other_model("float32"),
    "subclassed": Subclassed,
    KERAS_OWN: lambda: keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, weights=None, classes=10
    ),
}
"""Users' models that take float32, as Keras' inputs do unless said, of datasets in uint8."""


@pytest.mark.parametrize(
    "kind",
    ["functional, float32", "subclassed", pytest.param(KERAS_OWN, marks=pytest.mark.long)],
)
def test_a_user_s_model_that_takes_float32_is_exported_with_images_in_uint8(
    kind: str, form: str, tmp_path: Path
) -> None:
    model = USERS[kind]()
    shape = (100, 32, 32, 3) if kind == KERAS_OWN else (100, 20, 12, 1)
    images = noise(shape, "uint8")
    assert exported(model, form, tmp_path, images).difference < 1e-4
    (about,) = tmp_path.glob("*.json")
    described = json.loads(about.read_text())["input"]
    assert described["shape"] == [None, *shape[1:]]
    file = FORMATS[form].load(about.with_name(FORMATS[form].artifact))
    assert described["dtype"] == file.dtype
    own = model.predict(images[:5], verbose=0)
    given = images[:5].astype(file.dtype)
    assert file.predict(given) == pytest.approx(own, abs=1e-4)


def test_a_file_that_predicts_otherwise_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    form, model = FORMATS["tf_saved_model"], other_model("uint8")
    for wrong in (0.01, np.nan):

        def load(path: Path, wrong: float = wrong) -> export.Runtime:
            assert (path / "saved_model.pb").is_file()
            loaded = form.load(path)

            def predict(images: Any) -> Any:
                predictions = loaded.predict(images).copy()
                predictions[3, 0] += wrong
                return predictions

            return export.Runtime(loaded.dtype, predict)

        changed = export.Format("saved_model", "", (), has_bfloat16=True, load=load)
        monkeypatch.setitem(export.FORMATS, "tf_saved_model", changed)
        with pytest.raises(TrialError) as raised:
            exported(model, "tf_saved_model", tmp_path / "out", noise((100, 20, 12, 1), "uint8"))
        assert re.fullmatch(
            r"trial 3 of study s as tf_saved_model: on 100 images its predictions differ from "
            r"Keras' own by (0\.01|nan), which is more than rounding; nothing was written",
            str(raised.value),
        )
        assert list(tmp_path.iterdir()) == []


def test_what_a_format_can_t_have_is_told_on_one_line(tmp_path: Path) -> None:
    class Refusing(keras.Model):  # type: ignore[misc]
        def export(self, *_: Any, **__: Any) -> None:
            raise NotImplementedError("no such\noperation")

    image = keras.Input((4, 4, 3))
    model = Refusing(image, keras.layers.Flatten()(image))
    with pytest.raises(UserError) as raised:
        exported(model, "tf_saved_model", tmp_path / "out", np.zeros((2, 4, 4, 3), np.float32))
    assert str(raised.value) == (
        "trial 3 of study s can't be exported as tf_saved_model (NotImplementedError: no such "
        "operation); choose another --format"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_replaced_and_a_folder_of_something_else_is_not(
    tmp_path: Path,
) -> None:
    model = other_model("uint8")
    images = noise((100, 20, 12, 1), "uint8")
    made = exported(built(), "tf_saved_model", tmp_path)
    assert exported(model, "tf_saved_model", tmp_path, images).path == made.path
    assert tf.saved_model.load(str(made.path)).serve(images).shape == (100, 1)
    other = tmp_path / "other" / "saved_model"
    other.mkdir(parents=True)
    (other / "mine.txt").touch()
    with pytest.raises(UserError, match="saved_model is a folder of something else; name another"):
        exported(model, "tf_saved_model", other.parent, images)
    assert [file.name for file in other.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.modules])
def test_a_missing_extra_is_one_line_with_the_command_that_brings_it(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError) as raised:
        export.export_run_model("run", None, name, tmp_path, title="a model")
    form = FORMATS[name]
    modules = ", ".join(form.modules)
    command = f"pip install 'cifar_hpo[{form.extra}]'"
    assert str(raised.value) == f"--format: {name} needs {modules}; {command}"


def test_each_extra_brings_what_its_format_needs() -> None:
    import tomllib

    from cifar_hpo.paths import ROOT

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for form in FORMATS.values():
        if form.extra:
            wanted = project["optional-dependencies"][form.extra]
            names = {re.split(r"[<>=]", one)[0].replace("-", "_") for one in wanted}
            assert names == set(form.modules)
