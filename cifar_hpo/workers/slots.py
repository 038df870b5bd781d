"""The places that workers fill: `Slots`, each with its cores, and where trials use GPUs with one.

`Slots.from_options` settles how many there are, by the launcher's options and what is here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cifar_hpo import gpus
from cifar_hpo.config.fields import check_values
from cifar_hpo.config.sweep import ALL_GPUS, Launcher
from cifar_hpo.errors import ConfigError
from cifar_hpo.gpus import Gpu

log = logging.getLogger(__name__)

GPUS = "hydra.launcher.gpus"

FOR_TENSORFLOW = (
    "TensorFlow is built without CUDA or has no cuDNN; pip install 'tensorflow[and-cuda]', or "
    "hydra.launcher.gpus=auto where it finds its libraries all the same"
)


@dataclass(frozen=True)
class Slots:
    """How many workers there may be at a time, and what each has.

    threads: cores of each. gpus: those that trials use, which take turns over the slots, so that
    the first workers are not on one; empty for trials on the processor. are_hidden: whether workers
    see no GPU, because the user says so.
    """

    count: int
    threads: int
    gpus: tuple[Gpu, ...] = ()
    are_hidden: bool = False

    @classmethod
    def from_options(
        cls,
        options: Mapping[str, Any],
        libraries: Sequence[str],
        *,
        cores: int,
        jobs: int | None,
    ) -> Slots:
        """By the launcher's options, as in `config.sweep.Launcher`.

        There is a slot for each GPU, else for each of the cores, but not more than jobs where that
        is known; cores are shared evenly. libraries: those that trials compute with, as far as
        their task says; else what the program has loaded. Raises ConfigError for GPUs that are not
        here, and for more workers than may share them.
        """
        check_values("hydra.launcher", Launcher, options)
        wanted, per_gpu = options.get("n_workers"), options.get("per_gpu")
        chosen = _chosen_gpus(options.get("gpus"), libraries)
        places = len(chosen) * (per_gpu or 1) or cores
        if chosen and per_gpu and wanted and wanted > places:
            problem = f"{wanted} are more than {_of_gpus(len(chosen))} with {per_gpu} each take"
            hint = f"hydra.launcher.per_gpu={-(-wanted // len(chosen))}"
            raise ConfigError("hydra.launcher.n_workers", f"{problem}; {hint}")
        count: int = wanted or min(places, jobs or places)
        return cls(
            count,
            threads=options.get("threads_per_worker") or max(1, cores // count),
            gpus=tuple(chosen[:count]),
            are_hidden=options.get("gpus") == 0,
        )

    def gpu(self, slot: int) -> Gpu | None:
        """The one of a slot."""
        return self.gpus[slot % len(self.gpus)] if self.gpus else None

    def shares_gpu(self, slot: int | None) -> bool:
        """Whether a slot's GPU is also another's."""
        return slot is not None and bool(self.gpus) and self._sharing(slot) > 1

    def _sharing(self, slot: int) -> int:
        """How many slots have the GPU of this one."""
        return sum(self.gpu(other) == self.gpu(slot) for other in range(self.count))

    def environment(self, slot: int) -> dict[str, str]:
        """What a slot's worker has in its environment, from its start on."""
        gpu = self.gpu(slot)
        if gpu is not None:
            return gpus.environment_for(gpu)
        return {gpus.VISIBLE: gpus.NO_GPU} if self.are_hidden else {}

    @property
    def parents_environment(self) -> dict[str, str]:
        """What the parent has, so that a model that it tries is on a GPU of its trials', too."""
        if not self.gpus:
            return self.environment(0)
        ids = ",".join(gpu.id for gpu in self.gpus)
        return gpus.environment_for(self.gpus[0]) | {gpus.VISIBLE: ids, gpus.OWN: ""}

    @property
    def text(self) -> str:
        """Of GPUs, as a line for the user; empty where there are none."""
        if not self.gpus:
            return ""
        workers = f"{self.count} worker{'s' * (self.count > 1)}"
        if self.count == len(self.gpus):
            return f"{workers}, one GPU each" if self.count > 1 else f"{workers}, one GPU"
        return f"{workers} on {_of_gpus(len(self.gpus))}"


def _of_gpus(count: int) -> str:
    return f"{count} GPU{'s' * (count != 1)}"


def _chosen_gpus(option: Any, libraries: Sequence[str]) -> list[Gpu]:
    """Those that `hydra.launcher.gpus` means. Raises ConfigError for one that is not here."""
    if option is None:
        return _usable_gpus(libraries)
    if option == 0:
        return []
    here = gpus.visible_gpus()
    if option == ALL_GPUS:
        return here
    if isinstance(option, int):
        if option > len(here):
            problem = f"{option} are more than there are: {_listed(here)}"
            raise ConfigError(GPUS, f"{problem}; {ALL_GPUS} takes those, 0 none")
        return here[:option]
    return _with_numbers(list(option), here)


def _usable_gpus(libraries: Sequence[str]) -> list[Gpu]:
    """All, where trials compute with what can use them."""
    libraries = libraries or gpus.loaded_libraries()
    here = gpus.visible_gpus() if libraries else []
    if not here or any(map(gpus.can_use_gpus, libraries)):
        return here
    if "tensorflow" in libraries:
        log.warning("%s: none of %s is used: %s", GPUS, _of_gpus(len(here)), FOR_TENSORFLOW)
    return []


def _with_numbers(numbers: Sequence[Any], here: Sequence[Gpu]) -> list[Gpu]:
    """Those with these numbers; of a GPU that is divided all parts. CUDA_VISIBLE_DEVICES may have
    narrowed them down by their UUIDs."""
    chosen: list[Gpu] = []
    for number in numbers:
        found = [gpu for gpu in here if gpu.number == number]
        if not found:
            raise ConfigError(GPUS, f"{number} is none of those that are here: {_listed(here)}")
        if found[0] in chosen:
            problem = f"{number} stands there twice; hydra.launcher.per_gpu=2 shares each"
            raise ConfigError(GPUS, problem)
        chosen += found
    return chosen


def _listed(here: Sequence[Gpu]) -> str:
    """What is here, for an error; and why, where the environment hides some."""
    listed = ", ".join(f"{gpu.number} ({gpu.name})" for gpu in here) or "none that nvidia-smi lists"
    given = os.environ.get(gpus.VISIBLE)
    return listed if given is None else f"{listed}, by {gpus.VISIBLE}={given}"
