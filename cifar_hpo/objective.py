"""The objective: a composed config in, a `TrialResult` out, an MLflow run beside it.

Training and orchestration meet here alone. An `Attempt` is one try at a trial.

`objective` is a Hydra task function, so it runs under any launcher; as a `Task` it also says what
to validate, prepare and import. Heavy imports stand inside.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from cifar_hpo import processor, trial
from cifar_hpo.config import app
from cifar_hpo.config.app import Config
from cifar_hpo.config.fields import flat
from cifar_hpo.console import Heartbeat, clock
from cifar_hpo.errors import ConfigError, TrialError, UserError, exit_with
from cifar_hpo.metrics import ReplicaMetrics
from cifar_hpo.trial import FINISHED, Context, Progress, Pruned, TrialResult

if TYPE_CHECKING:
    from cifar_hpo.data.dataset import Dataset
    from cifar_hpo.tracking.runs import AttemptRecord, AttemptRun
    from cifar_hpo.training.trainer import Trained

log = logging.getLogger(__name__)

ALL_IMAGES = 50_000
"""What data.train_size=null is taken for where nobody has looked at the images: CIFAR-10's."""

IMAGE_COST = 1_200_000
"""What an image costs beside its multiplications, in these: base models of 4, 8 and 16 neurons take
1 : 2 : 6 of the time for 1 : 3 : 10.5 of the multiplications (AVX2, one thread)."""

EXPERIMENT = "cifar_hpo"
"""MLflow's experiment of runs outside a study, unless the config names one."""

SELECTED_BY = "val_accuracy"
"""Of a trial's replicas the best by this one is kept as its model."""


class Objective:
    """Trains a configuration and logs it; the value of a trial is the mean over its replicas."""

    defaults_before: ClassVar[Mapping[str, Any]] = {
        "model.mirror": False,
        "model.norm_momentum": 0.99,
    }
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

    def validate(self, config: DictConfig) -> Config:
        """The typed form of a composed config; imports nothing heavy.

        Raises ConfigError for a wrong value.
        """
        return app.validate_config(config)

    def prepare(self, checked: Config) -> str:
        """Decode the images once, and hold batch and splits against them.

        Returns the dataset's name and digest. Raises DataError where the images can't be had,
        ConfigError where they are too few.
        """
        from cifar_hpo.data.dataset import load_dataset

        dataset = load_dataset(checked.data)
        (images, _), _ = dataset.splits(checked.data)
        if checked.training.batch_size > len(images):
            problem = (
                f"{checked.training.batch_size} is more than the {len(images)} training images"
            )
            raise ConfigError("training.batch_size", problem)
        return f"{dataset.name}:{dataset.digest}"

    def warnings(self, checked: Config) -> list[str]:
        """What is slower than one would expect of a configuration."""
        warnings = []
        if checked.training.precision == "mixed_bfloat16":
            kind = processor.instruction_set()
            if not processor.can_compute_in_bfloat16():
                problem = f"oneDNN has no bfloat16 on {kind}: it is float32"
                warnings.append(f"training.precision: {problem}")
            elif not processor.is_fast_in_bfloat16():
                slow = "mixed_bfloat16 will be slower than float32"
                warnings.append(f"training.precision: nothing is gained by it on {kind}; {slow}")
        if checked.training.replicas > 1 and checked.reason_not_fused:
            reason = f"with {checked.reason_not_fused} they train one after the other"
            warnings.append(f"training.replicas: {reason}")
        return warnings

    def cost(self, checked: Config) -> float:
        """How much work a configuration is beside others, in multiplications.

        By it a grid tries the longest first.
        """
        images = checked.data.train_size or ALL_IMAGES
        passes = checked.training.epochs * checked.training.replicas
        return float((checked.model.multiply_adds() + IMAGE_COST) * images * passes)

    def measure(self, checked: Config) -> dict[str, float]:
        """What is known of a configuration before it is trained, for constraints.

        parameters: weights and biases. multiply_adds: multiplications for one image. operations:
        the same, by the name that constraints know from version 0.1.
        """
        from cifar_hpo.data.dataset import class_count

        parameters = checked.model.parameters(class_count(checked.data))
        multiply_adds = float(checked.model.multiply_adds())
        return {
            "parameters": float(parameters),
            "operations": multiply_adds,
            "multiply_adds": multiply_adds,
        }

    def __call__(self, config: DictConfig) -> TrialResult:
        """Validate, prepare, train, evaluate and log one configuration.

        Raises ConfigError and DataError for what the user can mend, TrialError when training
        diverges; outside a study these end the program, because Hydra would print more than one
        line.
        """
        if Context.from_environment().study:
            return self.run(config, self.validate(config))
        try:
            with EpochLog() as epoch_log:
                checked = self.validate(config)
                self.prepare(checked)
                for warning in self.warnings(checked):
                    log.warning(warning)
                return self._run(config, checked, epoch_log)
        except (UserError, TrialError) as error:
            exit_with(error)

    def run(self, config: DictConfig, checked: Config) -> TrialResult:
        """Train, evaluate and log one configuration of a study, which was validated before.

        Raises ConfigError and DataError for what the user can mend, TrialError when training
        diverges, Pruned where the study stops it.
        """
        return self._run(config, checked, epoch_log=None)

    def _run(self, config: DictConfig, checked: Config, epoch_log: EpochLog | None) -> TrialResult:
        with processor.quiet_tensorflow():
            from cifar_hpo.data.dataset import load_dataset
            from cifar_hpo.tracking.runs import attempt_run
            from cifar_hpo.training import trainer

        started = time.perf_counter()
        trainer.set_up(checked.training)
        dataset = load_dataset(checked.data)
        context = Context.from_environment()
        hydra = HydraConfig.get()
        number = hydra.job.num if context.study else 0
        overrides = tuple(hydra.overrides.task)
        record = attempt_record(
            config, checked, dataset, context, number=number, overrides=overrides
        )
        folder = Path(hydra.runtime.output_dir)
        with (
            checkpoints_cleared(folder),
            pruned_by_storage(context, number),
            attempt_run(record) as run,
        ):
            attempt = Attempt(checked, dataset, run, context.metric, epoch_log)
            attempt.begin()
            trained = trainer.train(checked, dataset, attempt.on_epoch, folder)
            metrics = attempt.finish(trained)
        if not context.study:
            scores = metrics["val_accuracy"], metrics["test_accuracy"]
            log.info("val_accuracy %.4f  test_accuracy %.4f  run %s", *scores, run.run_id)
            if dataset.fallback:
                log.warning(app.SYNTHETIC_NOTICE)
        seconds = time.perf_counter() - started
        return TrialResult(FINISHED, metrics, seconds=seconds, run_id=run.run_id)


