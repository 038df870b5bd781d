"""The schema of a training: every key with its type, range, unit and meaning.

The values stand in conf/; this module says what they may be, and `validation` holds a composed
config against it. Nothing heavy is imported.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from omegaconf import DictConfig

from cifar_hpo import processor
from cifar_hpo.config.fields import key, meant
from cifar_hpo.trust import TARGET, Call

IMAGE_SIZE = 32
COLOURS = 3
CIFAR10_SHAPE = (IMAGE_SIZE, IMAGE_SIZE, COLOURS)
"""Of its images, and of the synthetic ones: height, width, and numbers of each pixel."""
RAW_PIXELS = 255
"""The largest pixel of images as they are on disk."""
CIFAR10_SOURCES = ("auto", "cifar10", "synthetic")
"""The choices of data.source whose images have this shape, whatever else is given."""
SYNTHETIC_NOTICE = (
    "CIFAR-10 can't be had: these are SYNTHETIC images, good for trying things out; no accuracy "
    "here means anything"
)
ACTIVATIONS = ("relu", "elu", "selu", "gelu", "silu", "leaky_relu", "tanh", "sigmoid")
WHITENING_SIZE = 2
"""Side of the whitening layer's kernel, pixels; it has no padding."""
FLOAT32, BFLOAT16, FLOAT16 = PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
WHOLE_SHARE = 0.3
"""Share of the epochs at their end that have whole images, where smaller ones go before."""
SIZE_STEP = 4
"""Pixels by which images grow from one epoch to a later one."""
AUGMENTATIONS = ("flip", "alternating_flip", "shift", "cutout")
SHIFT = 4
"""The most pixels by which an augmented image is shifted each way."""
UNMEANT_TRAINING_KEYS = ("tensorboard", "keep_checkpoint", "extend")
"""Those that change no result: who is told of it, what of it is kept, and what it goes on from."""
CALLABLE = ("model",)
"""Sections of a config that may be a call to code of the user's, by `_target_`."""

Shape = tuple[int, int, int]
"""Of an image: height and width in pixels, and the numbers of each pixel."""

Size = tuple[int, int]
"""Height and width in pixels."""


def size_in_epoch(size: Size, initial_scale: float, epoch: int, epochs: int) -> Size:
    """Height and width of training images in an epoch, from 0; size: their own.

    They grow evenly to the whole, in steps of SIZE_STEP pixels, for each of which a graph is made.
    """
    growing = epochs - math.ceil(epochs * WHOLE_SHARE)
    if initial_scale == 1 or epoch >= growing:
        return size
    scale = initial_scale + (1 - initial_scale) * epoch / growing
    height, width = (min(side, round(side * scale / SIZE_STEP) * SIZE_STEP) for side in size)
    return max(height, 1), max(width, 1)


def whitening_channels(colours: int) -> int:
    """Channels of the whitening layer: the numbers of 2×2 pixels, with either sign."""
    return 2 * WHITENING_SIZE**2 * colours


class Convolution(NamedTuple):
    """A trained convolution, as it stands in the network.

    kernel_size: the side of its kernel, pixels. channels: numbers of each pixel that it reads.
    filters: numbers of each pixel that it gives. size: of its result. pooled_size: of its result
    after pooling, the same where there is none. position: its place in its stage, from 0.
    """

    kernel_size: int
    channels: int
    filters: int
    size: Size
    pooled_size: Size
    position: int

    @property
    def is_pooled(self) -> bool:
        return self.pooled_size < self.size

    @property
    def pixels(self) -> int:
        """Of its result."""
        return self.size[0] * self.size[1]

    @property
    def pooled_pixels(self) -> int:
        """Of its result after pooling."""
        return self.pooled_size[0] * self.pooled_size[1]


