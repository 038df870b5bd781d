"""The options of a sweep: those of sweeper, samplers, pruners and launcher.

`keys_help` writes `--help` from these schemas and the app's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cifar_hpo.config.app import OPTIMIZERS, Data, Mlflow, Model, Training
from cifar_hpo.config.fields import key, meant
from cifar_hpo.paths import GENERATED

SAMPLERS = ("auto", "grid", "random", "tpe", "gp", "cmaes", "nsgaii", "qmc")
PRUNERS = ("none", "median", "asha", "hyperband", "patient", "promotion", "first")
ALL_GPUS = "auto"
"""hydra.launcher.gpus for all that there are."""

OF_HYDRA_OPTUNA_SWEEPER = {
    "n_jobs": "hydra/launcher=workers hydra.launcher.n_workers=N runs N trials at a time",
    "max_failure_rate": "hydra.sweeper.max_failures=N stops after N failed trials; null goes on",
    "search_space": "hydra.sweeper.params has the space as on the command line: "
    "{x: 'interval(0,1)', y: 'choice(1,2)'}",
    "custom_search_space": "no function makes a space here; hydra.sweeper.conditions says which "
    "parameters exist when, .constraints what to leave out, and an end that depends on another "
    "parameter becomes a difference to it: {dz: 'interval(-1,1)'}, z = x + dz",
    "experiment_sequence": "leave it out; hydra/sweeper/sampler=NAME says how trials are chosen",
    "sampler._target_": "choose one by hydra/sweeper/sampler=NAME: " + ", ".join(SAMPLERS),
    "pruner._target_": "choose one by hydra/sweeper/pruner=NAME: " + ", ".join(PRUNERS),
}
"""Keys of another sweeper of Hydra's that are none here, and what does the same. Schemas take them,
so that the error can say so."""


def _foreign() -> Any:
    """One of these keys; nobody sees it in help."""
    return dataclasses.field(default=None)


@dataclass
class Sampler:
    """The options of each sampler are Optuna's own, and so is what null stands for."""

    name: str = key(
        "how configurations are chosen; auto is a grid, or tpe where the space or the budget "
        "asks for it",
        default="auto",
        choices=SAMPLERS,
    )
    seed: int | None = key("makes a study with one worker repeatable", default=None, low=0)
    _target_: Any = _foreign()


@dataclass
class Tpe(Sampler):
    n_startup_trials: int | None = key("random trials at the start", default=None, low=0)
    n_ei_candidates: int | None = key("candidates compared for each trial", default=None, low=1)
    multivariate: bool | None = key("model parameters together", default=None)
    group: bool | None = key("model parameters by the groups in which they occur", default=None)
    constant_liar: bool | None = key("keep away from what is running", default=None)


@dataclass
class Gp(Sampler):
    n_startup_trials: int | None = key("random trials at the start", default=None, low=0)
    deterministic_objective: bool | None = key(
        "the same configuration always gives the same value", default=None
    )


@dataclass
class Cmaes(Sampler):
    n_startup_trials: int | None = key("random trials at the start", default=None, low=0)
    sigma0: float | None = key("first step size, as a share of the range", default=None, above=0)
    popsize: int | None = key("trials in a generation", default=None, low=2)


@dataclass
class NsgaII(Sampler):
    population_size: int | None = key("trials in a generation", default=None, low=2)
    mutation_prob: float | None = key("of each parameter", default=None, low=0, high=1)
    crossover_prob: float | None = key("of two parents having a child", default=None, low=0, high=1)
    swapping_prob: float | None = key("of a parameter in a crossover", default=None, low=0, high=1)


@dataclass
class Qmc(Sampler):
    qmc_type: str | None = key("the sequence", default=None, choices=("sobol", "halton"))
    scramble: bool | None = key("scramble it", default=None)


SAMPLER_SCHEMAS: dict[str, type[Sampler]] = {
    "tpe": Tpe,
    "gp": Gp,
    "cmaes": Cmaes,
    "nsgaii": NsgaII,
    "qmc": Qmc,
}
EXTRAS = {"gp": ("torch",), "cmaes": ("cmaes",)}
"""Packages that a sampler needs beside Optuna."""


