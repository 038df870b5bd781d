"""What training/_keras.py takes for granted of Keras: one test for each of its functions.

A failure says what a new version of Keras changed; the rest of the code does not know.
"""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.config import is_op_determinism_enabled

from cifar_hpo.training import _keras
from cifar_hpo.training.signature import Signature

MEND = f"(Keras {keras.__version__}): mend training/_keras.py"
"""The end of every message."""

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
LABELS = (np.arange(20) % 2).astype(np.uint8)
TWO = Signature(2, shape=(4, 4, 3))
"""Of these."""


@pytest.fixture(autouse=True)
def float32() -> None:
    """The precision of layers, which a test before may have changed."""
    keras.mixed_precision.set_dtype_policy("float32")


def own_cost(labels: Any, outputs: Any) -> Any:
    return tf.reduce_mean(outputs, axis=-1)


def test_keras_knows_which_way_of_its_own_metrics_is_better() -> None:
    model = small_model()
    top = keras.metrics.SparseTopKCategoricalAccuracy(1, name="top")
    metrics = ["accuracy", top, keras.metrics.SparseCategoricalCrossentropy(name="bits"), own_cost]
    model.compile("sgd", model.loss, metrics=metrics, jit_compile=False)
    values = _keras.test_step(model, tf.constant(IMAGES), tf.constant(LABELS))
    assert set(values) == {"loss", "accuracy", "top", "bits", "own_cost"}
    assert _keras.metric_directions(model) == {
        "accuracy": "maximize",
        "top": "maximize",
        "bits": "minimize",
    }, f"Keras says otherwise which way of a metric is better {MEND}'s metric_directions"


