"""The schema: every key with its type, range, unit and meaning; `check` holds a composed config
against it.

The values stand in conf/; this room says what they may be. Nothing heavy is imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cifar_hpo import processor
from cifar_hpo.config.fields import check_values, key
from cifar_hpo.config.secrets import refuse_secrets_and_calls
from cifar_hpo.errors import ConfigError, one_line

IMAGE_SIZE = 32
SYNTHETIC_NOTICE = (
    "CIFAR-10 can't be had: these are SYNTHETIC images, good for trying things out; no accuracy "
    "here means anything"
)
ACTIVATIONS = ("relu", "elu", "selu", "gelu", "silu", "leaky_relu", "tanh", "sigmoid")
WHITENING_CHANNELS = 24
"""Channels of the whitening layer: the twelve numbers of 2×2 pixels, with either sign."""
AUGMENTATIONS = ("flip", "shift", "cutout")


class Convolution(NamedTuple):
    """A convolution: side of its kernel, channels in and out, and the side of its output in pixels,
    before and after pooling."""

    kernel: int
    channels: int
    width: int
    size: int
    pooled: int


@dataclass
class Model:
    filters: Any = key(
        "neurons of the first convolution, doubled in each width; a list gives every width",
        low=1,
        high=4096,
        whole=True,
    )
    depth: int = key(
        "widths, each a convolution layer unless model.convolutions says more, when filters is "
        "one number",
        low=1,
        high=64,
    )
    convolutions: int = key("convolution layers of each width", low=1, high=16)
    kernel_size: int = key("side of each kernel, pixels", low=1, high=IMAGE_SIZE)
    padding: str = key("edges of a convolution", choices=("same", "valid"))
    pooling: str = key(
        "after the first or last convolution of all widths but the last; every: after the first "
        "of all",
        choices=("first", "last", "every"),
    )
    residual: bool = key("add a width's first convolution to what its others make of it")
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
    mirror: bool = key(
        "outside of training, the mean of what it finds for an image and for its mirror image"
    )

    @property
    def stages(self) -> tuple[int, ...]:
        """Neurons of each width, first to last."""
        if isinstance(self.filters, list):
            return tuple(self.filters)
        return tuple(self.filters * 2**layer for layer in range(self.depth))

    def layers(self) -> Iterator[Convolution]:
        """The trained convolutions, first to last; sizes below 1 are for the caller to refuse."""
        channels, size = (WHITENING_CHANNELS, IMAGE_SIZE - 1) if self.whitening else (3, IMAGE_SIZE)
        for number, width in enumerate(self.stages, start=1):
            halved = self.convolutions if self.pooling == "last" else 1
            if number == len(self.stages) and self.pooling != "every":
                halved = 0
            for place in range(1, self.convolutions + 1):
                size -= self.kernel_size - 1 if self.padding == "valid" else 0
                yield Convolution(
                    self.kernel_size,
                    channels,
                    width,
                    size,
                    size := size // 2 if place == halved else size,
                )
                channels = width

    def parameters(self, classes: int = 10) -> int:
        """Weights and biases, with batch norm its four numbers a channel, and whitening; counted
        without building the network."""
        total, features = (4 * 3 + 1) * WHITENING_CHANNELS if self.whitening else 0, 0
        for layer in self.layers():
            total += (
                layer.kernel**2 * layer.channels * layer.width
                + (4 if self.batch_norm else 1) * layer.width
            )
            features = layer.width * (layer.pooled**2 if self.global_pooling == "none" else 1)
        for units in (self.dense_units, classes) if self.dense_units else (classes,):
            features, total = units, total + features * units + units
        return total

    def multiply_adds(self) -> int:
        """Multiplications for one image, a measure of what training costs."""
        total, features = (
            ((IMAGE_SIZE - 1) * 2) ** 2 * 3 * WHITENING_CHANNELS if self.whitening else 0,
            0,
        )
        for layer in self.layers():
            total += (layer.kernel * layer.size) ** 2 * layer.channels * layer.width
            features = layer.width * (layer.pooled**2 if self.global_pooling == "none" else 1)
        return total + features * self.dense_units


@dataclass
class Data:
    source: str = key(
        "where images come from", choices=("auto", "cifar10", "folder", "npz", "synthetic")
    )
    path: str | None = key("file or folder of the images; null looks in the Keras cache")
    train_size: int | None = key("images to train on; null takes all", low=1)
    validation: Any = key(
        "share of the training images to select by, or test as the article did",
        above=0,
        below=1,
        words=("test",),
    )
    augment: list[str] = key("random changes of training images", choices=AUGMENTATIONS)


@dataclass
class Adam:
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
    KERAS: ClassVar[str] = (
        "SGD"  # what its other weights take; Keras' Muon leaves convolutions to AdamW
    )
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
    precision: str = key("of the arithmetic", choices=("float32", "mixed_bfloat16"))
    replicas: int = key(
        "seeds to train: seed, seed + 1, …, as one network where layers are narrow, without "
        "muon and early stopping; the value is their mean",
        low=1,
        high=64,
    )
    seed: int = key(
        "of weights and dropout; the order of the images is the same for all", low=0, high=2**31 - 1
    )
    schedule: str = key(
        "of the learning rate, over all steps", choices=("constant", "cosine", "one_cycle")
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
        "epochs without a better val_loss before a trial stops; null never", low=1
    )
    threads: int | None = key(
        "threads of a single run; null takes the launcher's share, else all cores", low=1
    )


@dataclass
class Mlflow:
    tracking_uri: str | None = key(
        "MLflow's store; null takes MLFLOW_TRACKING_URI, else mlflow.db here"
    )
    experiment: str | None = key("name of the experiment; null takes the study's")
    system_metrics: bool = key("log processor, memory, disk and network of each run")


OPTIMIZERS = {"adam": Adam, "adamw": AdamW, "muon": Muon, "sgd": SGD, "rmsprop": RMSprop}


@dataclass
class Config:
    model: Model = dataclasses.field(default_factory=Model)
    data: Data = dataclasses.field(default_factory=Data)
    optimizer: Any = dataclasses.field(default_factory=Adam)
    training: Training = dataclasses.field(default_factory=Training)
    mlflow: Mlflow = dataclasses.field(default_factory=Mlflow)

    @property
    def is_fused(self) -> bool:
        """Whether replicas train as one network."""
        return self.training.replicas > 1 and not self.apart

    @property
    def apart(self) -> str:
        """By what replicas train one after the other; empty where they can be one network."""
        if self.training.early_stopping:
            return "training.early_stopping"  # each ends at its own epoch
        if isinstance(self.optimizer, Muon):
            return "optimizer=muon"  # it looks at a kernel as a whole
        wide = processor.fused_below()
        if self.model.stages[0] >= wide:
            return f"{wide} neurons or more in the first layer"  # one network fills the lanes
        return ""


def check(config: DictConfig) -> Config:
    """The typed form of a composed config.

    Raises ConfigError for the first wrong key, type, range or combination.
    """
    config = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    refuse_secrets_and_calls(config)
    name = OmegaConf.select(config, "optimizer.name")
    if name not in OPTIMIZERS:
        raise ConfigError("optimizer.name", f"{name!r} is none of {', '.join(OPTIMIZERS)}")
    schema = OmegaConf.structured(Config(optimizer=OPTIMIZERS[name]()))
    try:
        typed = OmegaConf.to_object(OmegaConf.merge(schema, config))
    except OmegaConfBaseException as error:
        raise ConfigError(
            error.full_key or "config", one_line(error).split(" full_key:")[0]
        ) from None
    assert isinstance(typed, Config)
    for room in dataclasses.fields(typed):
        if (values := getattr(typed, room.name)) is None:
            raise ConfigError(room.name, "null; choose one of its group, see --help")
        check_values(room.name, type(values), vars(values))
        for name, value in vars(values).items():  # OmegaConf takes any number for a truth value
            if isinstance(value, bool) and not isinstance(raw := config[room.name][name], bool):
                raise ConfigError(f"{room.name}.{name}", f"{raw!r} is neither true nor false")
    _check_sizes(typed.model)
    return typed


def _check_sizes(model: Model) -> None:
    """Walk the image through the layers: each valid convolution and each pooling shrinks it."""
    for number, layer in enumerate(model.layers(), start=1):
        if layer.size < 1 or (layer.pooled < 1 and layer.pooled < layer.size):
            raise ConfigError(
                "model",
                f"layer {number} has no pixels left: lower model.depth or model.kernel_size, or "
                "pad same",
            )
    if model.residual and model.convolutions == 1:
        raise ConfigError(
            "model.residual",
            "with one convolution of each width there is nothing to add; set "
            "model.convolutions=2 or more",
        )
    if model.residual and model.padding == "valid":
        raise ConfigError(
            "model.residual", "what is added must be of one size: set model.padding=same"
        )