@dataclass
class Pruner:
    """The options of each pruner are Optuna's own, and so is what null stands for; a resource or
    step is an epoch."""

    name: str = key("who stops a trial that will not win", default="none", choices=PRUNERS)
    _target_: Any = _foreign()


@dataclass
class Median(Pruner):
    n_startup_trials: int | None = key("finished trials before any is pruned", default=None, low=0)
    n_warmup_steps: int | None = key("epochs before a trial is pruned", default=None, low=0)
    interval_steps: int | None = key("epochs between two looks", default=None, low=1)
    n_min_trials: int | None = key("trials to compare with", default=None, low=1)


@dataclass
class Asha(Pruner):
    min_resource: int | None = key(
        "epochs every trial gets; null lets the first trials tell", default=None, low=1
    )
    reduction_factor: int | None = key("one in how many goes on", default=None, low=2)
    min_early_stopping_rate: int | None = key("rungs left out at the start", default=None, low=0)


@dataclass
class Hyperband(Pruner):
    min_resource: int | None = key("epochs every trial gets", default=None, low=1)
    max_resource: int | None = key(
        "epochs of a whole trial; null lets the first trials tell", default=None, low=1
    )
    reduction_factor: int | None = key("one in how many goes on", default=None, low=2)


@dataclass
class Patient(Pruner):
    patience: int = key(
        "epochs that are all worse than one before, after which a trial stops", default=3, low=0
    )
    min_delta: float | None = key("what counts as worse", default=None, low=0)


@dataclass
class Promotion(Pruner):
    """Ours: trials pause and go on when they deserve it, as `study.rungs` says."""

    min_resource: int = key("epochs every trial gets before it pauses", default=1, low=1)
    reduction_factor: int = key("one in how many goes on", default=3, low=2)


@dataclass
class First(Pruner):
    """Ours: a few epochs for all, and the best of them go on to their end."""

    epochs: int = key("epochs every trial gets before it pauses", default=1, low=1)
    top: int = key("trials that go on", default=3, low=1)


PRUNER_SCHEMAS: dict[str, type[Pruner]] = {
    "median": Median,
    "asha": Asha,
    "hyperband": Hyperband,
    "patient": Patient,
    "promotion": Promotion,
    "first": First,
}


@dataclass
class Replicas:
    """hydra.sweeper.replicas."""

    least: int = key(
        "seeds of each configuration before any is judged", default=2, low=2, whole=True
    )
    most: int = key(
        "seeds after which a configuration stays undecided", default=16, low=2, whole=True
    )


@dataclass
class Final:
    """hydra.sweeper.final."""

    top: int | None = key(
        "configurations of the search; null is 3, or all where there are nuisance keys",
        default=None,
        low=1,
        whole=True,
    )
    replicas: int = key("seeds of each, none of which the search had", default=5, low=2, whole=True)
    set: dict[str, Any] = meant("what they have otherwise than in the search", {})
    base: bool | None = key(
        "whether the config as it is takes part; null is where it has all that varies, and no key "
        "is a nuisance",
        default=None,
    )


