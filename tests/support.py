"""Steps that several tests share: small images, and the command line as a user has it."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pickle
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.plugins import Plugins
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState
from PIL import Image

from cifar_hpo.config import sweep as sweep_schema
from cifar_hpo.data.cifar import CIFAR10, Cifar
from cifar_hpo.data.dataset import PREPARED
from cifar_hpo.metrics import replica_name
from cifar_hpo.paths import CONF
from cifar_hpo.study.ranking import OUTCOME, FinishedTrial
from cifar_hpo.study.space import Space
from cifar_hpo.study.storage import open_storage
from cifar_hpo.study.stored import MEANING
from cifar_hpo.study.study import Study
from cifar_hpo.trial import FAILED, FINISHED, PRUNED, TrialResult, TrialSpec

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Clock = Callable[[float], None]
FakeGpus = Callable[..., None]
"""The fixture `fake_gpus`."""


class RealSweep(NamedTuple):
    """A sweep `real` of two configurations with three replicas, and its report.

    folder: with a small.npz in it. arguments: of the command that ran there.
    """

    folder: Path
    arguments: list[str]


IMAGE_FOLDER_CLASSES = ("cat", "dog", "owl")
StubObjective = Callable[[TrialSpec], TrialResult]


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten classes told apart by their brightness and colour, which a CNN learns in a few steps."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 10).astype(np.uint8)
    level = np.stack([labels * 25, 255 - labels * 25, (labels % 3) * 100], axis=-1)
    noise = rng.integers(-20, 20, size=(n, 32, 32, 3))
    return np.clip(level[:, None, None, :] + noise, 0, 255).astype(np.uint8), labels


def write_image_folder(root: Path, images_per_class: int = 4) -> Path:
    """Images as `data=folder` takes them; the red of each tells its class."""
    for split in ("train", "test"):
        for label, name in enumerate(IMAGE_FOLDER_CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(images_per_class):
                image = Image.new("RGB", (32, 32), (label * 100, number, 7))
                image.save(folder / f"{number}.png")
    return root


CLUTTER = (
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "._0.png",
    "Icon\r",
    ".ipynb_checkpoints/0-checkpoint.png",
    "__MACOSX/._0.png",
    "@eaDir/0.png",
)
"""What Finder, Explorer, Jupyter and disk stations leave among images."""


def scatter_clutter(root: Path) -> None:
    """Leave it in a folder of images, in its splits and in its class folders."""
    for folder in (root, root / "train", root / "test", root / "train" / "cat"):
        for name in CLUTTER:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("no image")


def write_npz(path: Path, count: int, **more: Any) -> Path:
    """Images as `data=npz` takes them, one of each class in both splits.

    count: of classes. more: further arrays.
    """
    labels = np.arange(count)
    pixels = np.zeros((count, 32, 32, 3), np.uint8)
    pixels[:, 0, 0, 0] = labels % 256
    pixels[:, 0, 0, 1] = labels // 256
    np.savez(path, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels, **more)
    return path


def write_cifar10_batches(root: Path, images_per_batch: int = 10, cifar: Cifar = CIFAR10) -> Path:
    """The six files of CIFAR-10's unpacked archive, with few images; the seed is the place.

    Those of CIFAR-100 are two.
    """
    root.mkdir(parents=True)
    for seed, name in enumerate(cifar.batches):
        pixels, labels = images(images_per_batch, seed)
        planes = pixels.transpose(0, 3, 1, 2).reshape(images_per_batch, -1)
        batch = {cifar.label_key: labels.tolist(), b"data": planes}
        (root / name).write_bytes(pickle.dumps(batch, protocol=2))
    return root


VERSION_BASE_WARNING = "ignore:The version_base parameter is deprecated"
"""What Hydra 1.4 says on standard error of an app that gives what Hydra 1.3 wants."""


def clean() -> dict[str, str]:
    """The environment without what other tests in this process left there: MLflow's store, and
    where images were decoded."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MLFLOW_TRACKING_URI", PREPARED)
    }
    return {"PYTHONWARNINGS": VERSION_BASE_WARNING, **kept}


