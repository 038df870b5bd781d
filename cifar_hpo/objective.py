"""The objective: a composed config in, a `TrialResult` out, an MLflow run beside it.

Training and orchestration meet here alone.

`objective` is a Hydra task function, so it runs under any launcher; as a `Task` it also says what
to validate, prepare and import. Heavy imports stand inside.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cifar_hpo import gpus, paths, processor
from cifar_hpo.attempt import Attempt, EpochLog, attempt_record, selected_by
from cifar_hpo.config import app
from cifar_hpo.config.app import FLOAT16, FLOAT32, Config
from cifar_hpo.config.validation import validate_config, validate_for_data, validate_for_streams
from cifar_hpo.data.labels import LABELS, NUMBERS
from cifar_hpo.errors import ConfigError, TrialError, UserError, exit_with
from cifar_hpo.examination import Examination, set_up_training
from cifar_hpo.left_results import LeftResults
from cifar_hpo.metrics import (
    TEST,
    VALIDATION,
    best_name,
    is_spread,
    on_training_images,
    without_best,
)
from cifar_hpo.task import OwnMetric, Profile
from cifar_hpo.trial import FINISHED, Context, Paused, Pruned, TrialResult, refuse_not_finite
from cifar_hpo.trust import Call

log = logging.getLogger(__name__)

ALL_IMAGES = 50_000
"""What data.train_size=null is taken for where nobody has looked at the images: CIFAR-10's."""

OF_ANY_LABELS = ("npz", "function")
"""Sources of data whose labels may be numbers as well as classes."""

IMAGE_COST = 1_200_000
"""What an image costs beside its multiplications, in these: base models of 4, 8 and 16 neurons take
1 : 2 : 6 of the time for 1 : 3 : 10.5 of the multiplications (AVX2, one thread)."""

IMAGE_NUMBERS = math.prod(app.CIFAR10_SHAPE)
"""Of the images for which that was measured; others are taken to cost as much for each number."""