@dataclass
class Model:
    filters: Any = key(
        "neurons of the first stage, doubled in each further one; a list gives every stage",
        low=1,
        high=4096,
        whole=True,
        listed=True,
    )
    depth: int = key(
        "stages, where filters is one number; a convolution layer each, unless model.convolutions "
        "says more",
        low=1,
        high=64,
    )
    convolutions: int = key("convolution layers of each stage", low=1, high=16)
    kernel_size: int = key("side of each kernel, pixels", low=1, high=IMAGE_SIZE)
    padding: str = key("edges of a convolution", choices=("same", "valid"))
    pooling: str = key(
        "after the first or last convolution of all stages but the last; every: after the first "
        "of all",
        choices=("first", "last", "every"),
    )
    residual: bool = key("add a stage's first convolution to what its others make of it")
    activation: str = key("after each hidden layer", choices=ACTIVATIONS)
    global_pooling: str = key(
        "of each channel, before the dense layers", choices=("none", "average", "max")
    )
    dense_units: int = key("neurons of the hidden dense layer; 0 leaves it out", low=0, high=65536)
    dropout: float = key("share of units dropped before each dense layer", low=0, below=1)
    batch_norm: bool = key("normalise after each convolution")
    norm_momentum: float = key(
        "share of batch norm's running means that a step keeps; they lag behind where an epoch "
        "has few",
        low=0,
        below=1,
    )
    whitening: bool = key(
        "a first layer of 2×2 pixels that is not trained: the principal components of the "
        "training images"
    )
    dirac: bool = key(
        "convolutions begin by passing their channels on; filters beyond those are drawn as ever"
    )
    mirror: bool = key(
        "outside of training, the mean of what it finds for an image and for its mirror image"
    )
    shift: bool = key(
        "outside of training, average what it finds for an image and for two copies shifted by a "
        "pixel, up and left, down and right; the image itself counts half"
    )

    @property
    def stages(self) -> tuple[int, ...]:
        """Neurons of each stage, first to last."""
        if isinstance(self.filters, list):
            return tuple(self.filters)
        return tuple(self.filters * 2**stage for stage in range(self.depth))

    def layers(self, shape: Shape = CIFAR10_SHAPE) -> Iterator[Convolution]:
        """The trained convolutions, first to last, on images of a shape.

        Sizes below 1 are possible, for the caller to refuse.
        """
        height, width, channels = shape
        if self.whitening:
            channels = whitening_channels(channels)
            height -= WHITENING_SIZE - 1
            width -= WHITENING_SIZE - 1
        lost = self.kernel_size - 1 if self.padding == "valid" else 0
        for stage, filters in enumerate(self.stages):
            pooled = self._pooled_position(stage)
            for position in range(self.convolutions):
                size = height - lost, width - lost
                if position == pooled:
                    height, width = size[0] // 2, size[1] // 2
                else:
                    height, width = size
                pooled_size = height, width
                yield Convolution(self.kernel_size, channels, filters, size, pooled_size, position)
                channels = filters

    def _pooled_position(self, stage: int) -> int | None:
        """Which convolution of a stage is followed by pooling; None for none."""
        if self.pooling == "every":
            return 0
        is_last_stage = stage == len(self.stages) - 1
        if is_last_stage:
            return None
        return self.convolutions - 1 if self.pooling == "last" else 0

    def _features(self, shape: Shape) -> int:
        """The numbers that the dense layers read of one image."""
        *_, last = self.layers(shape)
        if self.global_pooling == "none":
            return last.filters * last.pooled_pixels
        return last.filters

    def parameters(self, outputs: int = 10, shape: Shape = CIFAR10_SHAPE) -> int:
        """Weights and biases, counted without building the network.

        With batch norm its four numbers a channel stand in the place of a bias. Whitening counts,
        although it is not trained. outputs: numbers that the network gives for an image.
        """
        total = 0
        colours = shape[2]
        if self.whitening:
            total += (WHITENING_SIZE**2 * colours + 1) * whitening_channels(colours)
        per_filter = 4 if self.batch_norm else 1
        for layer in self.layers(shape):
            total += layer.kernel_size**2 * layer.channels * layer.filters
            total += per_filter * layer.filters
        features = self._features(shape)
        if self.dense_units:
            total += features * self.dense_units + self.dense_units
            features = self.dense_units
        return total + features * outputs + outputs

    def multiply_adds(self, shape: Shape = CIFAR10_SHAPE) -> int:
        """Multiplications for one image, a measure of what training costs.

        Those of the last dense layer, to the outputs, are left out.
        """
        total = 0
        if self.whitening:
            height, width, colours = shape
            pixels = (height - WHITENING_SIZE + 1) * (width - WHITENING_SIZE + 1)
            total += pixels * WHITENING_SIZE**2 * colours * whitening_channels(colours)
        for layer in self.layers(shape):
            total += layer.pixels * layer.kernel_size**2 * layer.channels * layer.filters
        return total + self._features(shape) * self.dense_units


DATA_SOURCES = ("auto", "cifar10", "folder", "function", "keras", "npz", "synthetic")
KERAS_SETS = ("mnist", "fashion_mnist", "cifar10", "cifar100")
FUNCTION = "function"
"""data.source of images that a user's function gives."""
OWN_WITH_FUNCTION = ("train_size", "validation", "augment", "split_seed", "folds")
"""Keys of data that a function is not given."""


