"""Models of the user's train like the built-in one: determined, resumable, and told of if wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from omegaconf import OmegaConf
from support import composed, images
from support_training import all_weights, train_dataset, train_dataset_and_die

from cifar_hpo import trust
from cifar_hpo.config.app import Config
from cifar_hpo.config.validation import validate_config
from cifar_hpo.data.dataset import Dataset
from cifar_hpo.data.labels import CLASSES, NUMBERS, SEVERAL
from cifar_hpo.data.streams import Streams
from cifar_hpo.errors import ConfigError
from cifar_hpo.examination import Examination
from cifar_hpo.training import called, inputs, networks, trainer
from cifar_hpo.training.compiled import compile_by_keras
from cifar_hpo.training.identity import groups_of, identity_of
from cifar_hpo.training.signature import Signature
from cifar_hpo.trust import Call


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the folder's pyproject.toml would allow."""
    monkeypatch.setattr(trust, "allowed_prefixes", lambda: ("own_models", "keras.applications"))


def config(model: str, *overrides: str, **arguments: Any) -> Config:
    """Of a small training of one of the user's models, or of the built-in one."""
    overrides = ("training.batch_size=20", "training.epochs=4", "model.filters=2", *overrides)
    made = composed(*overrides, "model.kernel_size=3", "model.depth=2", "model.dense_units=4")
    if model:
        target = model if "." in model else f"own_models.{model}"
        made.model = OmegaConf.create({"_target_": target, **arguments})
    return validate_config(made)


def dataset(labels: str = CLASSES, size: tuple[int, int] = (8, 8), channels: int = 3) -> Dataset:
    """Images of ten classes, of two labels each, or of one number; uint8."""
    splits = []
    for count, seed in ((60, 0), (20, 1)):
        x, y = images(count, seed)
        x = x[:, : size[0], : size[1], :channels]
        wanted: Any = y
        if labels == SEVERAL:
            wanted = np.stack([y > 4, y % 2], axis=1).astype(np.uint8)
        if labels == NUMBERS:
            wanted = (y / 10).astype(np.float32)
        splits.append((x, wanted))
    names = {CLASSES: tuple("abcdefghij"), SEVERAL: ("large", "odd"), NUMBERS: ("value",)}[labels]
    return Dataset(
        "small",
        names,
        f"{labels}{size}",
        Path(),
        fallback=False,
        train=splits[0],
        test=splits[1],
        labels=labels,
    )


KINDS = {"resnet": CLASSES, "scaled": CLASSES, "regression": NUMBERS, "several": SEVERAL}


@pytest.mark.parametrize(
    "model", ["resnet", pytest.param("scaled", marks=pytest.mark.long), "regression", "several"]
)
def test_a_user_s_model_trains_in_one_graph_and_is_the_one_that_is_kept(model: str) -> None:
    data = dataset(KINDS[model])
    checked = config(model, "optimizer.learning_rate=0.01", "training.epochs=8")
    (trained,), epochs = train_dataset(checked, data)
    metric = "mae" if KINDS[model] == NUMBERS else "accuracy"
    assert set(epochs[0][0]) == {"loss", metric, "val_loss", f"val_{metric}"}
    assert epochs[-1][0]["loss"] < epochs[0][0]["loss"]
    (network,) = networks.called_cache.networks.values()
    assert not network.by_fit
    kept = trainer.to_keras_model(checked, Signature.of(data), trained.weights)
    x, y = data.test
    assert kept.predict(x, verbose=0) == pytest.approx(trained.outputs, abs=1e-5)
    scores = kept.evaluate(x, in_shape(y, trained.outputs), verbose=0, return_dict=True)
    penalty = float(sum(kept.losses, 0.0))
    assert scores["loss"] - penalty == pytest.approx(trained.metrics["test_loss"], abs=1e-4)
    assert scores[metric] == pytest.approx(trained.metrics[f"test_{metric}"], abs=1e-5)


def in_shape(labels: Any, outputs: Any) -> Any:
    return labels if labels.dtype == np.uint8 else labels.reshape(outputs.shape)