def small_model(optimizer: Any = "sgd") -> keras.Model:
    """A compiled model of IMAGES and LABELS with a dropout layer."""
    inputs = keras.Input((4, 4, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(x))
    loss = "sparse_categorical_crossentropy"
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    return model


def dropout_of(model: keras.Model) -> keras.layers.Dropout:
    (layer,) = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    return layer


def variables_of(model: keras.Model) -> list[Any]:
    return [*model.variables, *model.optimizer.variables, *model.metrics_variables]


def test_layers_draw_their_seeds_from_pythons_random() -> None:
    drawn = []
    for seed in (3, 3, 4):
        _keras.seed_next_model(seed)
        model = small_model()
        state = dropout_of(model).seed_generator.state.numpy()
        drawn.append([*model.get_weights(), state])
    for first, second, different in zip(*drawn, strict=True):
        assert np.array_equal(first, second), (
            f"Keras no longer draws the seeds of layers from Python's random {MEND}"
        )
        is_drawn = first.any()  # biases are not
        assert not is_drawn or not np.array_equal(first, different), (
            f"Keras no longer draws another seed for each layer from Python's random {MEND}"
        )
    _keras.seed_next_model(3)
    assert random.random() == random.Random(3).random()


def test_fit_begins_to_read_a_stream_so_often_for_an_epoch() -> None:
    orders = []
    stream = tf.data.Dataset.range(20).shuffle(20, seed=3)
    for _ in range(2 * _keras.ITERATORS_OF_FIT + 1):
        orders.append(list(stream.as_numpy_iterator()))

    model = small_model()
    seen: list[Any] = []

    class Keep(keras.metrics.Metric):  # type: ignore[misc]
        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            seen.extend(y_true.numpy().ravel().tolist())

        def result(self) -> Any:
            return 0.0

    def first(_: Any, outputs: Any) -> Any:
        return outputs[:, 0]

    model.compile("sgd", first, metrics=[Keep()], run_eagerly=True)
    images = tf.zeros((4, 4, 3), tf.uint8)
    again = tf.data.Dataset.range(20).shuffle(20, seed=3)
    batches = again.map(lambda number: (images, number)).batch(5)
    for epoch in range(3):
        model.fit(batches, epochs=epoch + 1, initial_epoch=epoch, shuffle=False, verbose=0)
    for epoch in range(3):
        order = seen[epoch * 20 : (epoch + 1) * 20]
        assert order == orders[epoch * _keras.ITERATORS_OF_FIT], (
            f"fit begins to read a stream another number of times {MEND}'s ITERATORS_OF_FIT"
        )


def test_models_that_train_in_a_way_of_their_own_are_told_apart() -> None:
    class Own(keras.Model):  # type: ignore[misc]
        def train_step(self, data: Any) -> Any:
            return {}

    assert not _keras.trains_itself(small_model()), (
        f"fit and train_step are no longer Model's own {MEND}'s OWN_TRAINING"
    )
    assert _keras.trains_itself(Own())


def test_a_model_s_optimizers_are_its_own_and_those_among_its_attributes() -> None:
    model = small_model("adam")
    model.another = keras.optimizers.SGD()
    assert _keras.optimizers(model) == [model.optimizer, model.another], (
        f"a model no longer has its optimizers as attributes {MEND}'s optimizers"
    )
    _keras.create_variables(model, TWO)
    variables = _keras.training_variables(model)
    for optimizer in _keras.optimizers(model):
        for variable in optimizer.variables:
            assert any(variable is known for known in variables)


def test_a_model_that_was_compiled_without_a_loss_has_none() -> None:
    model = small_model()
    assert _keras.has_loss(model), f"a compiled model's loss is no longer in loss {MEND}'s has_loss"
    without = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    without.compile("sgd")
    assert not _keras.has_loss(without), f"loss is no longer None without one {MEND}'s has_loss"


def test_releasing_the_global_state_begins_the_names_of_layers_anew() -> None:
    keras.layers.Dense(1)
    _keras.release_global_state()
    name = keras.layers.Dense(1).name
    assert name == "dense", f"clear_session no longer lets go of earlier models {MEND}"


def test_a_step_in_a_graph_makes_no_variables_after_they_were_created() -> None:
    model = small_model("adam")
    _keras.create_variables(model, TWO)
    before = [id(variable) for variable in variables_of(model)]

    @tf.function  # type: ignore[untyped-decorator]
    def step() -> None:
        _keras.train_step(model, tf.constant(IMAGES), tf.constant(LABELS))

    try:
        step()
    except ValueError as error:
        pytest.fail(f"Keras makes variables in a training step: {error} {MEND}")
    after = [id(variable) for variable in variables_of(model)]
    assert after == before, f"Keras makes variables in a training step {MEND}"


def test_a_training_step_updates_weights_dropout_loss_and_metrics() -> None:
    model = small_model()
    _keras.create_variables(model, TWO)
    model.reset_metrics()
    before = model.get_weights()
    state = dropout_of(model).seed_generator.state.numpy()
    _keras.train_step(model, tf.constant(IMAGES), tf.constant(LABELS))
    for weight, old in zip(model.get_weights(), before, strict=True):
        assert not np.array_equal(weight, old), f"train_step no longer updates weights {MEND}"
    assert int(model.optimizer.iterations) == 1, f"train_step no longer counts steps {MEND}"
    assert not np.array_equal(dropout_of(model).seed_generator.state.numpy(), state), (
        f"train_step no longer draws new dropout {MEND}"
    )
    results = model.get_metrics_result()
    assert float(results["loss"]) > 0, f"train_step no longer keeps the loss {MEND}"
    assert 0 < float(results["accuracy"]) <= 1, f"train_step no longer keeps metrics {MEND}"


@pytest.mark.parametrize("needs_loss", [True, False])
def test_scores_by_batches_are_those_of_evaluate(needs_loss: bool) -> None:
    model = small_model()
    wanted = model.evaluate(IMAGES, LABELS, batch_size=20, verbose=0, return_dict=True)
    model.reset_metrics()
    for part in (slice(0, 15), slice(15, 20)):
        images, labels = tf.constant(IMAGES[part]), tf.constant(LABELS[part])
        probabilities = model(images, training=False)
        _keras.score_step(model, images, labels, probabilities, needs_loss=needs_loss)
    results = model.get_metrics_result()
    assert float(results["accuracy"]) == pytest.approx(wanted["accuracy"]), (
        f"compute_metrics no longer updates the compiled metrics {MEND}"
    )
    assert float(results["loss"]) == pytest.approx(wanted["loss"] if needs_loss else 0), (
        f"compute_loss or the mean of the loss have changed {MEND}"
    )


def test_the_first_of_a_models_metrics_is_the_mean_of_its_loss() -> None:
    metric = _keras.loss_metric(small_model())
    assert metric.name == "loss", f"the loss is no longer the first of model.metrics {MEND}"
    assert isinstance(metric, keras.metrics.Mean), f"the loss is no longer a mean {MEND}"


def test_a_variables_handle_is_what_tensorflows_operations_change() -> None:
    variable = keras.Variable([1.0, 2.0], dtype="float32")
    for target in (variable, variable.value):
        value = tf.constant(np.random.default_rng(0).normal(size=2), tf.float32)
        tf.raw_ops.AssignVariableOp(resource=_keras.handle(target), value=value)
        assert np.array_equal(variable.numpy(), value), (
            f"a Keras variable's value is no longer TensorFlow's {MEND}"
        )


def after_one_step(optimizer: Any) -> tuple[Any, NDArray[np.float32]]:
    """The second of two weights that an optimizer has, and its only gradient so far."""
    rng = np.random.default_rng(0)
    weights = [keras.Variable(tf.ones((size,))) for size in (3, 2)]
    gradients = [tf.constant(rng.normal(size=size), tf.float32) for size in (3, 2)]
    optimizer.apply(gradients, weights)
    return weights[1], gradients[1].numpy()


def test_adam_keeps_the_means_of_a_weights_gradient_and_of_its_square() -> None:
    optimizer = keras.optimizers.Adam(0.1, beta_1=0.8, beta_2=0.9)
    weight, gradient = after_one_step(optimizer)
    momentum, velocity = _keras.adam_moments(optimizer, weight)
    message = f"Adam no longer keeps its moments in _momentums and _velocities {MEND}"
    assert momentum.numpy() == pytest.approx(0.2 * gradient, rel=1e-4), message
    assert velocity.numpy() == pytest.approx(0.1 * gradient**2, rel=1e-4), message


def test_sgd_keeps_the_sum_of_a_weights_steps() -> None:
    optimizer = keras.optimizers.SGD(0.5, momentum=0.9)
    weight, gradient = after_one_step(optimizer)
    total = _keras.sgd_momentum(optimizer, weight).numpy()
    assert total == pytest.approx(-0.5 * gradient, rel=1e-4), (
        f"SGD no longer keeps its steps in momentums {MEND}"
    )


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_an_optimizer_with_use_ema_keeps_averages_in_the_order_of_the_weights(policy: str) -> None:
    keras.mixed_precision.set_dtype_policy(policy)  # of float16 it is inside of another optimizer
    model = small_model(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.75))
    _keras.create_variables(model, TWO)
    history = []
    for _ in range(2):
        _keras.train_step(model, tf.constant(IMAGES), tf.constant(LABELS))
        history.append([weight.numpy() for weight in model.trainable_variables])
    averages = _keras.averaged_weights(model.optimizer)
    for average, first, second in zip(averages, *history, strict=True):
        assert average.numpy() == pytest.approx(0.75 * first + 0.25 * second, abs=1e-6), (
            f"the averages of use_ema are no longer in _model_variables_moving_average {MEND}"
        )