@dataclass
class Sweeper:
    _target_: str = "hydra_plugins.cifar_hpo.StudySweeper"
    _recursive_: bool = False
    defaults: list[Any] = dataclasses.field(
        default_factory=lambda: [{"sampler": "auto"}, {"pruner": "none"}]
    )
    sampler: Any = "???"
    pruner: Any = "???"
    study_name: str | None = key(
        "null names the study after what it varies and a hash of what it means", default=None
    )
    storage: str | None = key(
        f"Optuna's store; null is {GENERATED}/studies.db, memory keeps nothing; one in PostgreSQL "
        "lets the same command on several hosts work on one study",
        default=None,
    )
    n_trials: int | None = key(
        "finished trials in all, earlier ones counted; a part of a grid is drawn at random, "
        "by the sampler's seed, unless it has replicas; null runs the whole grid",
        default=None,
        low=1,
    )
    timeout: float | None = key("seconds after which no trial starts", default=None, above=0)
    target: float | None = key("value at which the sweep stops", default=None)
    patience: int | None = key(
        "trials without a better value after which the sweep stops", default=None, low=1
    )
    direction: Any | None = key(
        "of the metric, or a list for several; null is each metric's own where the task knows it, "
        "else minimize for a loss or an error (mae, mse and rmse are some), and maximize",
        default=None,
        choices=("maximize", "minimize"),
        listed=True,
    )
    metric: Any | None = key(
        "what trials are compared by, or a list for several, among them val_NAME of a metric that "
        "your model was compiled with; null is val_accuracy, or val_loss where numbers are "
        "predicted, and in another app what its task returns as a number, which is called value",
        default=None,
        choices=(),
    )
    params: dict[str, Any] = meant("the space, as on the command line", {})
    cells: list[Any] = meant(
        "configurations to try, one by one, each with all that varies beside them: "
        "[{model.filters: 8}, {model.filters: 4, model.depth: 4}]",
        [],
    )
    order: str = key(
        "which cells of a grid come first: the longest, so that no worker ends alone; random; or "
        "as they are given",
        default="longest",
        choices=("longest", "random", "given"),
    )
    conditions: dict[str, Any] = meant(
        "parameters that exist for some choices only: {optimizer.momentum: 'optimizer=sgd'}", {}
    )
    constraints: list[str] = meant(
        "what a configuration must fulfil to be tried: ['parameters <= 2000000']", []
    )
    replicas: Any = meant(
        "seeds of a grid's configurations, more where they decide: {least: 2, most: 16} gives all "
        "the least, and those that are not shown to be worse than the best further ones; a number "
        "gives all as many",
        None,
    )
    final: Any = meant(
        "a final stage: {top: 3, replicas: 5, set: {training: {epochs: 30}}} trains the best 3 "
        "and the base configuration (unless base: false) again, from fresh seeds and with these "
        "values, in a study NAME_final, whose best model may become the champion instead of the "
        "search's; null: none, unless there are nuisance keys",
        None,
    )
    nuisance: list[str] = meant(
        "keys by which nothing is compared, such as [optimizer.learning_rate]: of each "
        "configuration without them the one at its best values goes to the final stage",
        [],
    )
    enqueue: list[Any] = meant("configurations to try first: [{model.filters: 8}]", [])
    warm_start: str | None = key(
        "an earlier study whose trials the sampler should know", default=None
    )
    retry_failed: bool = key("try the failed trials again, and nothing else", default=False)
    max_failures: int | None = key(
        "failed trials after which the sweep stops; null never", default=10, low=1
    )
    retries: int = key("further attempts of a trial whose worker was killed", default=1, low=0)
    track: bool | None = key(
        "whether MLflow gets the study and its trials; null says so where the app's config has a "
        "part mlflow",
        default=None,
    )
    fresh: bool = key("start another study beside an earlier one of this name", default=False)
    dry_run: bool = key(
        "say what would be tried, how long it would take and how much memory and disk, and start "
        "nothing",
        default=False,
    )
    max_batch_size: int | None = key(
        "trials in a batch, where the launcher takes batches; null is as many as it runs at a time",
        default=None,
        low=1,
    )
    n_jobs: Any = _foreign()
    max_failure_rate: Any = _foreign()
    search_space: Any = _foreign()
    custom_search_space: Any = _foreign()
    experiment_sequence: Any = _foreign()


@dataclass
class Launcher:
    _target_: str = "hydra_plugins.cifar_hpo.WorkersLauncher"
    _convert_: str = "all"
    n_workers: int | None = key(
        "trials at a time; null is one for each core, or on GPUs per_gpu for each, if there are as "
        "many",
        default=None,
        low=1,
    )
    threads_per_worker: int | None = key(
        "cores of a worker; null is cores / workers", default=None, low=1
    )
    trials_per_worker: int | None = key(
        "trials after which a worker is replaced, because each new shape of network leaves some "
        "10 MB",
        default=25,
        low=1,
    )
    trial_timeout: float | None = key(
        "seconds after which a trial is killed", default=None, above=0
    )
    memory_limit: float | None = key(
        "GiB of resident memory at which a worker is killed", default=None, above=0
    )
    gpus: Any | None = key(
        "NVIDIA's GPUs for the trials: how many, a list of their numbers in nvidia-smi, 0 for "
        "none, or auto for all that are here; null is auto where trials compute with TensorFlow, "
        "PyTorch, JAX or CuPy and that can use them",
        default=None,
        low=0,
        whole=True,
        words=(ALL_GPUS,),
        listed=True,
    )
    per_gpu: int | None = key(
        "trials at a time that share a GPU; null is 1, or as many as n_workers asks for",
        default=None,
        low=1,
    )


