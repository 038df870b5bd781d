"""The worker's door: a composed config in, a `TrialResult` out, an MLflow run beside it. Heavy
imports stand inside.

`objective` is a Hydra task function, so it runs under any launcher; as a `Task` it also says what
to check, prepare and import.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, ClassVar, Self

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cifar_hpo import processor, trial
from cifar_hpo.config import app as schema
from cifar_hpo.console import Heartbeat, clock
from cifar_hpo.errors import ConfigError, TrialError, UserError, exit_with
from cifar_hpo.trial import FINISHED, Context, Progress, Pruned, TrialResult

log = logging.getLogger(__name__)

ALL_IMAGES = 50_000
"""What data.train_size=null is taken for where nobody has looked at the images: CIFAR-10's."""

IMAGE_COST = 1_200_000
"""What an image costs beside its multiplications, in these: base models of 4, 8 and 16 neurons take
1 : 2 : 6 of the time for 1 : 3 : 10.5 of the multiplications (AVX2, one thread)."""


class Objective:
    """Trains a configuration and logs it; the value of a trial is the mean over its replicas."""

    later: ClassVar[Mapping[str, Any]] = {"model.mirror": False, "model.norm_momentum": 0.99}
    metrics = (
        "val_accuracy",
        "val_loss",
        "accuracy",
        "loss",
        "test_accuracy",
        "test_loss",
        "parameters",
        "train_seconds",
        "epochs",
    )
    imports = (
        "cifar_hpo.training.trainer",
        "cifar_hpo.tracking.runs",
        "mlflow.keras",
        "mlflow.store.tracking.sqlalchemy_store",
        "git",
    )

    def check(self, config: DictConfig) -> schema.Config:
        """Raise ConfigError for a wrong value; imports nothing heavy."""
        return schema.validate_config(config)

    def prepare(self, config: DictConfig) -> str:
        """Decode the images once, and hold batch and splits against them; returns the dataset's
        name and digest."""
        from cifar_hpo.data import dataset as data

        checked = schema.validate_config(config)
        dataset = data.load(checked.data)
        (images, _), _ = dataset.splits(checked.data)
        if checked.training.batch_size > len(images):
            problem = (
                f"{checked.training.batch_size} is more than the {len(images)} training images"
            )
            raise ConfigError("training.batch_size", problem)
        return f"{dataset.name}:{dataset.digest}"

    def remarks(self, checked: schema.Config) -> list[str]:
        """What is slower than one would expect of a configuration."""
        said = []
        if checked.training.precision == "mixed_bfloat16":
            kind = processor.instruction_set()
            if not processor.can_compute_in_bfloat16():
                said.append(f"training.precision: oneDNN has no bfloat16 on {kind}: it is float32")
            elif not processor.is_fast_in_bfloat16():
                slow = "mixed_bfloat16 will be slower than float32"
                said.append(f"training.precision: nothing is gained by it on {kind}; {slow}")
        reason = checked.reason_not_fused
        if checked.training.replicas > 1 and reason:
            said.append(f"training.replicas: with {reason} they train one after the other")
        return said

    def cost(self, checked: schema.Config) -> float:
        """How much work a configuration is beside others, so that the longest trials can go
        first."""
        images = checked.data.train_size or ALL_IMAGES
        passes = checked.training.epochs * checked.training.replicas
        return float((checked.model.multiply_adds() + IMAGE_COST) * images * passes)

    def measure(self, config: DictConfig) -> dict[str, float]:
        """What is known of a configuration before it is trained, for constraints: its parameters,
        its multiplications for one image."""
        from cifar_hpo.data import dataset as data

        checked = schema.validate_config(config)
        parameters = checked.model.parameters(len(data.load(checked.data).classes))
        return {"parameters": float(parameters), "operations": float(checked.model.multiply_adds())}

    def __call__(self, config: DictConfig) -> TrialResult:
        """Train, evaluate and log one configuration.

        Raises ConfigError and DataError for what the user can mend, TrialError when training
        diverges; outside a study these end the program, because Hydra would print more than one
        line.
        """
        if Context.from_environment().study:
            return self._try(config)
        try:
            with _EpochLines() as lines:
                self.prepare(config)
                for remark in self.remarks(self.check(config)):
                    log.warning(remark)
                return self._try(config, lines)
        except (UserError, TrialError) as error:
            exit_with(error)

    def _try(self, config: DictConfig, lines: _EpochLines | None = None) -> TrialResult:
        checked = schema.validate_config(config)
        with processor.quiet_tensorflow():
            from cifar_hpo.data import dataset as data
            from cifar_hpo.tracking import runs as tracking
            from cifar_hpo.training import trainer

        started = time.perf_counter()
        trainer.set_up(checked.training)
        dataset = data.load(checked.data)
        hydra = HydraConfig.get()
        context = Context.from_environment()
        number = hydra.job.num if context.study else 0
        training_config = checked.training
        replicas = training_config.replicas
        steps = training_config.epochs * (1 if checked.is_fused else replicas)
        folder = Path(hydra.runtime.output_dir)
        done = done_before = 0  # epochs of all replicas; those that an earlier attempt trained
        with (
            _cleared(folder),
            _judged(context, number),
            tracking.attempt(config, hydra.overrides.task, dataset, context, number) as run,
        ):
            if lines:
                lines.training_begins(steps)
            trial.report(Progress(0, steps, run_id=run.run_id))

            def on_epoch(
                epoch: int, values: Mapping[int, Mapping[str, float]], *, restored: bool
            ) -> None:
                nonlocal done, done_before
                done += 1
                done_before += restored
                names = next(iter(values.values()))
                mean = {name: fmean(one[name] for one in values.values()) for name in names}
                each = {
                    f"replica_{replica}/{name}": value
                    for replica, metrics in values.items()
                    for name, value in metrics.items()
                }
                run.log_epoch(
                    epoch,
                    (mean if len(values) == replicas else {}) | (each if replicas > 1 else {}),
                )
                if not restored:
                    # Where replicas train one after the other the first one is judged, at the
                    # epochs where others are.
                    value = mean.get(context.metric) if 0 in values else None
                    trial.report(Progress(done, steps, value, run.run_id, done_before))
                if lines:
                    lines.epoch_ended(mean, restored=restored)

            trained = trainer.train(checked, dataset, on_epoch, folder)
            if lines:
                lines.training_ended()
            metrics = _summary([one.metrics for one in trained])
            best = max(trained, key=lambda one: one.metrics["val_accuracy"])
            epochs = max(int(replica.metrics["epochs"]) for replica in trained)
            run.log_outcome(metrics, dataset, best.predicted, best.confidence, epochs)
            run.log_model(
                trainer.to_keras_model(checked, len(dataset.classes), best.weights), dataset
            )
        if not context.study:
            log.info(
                "val_accuracy %.4f  test_accuracy %.4f  run %s",
                metrics["val_accuracy"],
                metrics["test_accuracy"],
                run.run_id,
            )
            if dataset.fallback:
                log.warning(schema.SYNTHETIC_NOTICE)
        return TrialResult(
            FINISHED, metrics, seconds=time.perf_counter() - started, run_id=run.run_id
        )