@dataclass
class Data:
    source: str = key("where images come from", choices=DATA_SOURCES)
    path: str | None = key("file or folder of the images; null looks in the Keras cache")
    train_size: int | None = key("images to train on; null takes all", low=1)
    validation: Any = key(
        "share of the training images to select by, or test as the article did",
        above=0,
        below=1,
        words=("test",),
    )
    augment: list[str] = key("random changes of training images", choices=AUGMENTATIONS)
    split_seed: int | None = key(
        "of another division into training and validation images; null is the usual one",
        default=None,
        low=0,
        high=2**31 - 1,
    )
    folds: int | None = key(
        "parts of the training images, of which replica 0 is validated on the first, replica 1 on "
        "the second and so on, in the place of data.validation; with more than three any two "
        "replicas have most of their training images in common, so that intervals over them tend "
        "to be narrow; null validates all on the same",
        default=None,
        low=2,
    )
    name: str | None = key(
        "which of Keras' own sets, with data=keras", default=None, choices=KERAS_SETS
    )
    call: Call | None = dataclasses.field(default=None, metadata={"omegaconf_ignore": True})
    """A user's function with its arguments, with data=function: `_target_` and all other keys."""


@dataclass
class Adam:
    """An optimizer's keys; KERAS is the name of its class in keras.optimizers."""

    KERAS: ClassVar[str] = "Adam"
    name: str = key("the optimizer", choices=("adam",))
    learning_rate: float = key("step size", above=0)
    beta_1: float = key("decay of the first moment", low=0, below=1)
    beta_2: float = key("decay of the second moment", low=0, below=1)
    epsilon: float = key("keeps the division stable", above=0)
    amsgrad: bool = key("keep the largest second moment")


@dataclass
class AdamW(Adam):
    KERAS: ClassVar[str] = "AdamW"
    name: str = key("the optimizer", choices=("adamw",))
    weight_decay: float = key("decay of the weights per step, times the learning rate", low=0)


@dataclass
class SGD:
    KERAS: ClassVar[str] = "SGD"
    name: str = key("the optimizer", choices=("sgd",))
    learning_rate: float = key("step size", above=0)
    momentum: float = key("share of the last step kept", low=0, below=1)
    weight_decay: float = key("decay of the weights per step, times the learning rate", low=0)
    nesterov: bool = key("look ahead along the momentum")


@dataclass
class Muon:
    # What its other weights take: Keras' own Muon leaves convolutions to AdamW.
    KERAS: ClassVar[str] = "SGD"
    name: str = key("the optimizer", choices=("muon",))
    learning_rate: float = key(
        "step size of a convolution's kernel, as a share of the kernel's own size", above=0
    )
    momentum: float = key("share of the last step kept", low=0, below=1)
    nesterov: bool = key("look ahead along the momentum")
    others: float = key("step size of all other weights, times that of kernels", above=0)


@dataclass
class RMSprop:
    KERAS: ClassVar[str] = "RMSprop"
    name: str = key("the optimizer", choices=("rmsprop",))
    learning_rate: float = key("step size", above=0)
    rho: float = key("decay of the squared gradient", low=0, below=1)
    momentum: float = key("share of the last step kept", low=0, below=1)
    epsilon: float = key("keeps the division stable", above=0)
    centered: bool = key("divide by the variance")