@dataclass
class RayLauncher:
    _target_: str = "hydra_plugins.cifar_hpo.RayLauncher"
    _convert_: str = "all"
    address: str | None = key(
        "of the cluster, host:port, or auto for the one of this machine; null starts a Ray of its "
        "own here, which ends with the sweep",
        default=None,
    )
    n_workers: int | None = key(
        "trials at a time; null is as many as the cluster's nodes hold, if there are as many",
        default=None,
        low=1,
    )
    num_cpus: float = key(
        "CPUs that a trial takes, and its threads; a share lets more trials run than there are",
        default=1,
        above=0,
    )
    num_gpus: float = key(
        "GPUs that a trial takes, the only ones that it sees; 0.5 shares one between two",
        default=0,
        low=0,
    )
    resources: Any = meant(
        "custom resources that a trial takes, by the names that nodes have them: {special: 1}", None
    )
    runtime_env: Any = meant(
        "Ray's runtime environment: {env_vars: {NAME: text}}, working_dir, pip", None
    )
    trials_per_worker: int | None = key(
        "trials after which a worker's process is replaced, because each new shape of network "
        "leaves some 10 MB",
        default=25,
        low=1,
    )
    trial_timeout: float | None = key(
        "seconds after which a trial is killed", default=None, above=0
    )
    memory_limit: float | None = key(
        "GiB of resident memory at which a trial is killed", default=None, above=0
    )


RAY_NAMES = ("ray", "ray_slots")
"""The second is nobody else's: hydra-ray-launcher, where it is installed, has a `ray`, too."""


def launcher_schema(options: Mapping[str, Any]) -> type | None:
    """Of the launcher that has these options; None for one that is not ours."""
    if "n_workers" not in options:
        return None
    return RayLauncher if "num_cpus" in options else Launcher


KEY_WIDTH = 26
"""Characters of the column of keys in `--help`."""


def schemas() -> dict[str, type]:
    """The schema of each part of the config, by how it is written on the command line."""
    parts: dict[str, type] = {"model": Model, "data": Data, "training": Training, "mlflow": Mlflow}
    parts |= {f"optimizer={name}": schema for name, schema in OPTIMIZERS.items()}
    parts |= {"hydra.sweeper": Sweeper, "hydra/sweeper/sampler": Sampler}
    parts |= {f"hydra/sweeper/sampler={name}": schema for name, schema in SAMPLER_SCHEMAS.items()}
    parts |= {f"hydra/sweeper/pruner={name}": schema for name, schema in PRUNER_SCHEMAS.items()}
    parts |= {"hydra.launcher": Launcher, "hydra/launcher=ray": RayLauncher}
    return parts


def documented_keys(schema: type) -> list[dataclasses.Field[Any]]:
    """The keys that a part's help lists: not its name, and a seed only where it is its own."""
    has_own = schema in (Sampler, Training, Data)
    keys = []
    for field in dataclasses.fields(schema):
        is_known_elsewhere = field.name in ("name", "seed") and not has_own
        if "meaning" in field.metadata and not is_known_elsewhere:
            keys.append(field)
    return keys


def keys_help() -> str:
    """The keys with their meanings, one on a line, as `--help` prints them."""
    lines = []
    for part, schema in schemas().items():
        lines.append(f"\n  {part}")
        for field in documented_keys(schema):
            line = f"    {field.name:<{KEY_WIDTH}}{field.metadata['meaning']}"
            choices = field.metadata.get("choices", ())
            if len(choices) > 1:
                line += f" ({', '.join(choices)})"
            lines.append(line)
    return "\n".join(lines)