def test_an_optimizer_at_rest_is_as_it_was_made() -> None:
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    model = small_model(keras.optimizers.SGD(0.1, momentum=0.9))
    _keras.create_variables(model, TWO)
    variables = model.optimizer.variables
    initial = [variable.numpy() for variable in variables]
    for variable in variables:
        variable.assign(variable + 3)
    _keras.reset_optimizer(model.optimizer)
    learning_rate = model.optimizer.inner_optimizer.variables[1]
    for variable, value in zip(variables, initial, strict=True):
        if variable is not learning_rate:
            assert np.array_equal(variable, value), (
                f"{variable.path} of an optimizer does not begin with 0, or its loss scale has "
                f"another name {MEND}"
            )


def test_determinism_can_be_turned_on_and_off() -> None:
    for is_on in (False, True):
        _keras.set_determinism(is_on=is_on)
        assert is_op_determinism_enabled() is is_on, f"TensorFlow has changed {MEND}"


def test_a_dropout_layer_draws_the_same_from_the_same_random_state() -> None:
    layer = keras.layers.Dropout(0.5)
    features = tf.ones((50, 4))
    state = _keras.random_state(layer)
    assert tuple(state.shape) == (2,), f"a dropout layer's state is no longer two numbers {MEND}"
    before = state.numpy()
    first, second = layer(features, training=True), layer(features, training=True)
    assert not np.array_equal(first, second), f"a draw no longer changes the state {MEND}"
    state.assign(before)
    assert np.array_equal(layer(features, training=True), first), (
        f"seed_generator.state is no longer all that dropout draws from {MEND}"
    )