class Objective:
    """Trains a configuration and logs it; the value of a trial is the mean over its replicas."""

    defaults_before: ClassVar[Mapping[str, Any]] = {
        "model.mirror": False,
        "model.shift": False,
        "model.dirac": False,
        "model.norm_momentum": 0.99,
        "data.split_seed": None,
        "data.folds": None,
        "data.name": None,
        "training.early_stopping_metric": "val_loss",
        "training.initial_scale": 1.0,
        "training.callbacks": [],
        "training.deterministic": True,
    }
    metrics = (
        "val_accuracy",
        "val_loss",
        "accuracy",
        "loss",
        "val_accuracy_best",
        "val_loss_best",
        "test_accuracy",
        "test_loss",
        "val_mae",
        "val_mae_best",
        "mae",
        "test_mae",
        "parameters",
        "train_seconds",
        "epochs",
    )
    epoch_metrics = (
        "val_accuracy",
        "val_loss",
        "accuracy",
        "loss",
        "val_mae",
        "mae",
        "val_accuracy_best",
        "val_loss_best",
        "val_mae_best",
    )
    logs_itself = True
    unmeant_keys = tuple(f"training.{name}" for name in app.UNMEANT_TRAINING_KEYS)
    computes_with = ("tensorflow",)
    imports = (
        "cifar_hpo.training.trainer",
        "cifar_hpo.tracking.attempts",
        "mlflow.keras",
        "mlflow.store.tracking.sqlalchemy_store",
        "git",
    )

    def __init__(self) -> None:
        self._prepared: dict[str, str] = {}
        self._streamed: set[str] = set()  # data, of those prepared, that come as streams
        self._examination = Examination()
        self._made: set[str] = set()  # callbacks that could be made
        self._labels: dict[str, str] = {}  # kinds of labels, each with the first data of its kind
        self._kept: dict[str, set[str]] = {}  # names of checkpoints in what is to be extended

    def validate(self, config: DictConfig) -> Config:
        """The typed form of a composed config; imports nothing heavy.

        Raises ConfigError for a wrong value.
        """
        return validate_config(config)

    def whole_keys(self, config: DictConfig) -> tuple[str, ...]:
        """But for arguments of the user's code, of which nobody knows what they may be."""
        return app.whole_number_keys(config)

    def prepare(self, checked: Config) -> str:
        """Decode the images once, and hold batch, splits and model against them.

        Returns the dataset's name and digest. Raises DataError where the images can't be had,
        ConfigError where they are too few, or a model or callback is none for them.
        """
        identity = self._prepare_data(checked)
        self._check_extended(checked.training.extend)
        self._check_model(checked)
        self._try_callbacks(checked)
        return identity

    def _prepare_data(self, checked: Config) -> str:
        """A grid asks for each of its cells, most of which share images and batches; these are
        looked at once."""
        key = repr((checked.data, checked.training.batch_size))
        if key not in self._prepared:
            self._prepared[key] = self._prepare(checked)
        return self._prepared[key]

    def _check_extended(self, folder: str | None) -> None:
        """Raise ConfigError where no training kept a checkpoint in what is to be extended."""
        if folder is None or self._kept.get(folder):
            return
        kept = Path(folder).rglob(paths.KEPT_CHECKPOINT.format(digest="*")) if folder else ()
        self._kept[folder] = {file.name for file in kept}
        if not self._kept[folder]:
            problem = f"no trial below {folder or 'it'} kept its checkpoint"
            hint = "training.keep_checkpoint=true, given to that study, keeps them"
            raise ConfigError("training.extend", f"{problem}; {hint}")

    def _begins_anew(self, checked: Config) -> bool:
        """Whether a training is to extend another, of which nothing was kept."""
        from cifar_hpo.training.identity import groups_of, identity_of, kept_name

        extended = checked.training.extend
        if extended is None or extended not in self._kept:
            return False
        kept = self._kept[extended]
        digest = self._prepare_data(checked).rpartition(":")[2]
        is_streamed = self._is_streamed(checked)
        for group in groups_of(checked, is_streamed=is_streamed):
            identity = identity_of(checked, digest, group, is_streamed=is_streamed)
            if kept_name(identity) not in kept:
                return True
        return False

    def _try_callbacks(self, checked: Config) -> None:
        """Make the user's callbacks, once for all cells, to see that they can be made."""
        key = repr((checked.training.callbacks, checked.training.schedule))
        if not checked.training.callbacks or key in self._made:
            return
        with processor.quiet_tensorflow():
            from cifar_hpo.training.callbacks import make_callbacks
        make_callbacks(checked.training)
        self._made.add(key)

    def _prepare(self, checked: Config) -> str:
        from cifar_hpo.data.dataset import load_dataset

        dataset = load_dataset(checked.data)
        self._labels.setdefault(dataset.labels, dataset.name)
        if dataset.streams is not None:
            self._streamed.add(repr(checked.data))
            count = dataset.streams.count
        else:
            (images, _), _ = dataset.splits(checked.data)
            count = len(images)
        if checked.training.batch_size > count:
            problem = f"{checked.training.batch_size} is more than the {count} training images"
            raise ConfigError("training.batch_size", problem)
        return f"{dataset.name}:{dataset.digest}"

    def _check_model(self, checked: Config) -> None:
        """Raise ConfigError for a model that is none for the images, looked at before."""
        from cifar_hpo.data.dataset import dataset_form

        form = dataset_form(checked.data)
        validate_for_data(checked, form.shape, has_numbers=form.labels == NUMBERS)
        if self._is_streamed(checked):
            validate_for_streams(checked)
        if isinstance(checked.model, Call):
            self._examination.check(checked)

    def _is_streamed(self, checked: Config) -> bool:
        """Whether the images, which were looked at before, come as streams."""
        return repr(checked.data) in self._streamed

    def warnings(self, checked: Config) -> list[str]:
        """What the user may not expect of a configuration, such as what is slow."""
        warnings = self._examination.warnings(checked)
        if self._is_streamed(checked):
            warnings.append("data: it comes as streams, so Keras' fit trains, epoch by epoch")
        if len(self._labels) > 1:
            kinds = [f"{LABELS[kind]} ({name})" for kind, name in self._labels.items()]
            problem = f"some labels are {', others '.join(kinds)}"
            warnings.append(f"data: {problem}; their losses can't be compared")
        if self._begins_anew(checked):
            problem = f"{checked.training.extend} has nothing that some configurations would extend"
            warnings.append(f"training.extend: {problem}; these are trained from the beginning")
        problem = _precision_problem(checked.training.precision)
        if problem:
            warnings.append(f"training.precision: {problem}")
        if checked.training.replicas > 1 and checked.reason_not_fused:
            reason = f"with {checked.reason_not_fused} they train one after the other"
            warnings.append(f"training.replicas: {reason}")
        folds, replicas = checked.data.folds, checked.training.replicas
        if folds:
            problem = f"a replica is validated on one part of {folds}; data.validation is not used"
            warnings.append(f"data.folds: {problem}")
            if replicas < folds:
                problem = f"{replicas} replicas are validated on {replicas} parts of {folds}"
                warnings.append(f"data.folds: {problem}; training.replicas={folds} takes all")
            if replicas > folds:
                problem = f"{replicas} replicas are more than its {folds} parts, so some share one"
                warnings.append(f"data.folds: {problem}; training.replicas={folds} takes each once")
        return warnings

    def cost(self, checked: Config) -> float | None:
        """How much work a configuration is beside others, in multiplications; None for a model of
        the user's.

        By it a grid tries the longest first.
        """
        if isinstance(checked.model, Call):
            return None
        from cifar_hpo.data.dataset import known_form

        form = known_form(checked.data)
        images = checked.data.train_size or (form.images if form else ALL_IMAGES)
        shape = form.shape if form else app.CIFAR10_SHAPE
        of_image = checked.model.multiply_adds(shape)
        of_image += IMAGE_COST * math.prod(shape) / IMAGE_NUMBERS
        passes = checked.training.epochs * checked.training.replicas
        return float(of_image * images * passes)

    def measure(self, checked: Config) -> dict[str, float]:
        """What is known of a configuration before it is trained, for constraints.

        parameters: weights and biases. multiply_adds: multiplications for one image, which nobody
        knows of a user's model. operations: the same, by the name that constraints know from
        version 0.1.
        """
        from cifar_hpo.data.dataset import dataset_form

        if isinstance(checked.model, Call):
            return {"parameters": float(self._examination.parameters(checked))}
        form = dataset_form(checked.data)
        parameters = checked.model.parameters(form.outputs, form.shape)
        multiply_adds = float(checked.model.multiply_adds(form.shape))
        return {
            "parameters": float(parameters),
            "operations": multiply_adds,
            "multiply_adds": multiply_adds,
        }

    def lacks(self, checked: Config, metric: str) -> str:
        """Why a trial will not have a metric: a spread over replicas needs two of them."""
        if is_spread(metric) and checked.training.replicas == 1:
            return "a spread needs training.replicas=2 or more"
        if self._may_bring(checked, metric):
            return ""
        if "accuracy" in metric and self._predicts_numbers(checked):
            return "its labels are numbers; take val_loss"
        if without_best(metric).endswith("mae") and self._is_known_without_numbers(checked):
            return "its labels are no numbers; take val_accuracy"
        return ""

    def _may_bring(self, checked: Config, metric: str) -> bool:
        """Whether a model of the user's comes with a metric, as far as that is known."""
        if not isinstance(checked.model, Call):
            return False
        brought = self._examination.metrics(checked)
        return brought is None or on_training_images(metric) in brought

    def default_metric(self, checked: Config) -> str:
        """The accuracy on the validation images, or the loss where numbers are predicted.

        Raises what `prepare` raises.
        """
        if checked.data.source in OF_ANY_LABELS:
            self._prepare_data(checked)
        return "val_loss" if self._predicts_numbers(checked) else "val_accuracy"

    def own_metrics(self, checked: Config) -> Mapping[str, OwnMetric] | None:
        """Those that a model of the user's was compiled with; None of one that was not built,
        because many others were before."""
        if not isinstance(checked.model, Call):
            return {}
        self._prepare_data(checked)
        self._check_model(checked)
        brought = self._examination.metrics(checked)
        if brought is None:
            return None
        own = {}
        for name, direction in brought.items():
            for by_epoch in (VALIDATION + name, best_name(VALIDATION + name)):
                own[by_epoch] = OwnMetric(direction, by_epoch=True)
            own[TEST + name] = OwnMetric(direction, by_epoch=False)
        return own

    def profile(self, checked: Config) -> Profile | None:
        """What a trial takes, by some steps of its training; None where images come as a stream.

        Raises what a trial raises.
        """
        with processor.quiet_tensorflow():
            from cifar_hpo.data.dataset import load_dataset
            from cifar_hpo.training import trainer
            from cifar_hpo.training.profile import profile

        trainer.set_up(checked.training)
        if _calls_code(checked):
            trainer.seed_users_code(checked.training)
        return profile(checked, load_dataset(checked.data))

    def _predicts_numbers(self, checked: Config) -> bool:
        """Whether the labels are numbers, as far as the images were looked at before."""
        if checked.data.source not in OF_ANY_LABELS:
            return False
        from cifar_hpo.data.dataset import known_form

        form = known_form(checked.data)
        return form is not None and form.labels == NUMBERS

    def _is_known_without_numbers(self, checked: Config) -> bool:
        """Whether the images were looked at before, and their labels are no numbers."""
        from cifar_hpo.data.dataset import known_form

        return known_form(checked.data) is not None and not self._predicts_numbers(checked)

    def __call__(self, config: DictConfig) -> TrialResult:
        """Validate, prepare, train, evaluate and log one configuration.

        Raises ConfigError and DataError for what the user can mend, TrialError when training
        diverges; outside a study these end the program, because Hydra would print more than one
        line.
        """
        if Context.from_environment().study:
            return self.run(config, self.validate(config))
        try:
            _refuse_dry_run()
            with in_starting_folder(), EpochLog() as epoch_log:
                checked = self.validate(config)
                if _calls_code(checked):
                    set_up_training(checked)  # before the user's code computes for a first time
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
        with in_starting_folder():
            return self._run(config, checked, epoch_log=None)

    def _run(self, config: DictConfig, checked: Config, epoch_log: EpochLog | None) -> TrialResult:
        with processor.quiet_tensorflow():
            from cifar_hpo.data.dataset import load_dataset
            from cifar_hpo.tracking.attempts import attempt_run
            from cifar_hpo.training import trainer

        started = time.perf_counter()
        trainer.set_up(checked.training)
        if _calls_code(checked):
            trainer.seed_users_code(checked.training)
        dataset = load_dataset(checked.data)
        context = Context.from_environment()
        hydra = HydraConfig.get()
        number = hydra.job.num if context.study else 0
        overrides = tuple(hydra.overrides.task)
        record = attempt_record(
            config, checked, dataset, context, number=number, overrides=overrides
        )
        folder = Path(hydra.runtime.output_dir)
        is_kept = checked.training.keep_checkpoint
        with checkpoints_cleared(folder, is_kept=is_kept), attempt_run(record, folder) as run:
            attempt = Attempt(checked, dataset, run, context.metric, epoch_log)
            attempt.begin()
            trained = trainer.train(checked, dataset, attempt.on_epoch, folder)
            metrics = attempt.finish(trained)
            refuse_not_finite(metrics, context.metrics)
            # Before the run ends as FINISHED: whoever dies now must not train this again.
            left = LeftResults.of_context(context)
            if left and run.wait():
                seconds = time.perf_counter() - started
                result = TrialResult(FINISHED, metrics, seconds=seconds, run_id=run.run_id)
                left.write(number, overrides, result)
        if not context.study:
            name = selected_by(dataset.labels).removeprefix("val_")
            scores = name, metrics[f"val_{name}"], name, metrics[f"test_{name}"]
            shown = run.run_id or "not logged"
            log.info("val_%s %.4f  test_%s %.4f  run %s", *scores, shown)
            if dataset.fallback:
                log.warning(app.SYNTHETIC_NOTICE)
        seconds = time.perf_counter() - started
        return TrialResult(
            FINISHED, metrics, seconds=seconds, run_id=run.run_id, unlogged=run.unlogged
        )