def run_in(
    folder: Path, *arguments: str, module: str = "cifar_hpo", **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m cifar_hpo` in a folder, or another of its commands."""
    return run_command(folder, [sys.executable, "-m", module, *arguments], **environment)


def run_command(
    folder: Path, command: Sequence[str], **environment: str
) -> subprocess.CompletedProcess[str]:
    """Any command in a folder, to its end."""
    return subprocess.run(
        command,
        cwd=folder,
        env=clean() | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


STUB_SWEEP = (
    "app.py",
    "-m",
    "hydra/sweeper=study",
    "hydra/launcher=workers",
    "hydra.launcher.n_workers=1",
    "hydra.sweeper.study_name=s",
    "hydra.sweeper.metric=y",
    "hydra.sweeper.direction=maximize",
)
"""What starts a study `s` of an app that returns `y`, in one worker."""


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("bombed",)


def call_in(
    folder: Path, main: Callable[[Sequence[str]], None], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """A command's `main` in a folder, in this process, which spares the start of another one."""
    returncode = 0
    with (
        contextlib.chdir(folder),
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        for name in os.environ.keys() - clean().keys():
            patch.delenv(name)
        try:
            main(arguments)
        except SystemExit as ended:
            returncode = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return subprocess.CompletedProcess(arguments, returncode, out.getvalue(), err.getvalue())


Outcomes = Sequence[tuple[Mapping[str, Any], Sequence[float] | str]]
"""Of each trial its parameters, and the values of its replicas or an error; `PRUNED` for one that a
pruner stopped."""


OPTUNA_STATES = {FAILED: TrialState.FAIL, PRUNED: TrialState.PRUNED}


def lay_out(
    folder: Path,
    outcomes: Outcomes,
    name: str = "laid",
    seconds: float = 8.0,
    *,
    direction: Literal["maximize", "minimize"] = "maximize",
    more_meaning: Mapping[str, Any] | None = None,
) -> Any:
    """A study whose trials came to these outcomes, written past the sweep; returns its storage.

    more_meaning: what it means beside the rest.
    """
    (folder / "mlruns").mkdir(exist_ok=True)
    storage = open_storage(f"sqlite:///{folder}/mlruns/studies.db")
    study = optuna.create_study(study_name=name, storage=storage, direction=direction)
    meaning = {
        "metric": "val_accuracy",
        "direction": direction,
        "data": ["small:0"],
        "config": {"training": {"seed": 0}},
    } | dict(more_meaning or {})
    study.set_user_attr(MEANING, meaning)
    distributions: dict[str, BaseDistribution] = {}
    for key in {key for params, _ in outcomes for key in params}:
        choices = sorted({str(params.get(key)) for params, _ in outcomes})
        distributions[key] = CategoricalDistribution(choices)
    trials = []
    for number, (params, values) in enumerate(outcomes):
        outcome = _outcome(number, values, seconds)
        is_finished = outcome["state"] == FINISHED
        trial = optuna.trial.create_trial(
            state=TrialState.COMPLETE if is_finished else OPTUNA_STATES[outcome["state"]],
            value=outcome["values"][0] if is_finished else None,
            params={key: str(value) for key, value in params.items()},
            distributions={key: distributions[key] for key in params},
            user_attrs={OUTCOME: outcome},
        )
        trials.append(trial)
    study.add_trials(trials)
    return storage


def _outcome(number: int, values: Sequence[float] | str, seconds: float) -> dict[str, Any]:
    """A trial's outcome as a sweep notes it."""
    outcome: dict[str, Any] = {
        "state": FAILED,
        "values": None,
        "metrics": {},
        "error": "",
        "seconds": seconds,
        "run_id": "",
        "worker": number % 2,
        "ended": 1000.0 + 5 * number,
    }
    if values == PRUNED:
        return outcome | {"state": PRUNED, "error": "after epoch 1 of 3 by median, at 0.1"}
    if isinstance(values, str):
        return outcome | {"error": values}
    mean = float(np.mean(values))
    metrics = {
        "val_accuracy": mean,
        "test_accuracy": mean - 0.01,
        "parameters": 1000.0 + number,
        "train_seconds": 5.0 + number,
    }
    if len(values) > 1:
        for replica, value in enumerate(values):
            metrics[replica_name(replica, "val_accuracy")] = value
            metrics[replica_name(replica, "test_accuracy")] = value - 0.01
    return outcome | {"state": FINISHED, "values": [mean], "metrics": metrics}


def garble(file: Path, size: int, start: int | None = None) -> None:
    """Overwrite so many bytes, in the middle of the file unless said where."""
    content = bytearray(file.read_bytes())
    begin = (len(content) - size) // 2 if start is None else start
    content[begin : begin + size] = np.random.default_rng(0).bytes(size)
    file.write_bytes(content)


@contextlib.contextmanager
def no_space_beyond(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Return as soon as the condition holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def composed(*overrides: str) -> DictConfig:
    """This project's config, with overrides."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


@functools.cache
def config_loader() -> ConfigLoaderImpl:
    """Hydra's, on this project's configs."""
    Plugins.instance()
    return ConfigLoaderImpl(config_search_path=create_config_search_path(f"file://{CONF}"))


def parse_space(*overrides: str, **conditions: str) -> Space:
    """A search space from the command line, and the conditions of its parameters."""
    return Space.parse(overrides, {}, config_loader(), conditions)


def study_options(sampler: str = "grid", **changes: Any) -> dict[str, Any]:
    """The options of `hydra.sweeper`, with their defaults and a metric `y`."""
    options: dict[str, Any] = {}
    for name, field in sweep_schema.Sweeper.__dataclass_fields__.items():
        if name not in ("params", "defaults"):
            options[name] = field.default
    schema = sweep_schema.SAMPLER_SCHEMAS.get(sampler, sweep_schema.Sampler)
    options["sampler"] = vars(schema(name=sampler)) | {"seed": changes.pop("seed", 0)}
    options |= {"pruner": {"name": "none"}, "metric": "y", "direction": "maximize"}
    options |= {"enqueue": [], "constraints": [], "conditions": {}}
    return options | changes


def finished(value: float, **metrics: float) -> TrialResult:
    """The result of a trial whose metric `y` is this value."""
    return TrialResult(FINISHED, {"y": value, **metrics})


def work(study: Study, objective: StubObjective) -> list[TrialSpec]:
    """Run a study's trials, one after the other, to the end."""
    specs = []
    for spec in study.specs():
        assert spec, "nothing runs, so nothing can be waited for"
        study.tell(spec, objective(spec))
        specs.append(spec)
    return specs


def swept(
    space: Space, objective: StubObjective, name: str = "s", **given: Any
) -> tuple[list[TrialSpec], list[FinishedTrial]]:
    """What a sweep tried, in its order, and the study's ranking at its end."""
    with Study.open(name, space, study_options(**given), {"a": 1}) as study:
        return work(study, objective), study.ranking()