class Attempt:
    """One attempt at a trial: logs its epochs, reports them to the study, and what it came to.

    Epochs are counted over all replicas that train one after the other. done: so far, by whatever
    attempt. restored: of these, by an earlier one.
    """

    def __init__(
        self,
        checked: Config,
        dataset: Dataset,
        run: AttemptRun,
        metric: str,
        epoch_log: EpochLog | None,
    ) -> None:
        self.checked = checked
        self.dataset = dataset
        self.run = run
        self.metric = metric
        self.epoch_log = epoch_log
        self.replicas = checked.training.replicas
        self.epochs = checked.training.epochs * (1 if checked.is_fused else self.replicas)
        self.done = 0
        self.restored = 0

    def begin(self) -> None:
        """Say that training begins, and in which run."""
        if self.epoch_log:
            self.epoch_log.training_begins(self.epochs)
        trial.report(Progress(0, self.epochs, run_id=self.run.run_id))

    def on_epoch(
        self, epoch: int, values: Mapping[int, Mapping[str, float]], *, restored: bool
    ) -> None:
        """Log an epoch of the replicas in `values`, and ask whether to go on. Raises Pruned."""
        self.done += 1
        self.restored += restored
        metrics = ReplicaMetrics(values)
        self.run.log_metrics(epoch + 1, metrics.epoch(self.replicas))
        mean = metrics.mean()
        if not restored:
            # Where replicas train one after the other the first one is judged, at the epochs where
            # others are.
            value = mean.get(self.metric) if 0 in values else None
            run_id = self.run.run_id
            trial.report(Progress(self.done, self.epochs, value, run_id, self.restored))
        if self.epoch_log:
            self.epoch_log.epoch_ended(mean, restored=restored)

    def finish(self, trained: Sequence[Trained]) -> dict[str, float]:
        """Log what came of it, with the best replica's predictions and model; returns metrics."""
        if self.epoch_log:
            self.epoch_log.training_ended()
        metrics = ReplicaMetrics.from_list([replica.metrics for replica in trained]).summary()
        best = max(trained, key=lambda replica: replica.metrics[SELECTED_BY])
        epochs = max(int(replica.metrics["epochs"]) for replica in trained)
        self._log_outcome(epochs, metrics, best)
        return metrics

    def _log_outcome(self, epochs: int, metrics: Mapping[str, float], best: Trained) -> None:
        from cifar_hpo.tracking.runs import Predictions
        from cifar_hpo.training.trainer import to_keras_model

        images, labels = self.dataset.test
        classes = self.dataset.classes
        predictions = Predictions(classes, labels.astype("int64"), best.predicted, best.confidence)
        self.run.log_outcome(epochs, metrics, predictions)
        model = to_keras_model(self.checked, len(classes), best.weights)
        self.run.log_model(model, classes, images[:1])


