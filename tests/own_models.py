"""Models as users bring them, small enough for tests; some are wrong in one way each."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def resnet(depth: int = 1, width: int = 4, *, shape: tuple[int, ...], classes: int) -> keras.Model:
    """A residual network with all that has a state beside its weights: norms, dropout, flips."""
    image = keras.Input(shape)
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.RandomFlip("horizontal")(x)
    x = keras.layers.Conv2D(width, 3, padding="same", kernel_regularizer="l2")(x)
    for _ in range(depth):
        y = keras.layers.BatchNormalization()(x)
        y = keras.layers.Conv2D(width, 3, padding="same", activation="relu")(y)
        x = x + keras.layers.Dropout(0.2)(y)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(classes, "softmax")(x))


def mobile(**options: Any) -> keras.Model:
    """A network of Keras' own by a function that only passes on."""
    options["input_shape"] = options.pop("shape")
    return keras.applications.MobileNetV2(weights=None, **options)


def compiled(shape: tuple[int, ...], num_classes: int, rate: float = 0.05) -> keras.Model:
    """Comes with an optimizer, a loss and a metric of its own."""
    return with_top2(dense(shape, num_classes, "softmax"), rate)


def with_top2(model: keras.Model, rate: float) -> keras.Model:
    top2 = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=[top2])
    return model


def undefined(shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """Comes with a metric that is 0 / 0."""

    def share(_: Any, outputs: Any) -> Any:
        nothing = keras.ops.sum(0.0 * outputs, axis=-1)
        return nothing / nothing

    model = dense(shape, num_classes, "softmax")
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=[share])
    return model


def regression(shape: tuple[int, ...], outputs: int) -> keras.Model:
    return dense(shape, outputs, "linear")


def several(shape: tuple[int, ...], outputs: int) -> keras.Model:
    return dense(shape, outputs, "sigmoid")


def dense(shape: tuple[int, ...], outputs: int, activation: str) -> keras.Model:
    layers = [keras.Input(shape), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    layers.append(keras.layers.Dense(outputs, activation))
    return keras.Sequential(layers)


@keras.saving.register_keras_serializable("own")
class Scale(keras.layers.Layer):  # type: ignore[misc]
    """A layer of the user's."""

    def build(self, shape: Any) -> None:
        self.factor = self.add_weight((shape[-1],), "ones")

    def call(self, x: Any) -> Any:
        return x * self.factor


def scaled(shape: tuple[int, ...], classes: int) -> keras.Model:
    image = keras.Input(shape)
    x = keras.layers.Flatten()(Scale()(keras.layers.Rescaling(1 / 255)(image)))
    return keras.Model(image, keras.layers.Dense(classes, "softmax")(x))


def compiled_scaled(shape: tuple[int, ...], classes: int, rate: float = 0.05) -> keras.Model:
    """Both a layer and a metric that are not ours."""
    return with_top2(scaled(shape, classes), rate)


@keras.saving.register_keras_serializable("own")
class OwnStep(keras.Model):  # type: ignore[misc]
    """Trains its two halves by an optimizer each, with noise on the images."""

    def __init__(self, classes: int, **options: Any) -> None:
        super().__init__(**options)
        self.classes = classes
        self.first = keras.layers.Conv2D(4, 3, activation="relu")
        self.last = keras.layers.Dense(classes, "softmax")
        self.seeds = keras.random.SeedGenerator(1)
        self.other_optimizer = keras.optimizers.SGD(0.05, momentum=0.9)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "classes": self.classes}

    def call(self, image: Any) -> Any:
        x = self.first(tf.cast(image, tf.float32) / 255)
        return self.last(tf.reduce_mean(x, (1, 2)))

    def train_step(self, data: Any) -> dict[str, Any]:
        images, labels = data
        images = tf.cast(images, tf.float32)
        images += keras.random.normal(tf.shape(images), seed=self.seeds)
        with tf.GradientTape(persistent=True) as tape:
            outputs = self(images, training=True)
            loss = self.compute_loss(images, labels, outputs)
        for part, optimizer in ((self.first, self.optimizer), (self.last, self.other_optimizer)):
            weights = part.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return dict(self.compute_metrics(images, labels, outputs)) | {"loss": loss}


def logits(shape: tuple[int, ...], classes: int) -> keras.Model:
    return dense(shape, classes, "linear")


def one_too_many(shape: tuple[int, ...], classes: int) -> keras.Model:
    return dense(shape, classes + 1, "softmax")


def larger_images(classes: int) -> keras.Model:
    return dense((64, 64, 3), classes, "softmax")


def no_model(shape: tuple[int, ...]) -> Any:
    return list(shape)


def raising(shape: tuple[int, ...]) -> keras.Model:
    raise RuntimeError(f"no room\nfor {shape}")


def one_hot(shape: tuple[int, ...], classes: int) -> keras.Model:
    model = dense(shape, classes, "softmax")
    model.compile("sgd", "categorical_crossentropy")
    return model