@dataclass
class Training:
    epochs: int = key("passes over the training images", low=1)
    batch_size: int = key("images in a step", low=1)
    precision: str = key(
        "of the arithmetic; mixed_float16 is for GPUs, with a loss that is scaled",
        choices=PRECISIONS,
    )
    replicas: int = key(
        "seeds to train: seed, seed + 1, …, as one network where layers are narrow, without "
        "muon, mixed_float16, early stopping and callbacks; the value is their mean",
        low=1,
        high=64,
    )
    seed: int = key(
        "of weights and dropout; the order of the images is the same for all", low=0, high=2**31 - 1
    )
    schedule: str = key(
        "of the learning rate, over all steps", choices=("constant", "cosine", "one_cycle")
    )
    initial_scale: float = key(
        "progressive resizing: side of the first epoch's images, as a share of their own; it "
        "grows, and the last three tenths of the epochs have whole ones",
        above=0,
        high=1,
    )
    label_smoothing: float = key(
        "share of each training label that is spread evenly over all classes", low=0, below=1
    )
    weight_averaging: float = key(
        "decay per step of an average of the weights, which is what is evaluated; 0 takes the last",
        low=0,
        below=1,
    )
    early_stopping: int | None = key(
        "epochs without a better training.early_stopping_metric before a trial stops; null never",
        low=1,
    )
    early_stopping_metric: str = key(
        "which epoch's weights early stopping keeps: those of the best",
        choices=("val_loss", "val_accuracy", "val_mae"),
    )
    callbacks: list[Any] = key(
        "Keras callbacks of yours, called around epochs and never at batches; conf/README.md shows "
        "how one is given"
    )
    tensorboard: bool = key("leave scalars for TensorBoard in the trial's folder")
    keep_checkpoint: bool = key(
        "keep in a finished trial's folder where its training stood, in kept_….checkpoint, for "
        "training.extend; about three times the size of its model, and yours to remove",
        default=False,
    )
    extend: str | None = key(
        "folder of an earlier study or run, such as mlruns/outputs/STUDY: where a trial there kept "
        "its checkpoint and differs in training.epochs alone, the training goes on behind its last "
        "epoch as if it had never ended; callbacks begin anew",
        default=None,
    )
    deterministic: bool = key(
        "the same seed gives the same bits each time, which may be slower on a GPU", default=True
    )
    threads: int | None = key(
        "threads of a single run; null takes the launcher's share, else all cores", low=1
    )


@dataclass
class Mlflow:
    tracking_uri: str | None = key(
        "MLflow's store; null takes MLFLOW_TRACKING_URI, else mlflow.db here"
    )
    experiment: str | None = key(
        "name of the experiment; null takes MLFLOW_EXPERIMENT_NAME, else the study's"
    )
    system_metrics: bool | None = key(
        "log processor, memory, disk and network of each run; null is what "
        "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING says"
    )
    tags: dict[str, Any] | None = meant(
        "tags of the study's run and of each trial's: {team: vision}", None
    )
    note: str | None = key("what the study's run says of itself above its ranking, Markdown")


OPTIMIZERS: dict[str, type[Adam | Muon | RMSprop | SGD]] = {
    "adam": Adam,
    "adamw": AdamW,
    "muon": Muon,
    "sgd": SGD,
    "rmsprop": RMSprop,
}


@dataclass
class Config:
    """A training. model: a `Model`, or a `Call` that gives a Keras model of the user's."""

    model: Any = dataclasses.field(default_factory=Model)
    data: Data = dataclasses.field(default_factory=Data)
    optimizer: Any = dataclasses.field(default_factory=Adam)
    training: Training = dataclasses.field(default_factory=Training)
    mlflow: Mlflow = dataclasses.field(default_factory=Mlflow)

    @property
    def is_fused(self) -> bool:
        """Whether replicas train as one network."""
        return self.training.replicas > 1 and not self.reason_not_fused

    @property
    def reason_not_fused(self) -> str:
        """Why replicas train one after the other; empty where they can be one network."""
        training = self.training
        reasons = {
            # Its layers may do anything with one another's channels.
            "a model of your own": isinstance(self.model, Call),
            # A replica ends at its own epoch.
            "training.early_stopping": training.early_stopping,
            "training.callbacks": training.callbacks,
            # A replica has images of its own.
            "data.folds": self.data.folds,
            "training.initial_scale": self.training.initial_scale < 1,
            # It looks at a kernel as a whole.
            "optimizer=muon": isinstance(self.optimizer, Muon),
            # A replica's loss has a scale of its own, and steps that it skips.
            "training.precision=mixed_float16": training.precision == FLOAT16,
        }
        for reason, holds in reasons.items():
            if holds:
                return reason
        limit = processor.fused_below()
        if self.model.stages[0] >= limit:
            return f"{limit} neurons or more in the first layer"  # one network fills the lanes
        return ""


def whole_number_keys(config: DictConfig) -> tuple[str, ...]:
    """The keys of a config that take whole numbers alone; no arguments of the user's code."""
    keys = []
    for part, schema in (("model", Model), ("data", Data), ("training", Training)):
        section = config.get(part)
        is_call = isinstance(section, DictConfig) and TARGET in list(section)
        for field in dataclasses.fields(schema):
            if is_call and not (schema is Data and field.name in OWN_WITH_FUNCTION):
                continue
            is_integer = str(field.type) in ("int", "int | None")
            if is_integer or field.metadata.get("whole"):
                keys.append(f"{part}.{field.name}")
    return tuple(keys)