def early_stopping(model: keras.Model) -> keras.callbacks.EarlyStopping:
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    stopping.set_model(model)
    stopping.on_train_begin()
    return stopping


def end_epoch(stopping: keras.callbacks.EarlyStopping, epoch: int, val_loss: float) -> None:
    """With weights that name the epoch."""
    weights = [np.full_like(weight, epoch) for weight in stopping.model.get_weights()]
    stopping.model.set_weights(weights)
    stopping.on_epoch_end(epoch, {"val_loss": val_loss})


def test_early_stopping_is_all_in_its_fields_and_best_weights() -> None:
    losses = [3.0, 1.0, 2.0, 1.5]
    model = small_model()
    stopping = early_stopping(model)
    assert _keras.best_weights(stopping) == [], f"best weights exist before an epoch {MEND}"
    for epoch, val_loss in enumerate(losses[:3]):
        end_epoch(stopping, epoch, val_loss)
    state, best = _keras.stopping_state(stopping), _keras.best_weights(stopping)
    assert state == {"wait": 1, "stopped_epoch": 0, "best": 1.0, "best_epoch": 1}, (
        f"EarlyStopping keeps other fields {MEND}"
    )
    assert all((weight == 1).all() for weight in best), (
        f"EarlyStopping no longer keeps the best epoch's weights in best_weights {MEND}"
    )

    other_model = small_model()
    restored = early_stopping(other_model)
    _keras.restore_stopping(restored, state, best)
    other_model.stop_training = False
    end_epoch(restored, 3, losses[3])
    assert other_model.stop_training, f"EarlyStopping waits by another field than before {MEND}"
    restored.on_train_end()
    assert all((weight == 1).all() for weight in other_model.get_weights()), (
        f"EarlyStopping no longer restores best_weights {MEND}"
    )


def test_early_stopping_that_has_not_begun_has_a_state() -> None:
    stopping = keras.callbacks.EarlyStopping("val_loss")
    assert set(_keras.stopping_state(stopping)) == set(_keras.STOPPING_FIELDS)
    _keras.restore_stopping(stopping, {"wait": 0}, [])
    assert _keras.best_weights(stopping) == []


def test_a_checkpoint_says_whether_it_saves_by_epoch() -> None:
    message = f"ModelCheckpoint no longer says when it saves {MEND}"
    assert _keras.saves_by_epoch(keras.callbacks.ModelCheckpoint("a.keras")), message
    by_batches = keras.callbacks.ModelCheckpoint("a.keras", save_freq=5)
    assert not _keras.saves_by_epoch(by_batches), message
    assert not _keras.saves_by_epoch(keras.callbacks.CSVLogger("a.csv"))