def attempt_record(
    config: DictConfig,
    checked: Config,
    dataset: Dataset,
    context: Context,
    *,
    number: int,
    overrides: tuple[str, ...],
) -> AttemptRecord:
    """What MLflow shows of an attempt, all of it plain values.

    Params are as written in the config: an interpolation, which may hold a password, is not
    resolved.
    """
    from cifar_hpo.tracking.runs import AttemptRecord, DatasetRecord

    values = flat(OmegaConf.to_container(config, resolve=False))
    # Where runs are stored says nothing of a trial.
    params = {key: value for key, value in values.items() if not key.startswith("mlflow.")}
    images, labels = dataset.train
    return AttemptRecord(
        tracking_uri=checked.mlflow.tracking_uri,
        experiment_name=checked.mlflow.experiment or EXPERIMENT,
        overrides=overrides,
        params=params,
        config_yaml=OmegaConf.to_yaml(config),
        dataset=DatasetRecord(
            dataset.name, dataset.digest, images[:1], labels[:1], fallback=dataset.fallback
        ),
        context=context,
        number=number,
        note=app.SYNTHETIC_NOTICE if dataset.fallback else "",
        tags={"cpu": platform.processor() or platform.machine()},
        system_metrics=checked.mlflow.system_metrics,
    )


class EpochLog:
    """What a single run prints: a line for each epoch, and one whenever something takes long."""

    def __init__(self) -> None:
        self.epochs = 0
        self.done = 0
        self.trained = 0  # of those done, the ones that were not restored from a checkpoint
        self.started = time.monotonic()
        self.doing = "still preparing"
        self.heartbeat = Heartbeat(self._log_doing)

    def __enter__(self) -> Self:
        self.heartbeat.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.heartbeat.__exit__()

    def training_begins(self, epochs: int) -> None:
        self.epochs = epochs
        self.started = time.monotonic()
        self.doing = f"in epoch 1 of {epochs}"

    def epoch_ended(self, metrics: Mapping[str, float], *, restored: bool) -> None:
        """Print an epoch's metrics, and the time left by those that were trained here."""
        self.done += 1
        self.trained += not restored
        self.doing = f"in epoch {min(self.done + 1, self.epochs)} of {self.epochs}"
        values = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        log.info("epoch %d of %d  %s%s", self.done, self.epochs, values, self._time_left())
        self.heartbeat.heard()

    def _time_left(self) -> str:
        """Empty after the last epoch, and before one was trained here."""
        if not self.trained or self.done >= self.epochs:
            return ""
        seconds = (time.monotonic() - self.started) / self.trained
        return f"  {clock(seconds * (self.epochs - self.done))} left"

    def training_ended(self) -> None:
        self.doing = "scoring and logging"

    def _log_doing(self) -> None:
        log.info("%s, after %s", self.doing, clock(time.monotonic() - self.started))


@contextlib.contextmanager
def checkpoints_cleared(folder: Path) -> Iterator[None]:
    """Remove the checkpoints of a trial that came to its end.

    One that was interrupted keeps them to go on from.
    """
    from cifar_hpo.training import checkpoint

    try:
        yield
    except (Pruned, TrialError):
        checkpoint.clear(folder)
        raise
    checkpoint.clear(folder)


@contextlib.contextmanager
def pruned_by_storage(context: Context, number: int) -> Iterator[None]:
    """Let a trial under a launcher that is not ours ask the pruner, through the study's storage.

    Our own workers report to the parent, which asks it.
    """
    if not context.pruner or trial.has_reporter():
        yield
        return
    from cifar_hpo.study.study import pruner_for

    trial.set_reporter(pruner_for(context.storage, context.study, number, context.pruner))
    try:
        yield
    finally:
        trial.set_reporter(None)


objective: Any = Objective()
"""What `hydra.main` runs."""