def test_an_epoch_in_one_graph_is_keras_fit_for_a_user_s_model() -> None:
    """With dropout and flips drawn alike."""
    data = dataset()
    checked = config("resnet", "optimizer=sgd", "training.epochs=1")
    signature = Signature.of(data)
    network = networks.initial_network(checked, signature, [3])
    model = called.build_called(checked.model, signature, 3)
    compile_by_keras(model, checked, signature)
    x, y = data.train
    network.fit(tf.constant(x), tf.constant(y), 0, 1)
    order = tf.random.experimental.stateless_shuffle(tf.range(len(x)), (0, 0)).numpy()
    model.fit(x[order], y[order], batch_size=20, shuffle=False, verbose=0)
    for weight, wanted in zip(network.model.get_weights(), model.get_weights(), strict=True):
        assert weight == pytest.approx(wanted, abs=1e-5)


RESUMED: dict[str, tuple[str, list[str]]] = {
    "in one graph, averaged, smoothed": (
        "resnet",
        ["training.weight_averaging=0.9", "training.label_smoothing=0.1"],
    ),
    "compiled, stopping early": ("compiled", ["training.early_stopping=1"]),
    "by its own step, scheduled": ("OwnStep", ["training.schedule=cosine", "data.augment=[flip]"]),
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_user_s_model_that_died_ends_bit_for_bit_as_if_it_had_not(
    case: str, tmp_path: Path
) -> None:
    model, options = RESUMED[case]
    checked, data = config(model, *options), dataset()
    (wanted,), epochs = train_dataset(checked, data)
    train_dataset_and_die(checked, data, tmp_path, epoch=min(2, len(epochs)) - 1)
    networks.called_cache.networks.clear()  # as in another process
    (again,), _ = train_dataset(checked, data, tmp_path)
    assert np.array_equal(all_weights(again), all_weights(wanted))
    assert same_metrics(again.metrics, wanted.metrics)


CHANGING = """
import keras

def plain(shape, classes):
    layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes, "softmax")]
    return keras.Sequential(layers)

class Note(keras.callbacks.Callback):
    pass
"""


@pytest.mark.parametrize(
    "used", ["model", pytest.param("argument of a callback", marks=pytest.mark.long)]
)
def test_a_training_that_died_does_not_go_on_with_other_code(
    used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "changing.py").write_text(CHANGING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "changing", raising=False)
    monkeypatch.setattr(trust, "allowed_prefixes", lambda: ("changing", "keras"))
    checked = config("changing.plain" if used == "model" else "", "training.epochs=3")
    if used != "model":
        inner = {"changed": Call("changing.Note")}
        checked = replaced(checked, callbacks=[Call("keras.callbacks.LambdaCallback", inner)])
    data = dataset()
    train_dataset_and_die(checked, data, tmp_path, epoch=1)
    assert restored(checked, data, tmp_path) == [True, True, False]

    train_dataset_and_die(checked, data, tmp_path, epoch=0)
    (tmp_path / "changing.py").write_text(CHANGING + "# changed")
    assert restored(checked, data, tmp_path) == [False, False, False]


def restored(checked: Config, data: Dataset, folder: Path) -> list[bool]:
    """Of each epoch, whether it was trained before."""
    epochs: list[bool] = []

    def on_epoch(epoch: int, values: object, *, restored: bool, **_: object) -> None:
        epochs.append(restored)

    trainer.train(checked, data, on_epoch, folder)
    return epochs


def replaced(checked: Config, **training: Any) -> Config:
    return replace(checked, training=replace(checked.training, **training))


def same_metrics(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return {**one, "train_seconds": 0} == {**other, "train_seconds": 0}


def test_replicas_of_a_user_s_model_are_their_seeds_one_after_the_other() -> None:
    checked, data = config("resnet", "training.replicas=2", "training.epochs=1"), dataset()
    replicas, epochs = train_dataset(checked, data)
    assert [list(epoch) for epoch in epochs] == [[0], [1]]
    assert checked.reason_not_fused == "a model of your own"
    (alone,), _ = train_dataset(replaced(checked, seed=1, replicas=1), data)
    assert np.array_equal(all_weights(replicas[1]), all_weights(alone))
    assert not np.array_equal(all_weights(replicas[0]), all_weights(alone))


def test_a_compiled_model_keeps_its_optimizer_its_loss_and_its_metrics() -> None:
    data = dataset()
    checked = config("compiled", "optimizer.learning_rate=1e-9", "training.schedule=cosine")
    (trained,), epochs = train_dataset(checked, data)
    assert {"loss", "top2", "val_loss", "val_top2", "val_accuracy"} <= set(epochs[0][0])
    assert {"test_loss", "test_top2", "test_accuracy"} <= set(trained.metrics)
    assert epochs[-1][0]["loss"] < epochs[0][0]["loss"], "by its own rate"
    model = trainer.to_keras_model(checked, Signature.of(data), trained.weights)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    scores = model.evaluate(*data.test, verbose=0, return_dict=True)
    for name in ("loss", "top2"):
        assert trained.metrics[f"test_{name}"] == pytest.approx(scores[name], rel=1e-5)


@pytest.mark.parametrize(
    ("model", "metrics"),
    [("compiled", {"loss": "minimize", "top2": "maximize"}), ("resnet", {}), ("OwnStep", {})],
)
def test_the_metrics_of_a_compiled_model_are_known_before_it_is_trained(
    model: str, metrics: Mapping[str, str]
) -> None:
    data = dataset()
    (x, y), signature = data.train, Signature.of(data)
    assert called.examine(config(model), signature, x[:4], y[:4]).metrics == metrics


def test_the_best_so_far_is_the_highest_where_keras_says_so_also_of_restored_epochs(
    tmp_path: Path,
) -> None:
    checked, data = config("compiled", "training.epochs=6"), dataset()
    train_dataset_and_die(checked, data, tmp_path, epoch=3)
    seen: list[tuple[float, float, bool]] = []

    def on_epoch(epoch: int, values: Any, *, best: Any, restored: bool, **_: Any) -> None:
        seen.append((values[0]["val_top2"], best[0]["val_top2_best"], restored))

    (trained,) = trainer.train(checked, data, on_epoch, tmp_path)
    values, best, restored = map(list, zip(*seen, strict=True))
    assert restored == [True] * 4 + [False] * 2
    assert min(values) < max(values), "else the least is the highest"
    assert best == np.maximum.accumulate(values).tolist()
    assert trained.metrics["val_top2_best"] == max(values)


def test_a_model_with_a_step_of_its_own_is_trained_by_it() -> None:
    checked, data = config("OwnStep", "optimizer.learning_rate=0.01"), dataset()
    _, epochs = train_dataset(checked, data)
    (network,) = networks.called_cache.networks.values()
    assert network.by_fit
    assert int(network.model.other_optimizer.iterations) == 4 * 3, "54 images in batches of 20"
    assert set(epochs[0][0]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert epochs[-1][0]["loss"] < epochs[0][0]["loss"]


def test_keras_own_network_needs_no_function_of_the_user_s() -> None:
    wanted = {"alpha": 0.35, "weights": None}
    by_name = config("keras.applications.MobileNetV2", **wanted)
    signature = Signature(10, shape=(96, 96, 3))
    model = called.build_called(by_name.model, signature, 0)
    through = called.build_called(config("mobile", alpha=0.35).model, signature, 0)
    assert model.output_shape == through.output_shape == (None, 10)
    assert model.input_shape == through.input_shape == (None, 96, 96, 3)
    for weight, other in zip(model.get_weights(), through.get_weights(), strict=True):
        assert np.array_equal(weight, other), "by the same seed"


@pytest.mark.parametrize(
    ("model", "options"),
    [("scaled", ["training.precision=mixed_bfloat16"]), ("resnet", []), ("OwnStep", [])],
)
def test_a_graph_of_a_user_s_model_predicts_what_the_model_does(
    model: str, options: list[str], tmp_path: Path
) -> None:
    checked, data = config(model, "training.epochs=1", *options), dataset()
    (trained,), _ = train_dataset(checked, data)
    signature = Signature.of(data)
    kept = trainer.to_keras_model(checked, signature, trained.weights)
    called.export_graph(kept, signature, tmp_path / "graph")
    loaded = tf.saved_model.load(str(tmp_path / "graph"))
    outputs = loaded.serve(data.test[0])
    assert outputs.dtype == tf.float32
    assert outputs.numpy() == pytest.approx(trained.outputs, abs=1e-2 if options else 1e-5)


WRONG = {
    "logits": "model: own_models.logits gives no probabilities, but ",
    "one_too_many": "model: own_models.one_too_many gives (n, 11); expected (n, 10), a probability",
    "larger_images": "model: own_models.larger_images takes no images (n, 8, 8, 3) of uint8: ",
    "no_model": "model: own_models.no_model gives a list, which is no Keras model",
    "raising": "model: own_models.raising raised RuntimeError: no room for (8, 8, 3) (own_mod",
    "one_hot": "model: own_models.one_hot can't be trained on labels (n): ValueError: ",
    "nothing": "model._target_: own_models.nothing: there is no own_models.nothing",
    "tf.io.read_file": "model._target_: refused: ",
}


@pytest.mark.parametrize("model", WRONG)
def test_what_is_wrong_with_a_model_is_one_line(model: str) -> None:
    checked = replace(config(""), model=trust.Call(f"own_models.{model}"))
    x, y = dataset().train
    with pytest.raises(ConfigError) as refused:
        called.examine(checked, Signature.of(dataset()), x[:3], y[:3])
    (line,) = str(refused.value).splitlines()
    assert line.startswith(WRONG[model])
    assert len(line) < 600


@pytest.mark.parametrize(
    ("model", "arguments", "line"),
    [
        ("resnet", {"dept": 2}, "model.dept: own_models.resnet has no such argument; it has depth"),
        ("dense", {}, "model.activation: missing: own_models.dense needs it"),
    ],
)
def test_arguments_that_a_function_does_not_take_are_named(
    model: str, arguments: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        called.build_called(config(model, **arguments).model, Signature(10), 0)
    assert str(refused.value).startswith(line)


def examined(checked: Config, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("cifar_hpo.data.dataset.load_dataset", lambda _: data)
    examination = Examination()
    examination.check(checked)
    return examination.warnings(checked)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("resnet", []),
        ("scaled", []),
        (
            "compiled",
            ["comes compiled, which counts in the place of optimizer, training.schedule, "],
        ),
        ("OwnStep", ["trains in a way of its own, so Keras' fit trains it, epoch by epoch"]),
    ],
)
def test_what_a_model_takes_over_is_said(
    model: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings = examined(config(model), dataset(), monkeypatch)
    assert len(warnings) == len(said)
    for warning, part in zip(warnings, said, strict=True):
        assert warning.startswith(f"model: own_models.{model} {part}")


def test_what_fit_can_t_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = config("OwnStep", "training.weight_averaging=0.9")
    with pytest.raises(ConfigError, match=r"^training\.weight_averaging: own_models\.OwnStep"):
        examined(checked, dataset(), monkeypatch)


@pytest.mark.parametrize(
    ("labels", "channels", "dtype", "options"),
    [
        (NUMBERS, 3, np.uint8, ["training.replicas=2"]),
        (SEVERAL, 1, np.uint8, ["training.replicas=2", "training.label_smoothing=0.1"]),
        (CLASSES, 1, np.float32, ["training.replicas=2", "data.augment=[flip,shift,cutout]"]),
        pytest.param(
            *(CLASSES, 5, np.uint8, ["data.augment=[flip,cutout]", "model.mirror=true"]),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *(CLASSES, 1, np.uint8, ["model.whitening=true", "training.replicas=2"]),
            marks=pytest.mark.long,
        ),
    ],
)
def test_the_built_in_model_learns_images_and_labels_of_any_kind(
    labels: str, channels: int, dtype: type, options: list[str]
) -> None:
    """Not square, of another number of channels; a fused replica ends like the same seed alone."""
    data = with_channels(dataset(labels, size=(12, 20)), channels, dtype)
    checked = config("", *options, "optimizer.epsilon=0.001", "training.epochs=2")
    replicas, _ = train_dataset(checked, data)
    if checked.training.replicas == 2:
        (alone,), _ = train_dataset(replaced(checked, seed=1, replicas=1), data)
        assert all_weights(replicas[1]) == pytest.approx(all_weights(alone), abs=1e-4)
    model = trainer.to_keras_model(checked, Signature.of(data), replicas[0].weights)
    assert model.input_shape == (None, 12, 20, channels)
    assert model.predict(data.test[0], verbose=0) == pytest.approx(replicas[0].outputs, abs=1e-4)
    assert checked.model.parameters(data.outputs, data.shape) == model.count_params()


def with_channels(data: Dataset, channels: int, dtype: type) -> Dataset:
    """The same with another number of channels, and floats from 0 to 1."""
    splits = []
    for x, y in (data.train, data.test):
        wide = np.repeat(x, 2, axis=3)[..., :channels]
        splits.append((wide if dtype == np.uint8 else (wide / 255).astype(dtype), y))
    return replace(data, digest=f"{data.digest}{channels}", train=splits[0], test=splits[1])


def test_what_is_done_to_streams_is_part_of_their_training() -> None:
    """The digest knows the labels of streams alone, but all of arrays."""
    identities = {}
    for strength in (1, 2):
        checked = config("")
        checked.data.call = Call("own_models.scaled", {"strength": strength})
        for is_streamed in (True, False):
            told = identity_of(checked, "digest", [0], is_streamed=is_streamed)
            identities[strength, is_streamed] = told
    assert identities[1, True] != identities[2, True]
    assert identities[1, False] == identities[2, False]


def test_floats_are_taken_as_they_are() -> None:
    images = keras.Input((8, 8, 3), dtype="float32")
    signature = Signature(10, shape=(8, 8, 3), dtype="float32")
    layers = networks.keras_model(config(""), signature).layers
    assert "rescaling" not in {type(layer).__name__.lower() for layer in layers}
    assert layers[0].dtype == images.dtype


def streamed(data: Dataset) -> Dataset:
    """The same as a user's function gives it anew in each process, shuffled for each epoch."""
    x, y = data.train
    tf.random.set_seed(0)
    train = tf.data.Dataset.from_tensor_slices((x[:50], y[:50])).shuffle(50, seed=3)
    validation = tf.data.Dataset.from_tensor_slices((x[50:], y[50:])).batch(4)
    test = tf.data.Dataset.from_tensor_slices(data.test)
    streams = Streams(train, validation, test, count=50)
    return replace(data, train=(x[:1], y[:1]), streams=streams)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (CLASSES, lambda y: y[:, None]),
        (CLASSES, lambda y: y[:, None].astype(np.float32)),
        (NUMBERS, lambda y: y),
    ],
    ids=["a class in a column", "a class as a float", "one number each"],
)
def test_labels_of_streams_are_learned_in_whatever_form_they_come(
    kind: str, form: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    data, checked = dataset(kind), config("", "training.epochs=1")
    signature = Signature.of(data)
    epochs = []
    for in_form in (lambda y: inputs.in_form(y, signature), form):
        (x, y), (test_images, test_labels) = data.train, data.test
        train, test = (x, in_form(y)), (test_images, in_form(test_labels))
        _, of_form = train_dataset(checked, streamed(replace(data, train=train, test=test)))
        epochs.append(of_form)
    assert epochs[0] == epochs[1]


@pytest.mark.parametrize("model", ["", "scaled"])
def test_streams_are_trained_on_by_fit_and_go_on_where_they_were(
    model: str, tmp_path: Path
) -> None:
    checked, data = config(model, "optimizer.learning_rate=0.01"), dataset()
    (wanted,), epochs = train_dataset(checked, streamed(data))
    assert set(epochs[0][0]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert epochs[-1][0]["loss"] < epochs[0][0]["loss"]
    train_dataset_and_die(checked, streamed(data), tmp_path, epoch=1)
    (again,), _ = train_dataset(checked, streamed(data), tmp_path)
    assert np.array_equal(all_weights(again), all_weights(wanted))
    two = replaced(checked, replicas=2, epochs=1)
    assert groups_of(two, is_streamed=streamed(data).streams is not None) == [[0], [1]]