class _EpochLines:
    """What a single run says: a line for each epoch, and one whenever something takes long."""

    def __init__(self) -> None:
        self.epochs = self.done = self.trained = 0
        self.started = time.monotonic()
        self.doing = "still preparing"
        self.heartbeat = Heartbeat(self._say_what)

    def __enter__(self) -> Self:
        self.heartbeat.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.heartbeat.__exit__()

    def training_begins(self, epochs: int) -> None:
        self.epochs, self.started = epochs, time.monotonic()
        self.doing = f"in epoch 1 of {epochs}"

    def epoch_ended(self, metrics: Mapping[str, float], *, restored: bool) -> None:
        """Print an epoch's metrics, and the time left by those that were trained here."""
        self.done += 1
        self.trained += not restored
        self.doing = f"in epoch {min(self.done + 1, self.epochs)} of {self.epochs}"
        values = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        spent, left = time.monotonic() - self.started, ""
        if self.trained and self.done < self.epochs:
            left = f"  {clock(spent / self.trained * (self.epochs - self.done))} left"
        log.info("epoch %d of %d  %s%s", self.done, self.epochs, values, left)
        self.heartbeat.heard()

    def training_ended(self) -> None:
        self.doing = "scoring and logging"

    def _say_what(self) -> None:
        log.info("%s, after %s", self.doing, clock(time.monotonic() - self.started))


@contextlib.contextmanager
def _cleared(folder: Path) -> Iterator[None]:
    """Remove the checkpoints of a trial that came to its end; one that was interrupted keeps them
    to go on from."""
    from cifar_hpo.training import checkpoint

    try:
        yield
    except (Pruned, TrialError):
        checkpoint.clear(folder)
        raise
    checkpoint.clear(folder)


@contextlib.contextmanager
def _judged(context: Context, number: int) -> Iterator[None]:
    """Under a launcher that is not ours a trial asks the pruner itself, through the study's
    storage."""
    if not context.pruner or trial.has_reporter():
        yield
        return
    from cifar_hpo.study.study import pruner_for

    trial.set_reporter(pruner_for(context.storage, context.study, number, context.pruner))
    try:
        yield
    finally:
        trial.set_reporter(None)


def _summary(metrics: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over replicas and, with several, their sample standard deviation and each
    one's own; seconds add up."""
    means = {name: fmean(one[name] for one in metrics) for name in metrics[0]}
    means["train_seconds"] = sum(one["train_seconds"] for one in metrics)
    if len(metrics) == 1:
        return means
    scores = [name for name in means if "loss" in name or "accuracy" in name]
    spread = {f"{name}_std": stdev(one[name] for one in metrics) for name in scores}
    return (
        means
        | spread
        | {
            f"replica_{number}/{name}": one[name]
            for number, one in enumerate(metrics)
            for name in scores
        }
    )


objective: Any = Objective()
"""What `hydra.main` runs."""