def _refuse_dry_run() -> None:
    """Raise ConfigError where a single run was asked for what sweeps alone have: it would train."""
    if HydraConfig.initialized() and HydraConfig.get().sweeper.get("dry_run"):
        raise ConfigError("hydra.sweeper.dry_run", "a single run would train; add -m for a sweep")


def _precision_problem(precision: str) -> str:
    """What speaks against a precision where trials compute on the processor; empty for nothing."""
    if precision == FLOAT32 or gpus.tensorflow_has_gpu():
        return ""
    kind = processor.instruction_set()
    slow = f"{precision} will be slower than float32"
    if precision == FLOAT16:
        return f"it is for GPUs, and there is none; {slow}"
    if not processor.can_compute_in_bfloat16():
        return f"oneDNN has no bfloat16 on {kind}: it is float32"
    if not processor.is_fast_in_bfloat16():
        return f"nothing is gained by it on {kind}; {slow}"
    return ""


def _calls_code(checked: Config) -> bool:
    """Whether code of the user's is called while a configuration is prepared."""
    is_any = isinstance(checked.model, Call) or checked.data.call is not None
    return is_any or bool(checked.training.callbacks)


def in_starting_folder() -> contextlib.AbstractContextManager[None]:
    """Paths are relative to the folder in which the command was started, whatever
    `hydra.job.chdir` says."""
    if HydraConfig.initialized() and HydraConfig.get().job.chdir:
        return contextlib.chdir(HydraConfig.get().runtime.cwd)
    return contextlib.nullcontext()


@contextlib.contextmanager
def checkpoints_cleared(folder: Path, *, is_kept: bool) -> Iterator[None]:
    """Remove the checkpoints of a trial that came to its end.

    One that was interrupted, or pauses, keeps them to go on from. is_kept: whether one that
    finished leaves its last ones for a longer training.
    """
    from cifar_hpo.training import checkpoint

    try:
        yield
    except Paused:
        raise
    except (Pruned, TrialError):
        checkpoint.clear(folder)
        raise
    if is_kept:
        checkpoint.keep(folder)
    checkpoint.clear(folder)


objective: Any = Objective()
"""What `hydra.main` runs."""
