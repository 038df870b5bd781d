"""A running sweep that is asked for something: `Controls` does it, and answers.

`with_added_values` is for the next command of a study that was given values while it ran.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from cifar_hpo.errors import ConfigError, StudyError, UserError, one_line
from cifar_hpo.study.dimensions import Choices, parse_element, parse_value
from cifar_hpo.study.space import Space, Value, identities
from cifar_hpo.study.turns import TurnLost
from cifar_hpo.sweep.plan import Plan
from cifar_hpo.workers.engine import Engine

if TYPE_CHECKING:  # Optuna is loaded with the study
    from cifar_hpo.study.control import Inbox, Request
    from cifar_hpo.study.study import Study

log = logging.getLogger(__name__)

Values = Mapping[str, Sequence[str]]
"""New values of a grid's keys, as an override writes them."""

Replan = Callable[[Sequence[str]], Plan]
"""Makes the plan once more, with further overrides at the end of the command line."""

HOW_TO_GO_ON = "the same command goes on from here"

MAX_SHOWN = 4
"""Keys or values of a space that an answer lists."""


class Controls:
    """Obeys what is asked of a sweep.

    plan: the sweep's, which `add` extends. is_stopping: whether no further trial is to start.
    """

    def __init__(
        self, plan: Plan, study: Study, inbox: Inbox, pool: Engine | None, replan: Replan | None
    ) -> None:
        self.plan = plan
        self.study = study
        self.inbox = inbox
        self.pool = pool
        self.replan = replan
        self._paused: float | None = None  # since when

    def obey(self, say: Callable[[str], object]) -> None:
        """Do what is asked, if anything is.

        say: tells whoever looks at the sweep. Raises KeyboardInterrupt where the sweep is to end.
        """
        request = self.inbox.look()
        if request is None:
            return
        try:
            text = self._obey(request)
        except (UserError, HydraException, OmegaConfBaseException, TurnLost) as error:
            self.inbox.answer(request, one_line(error).split(" See https://")[0], is_refused=True)
            return
        say(f"asked to {' '.join([request.what, *request.overrides])}: {text}")
        self.inbox.answer(request, text)
        if request.what == "stop" and not request.after_running:
            raise KeyboardInterrupt(f"stopped by another command; {HOW_TO_GO_ON}")

    def _obey(self, request: Request) -> str:
        """Do it, and say what follows."""
        match request.what:
            case "pause":
                return self._pause()
            case "resume":
                return self._resume()
            case "stop":
                return self._stop(after_running=request.after_running)
            case "enqueue":
                return self._enqueue(request)
            case "add":
                return self._add(request)
        raise StudyError(f"{request.what} is nothing that this version can be asked for")

    def _pause(self) -> str:
        if self._paused is not None:
            return "it is paused already"
        self._paused = time.monotonic()
        self.study.is_paused = True
        running = len(self.study.running)
        if self.pool is None or not self.pool.pause():
            return f"no trial starts, {_trials(running)} end"
        return f"no trial starts, {_trials(running)} next epoch's end and wait"

    def _resume(self) -> str:
        if self._paused is None:
            return "it was not paused"
        seconds = time.monotonic() - self._paused
        self._paused = None
        self.study.resume(seconds)
        if self.pool is not None:
            self.pool.resume(seconds)
        return f"goes on after {seconds:.0f} s"

    def _stop(self, *, after_running: bool) -> str:
        if not after_running:
            return f"stopped; {HOW_TO_GO_ON}"
        if self._paused is not None:
            self._resume()
        self.study.is_stopping = True
        return f"no trial starts any more, {_trials(len(self.study.running))} end"

    def _enqueue(self, request: Request) -> str:
        """Let a configuration be tried next."""
        wish: dict[str, Value] = {}
        for override in request.overrides:
            key, text = _parts(override)
            wish[_own_key(self.study.space, key)] = parse_value(text)
        with self.study.turn():
            return self.study.enqueue_next(wish)

    def _add(self, request: Request) -> str:
        """Give keys of a grid new values, as if the command line had had them."""
        study = self.study
        if not study.is_grid:
            sampler = study.options["sampler"]["name"]
            raise StudyError(f"it draws by {sampler} from a fixed space; a grid alone gains values")
        if study.is_shared:
            hint = "end its commands, and start them with the new values"
            raise StudyError(f"several commands may work on it, which know its values; {hint}")
        values = {}
        for override in request.overrides:
            key, texts = _new_values(override)
            own_key = _own_key(study.space, key)
            _refuse_unvaried(study.space, own_key)
            values[own_key] = texts
        if self.replan is None:
            raise StudyError("its configurations are those that the search has found")
        self.inbox.answer(request, "")
        before = study.space.n_configurations
        plan = extended_plan(self.plan, self.replan, values, study.name)
        added = plan.space.n_configurations - before
        if not added:
            return f"{', '.join(request.overrides)}: all of them were in the grid before"
        study.extend(plan.space, plan.meaning, plan.costs(), plan.left_out(), values)
        self.plan = plan
        known = identities(trial.params for trial in study.finished_trials())
        new = [cell for cell in plan.left_out() if cell not in known]
        left_out = f", {len(new)} of all are left out by constraints" if new else ""
        more = "1 configuration" if added == 1 else f"{added} configurations"
        return f"{more} more, {study.planned()} in all{left_out}"


def with_added_values(plan: Plan, replan: Replan) -> Plan:
    """The plan with the values that its study was given by `studies add` while it ran; they stay
    the study's, although the command line does not have them."""
    from cifar_hpo.study.control import added_values

    options = plan.options
    if options["sampler"]["name"] != "grid" or options["fresh"]:
        return plan
    name, values = added_values(options["storage"], plan.name, plan.earlier_name)
    new = {}
    for key, texts in values.items():
        part = plan.space.dimensions.get(key)
        if isinstance(part, Choices):
            new[key] = [text for text in texts if not part.has(parse_value(text))]
    new = {key: texts for key, texts in new.items() if texts}
    if not new:
        return plan
    listed = ", ".join(f"{key}={','.join(texts)}" for key, texts in new.items())
    log.info("with %s, which study %s was given while it ran", listed, name)
    return extended_plan(plan, replan, new, name)


def extended_plan(plan: Plan, replan: Replan, values: Values, study: str) -> Plan:
    """The plan with further values of a grid's keys, for the same study.

    Raises ConfigError for a value that the task refuses, Hydra's errors for one that can't be
    composed.
    """
    overrides = []
    for key, texts in values.items():
        known = list(plan.space.choices(key).values())
        overrides.append(f"{key}={','.join(dict.fromkeys([*known, *texts]))}")
    extended = replan(overrides)
    options = {**extended.options, "study_name": study}
    return dataclasses.replace(extended, options=options)


def _new_values(override: str) -> tuple[str, list[str]]:
    """A key, and its values as they are written. Raises ConfigError for what is neither."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    key, _ = _parts(override)
    (parsed,) = OverridesParser.create().parse_overrides([override])
    if not parsed.is_sweep_override():
        return key, [parse_element(key, override)[2]]
    if not parsed.is_discrete_sweep():
        raise ConfigError(key, f"{override}: a grid has values, no interval")
    return key, [str(value) for value in parsed.sweep_string_iterator()]


def _parts(override: str) -> tuple[str, str]:
    key, sign, text = override.partition("=")
    if not sign or not key or not text:
        raise ConfigError(override, "write key=value")
    return key, text


def _own_key(space: Space, key: str) -> str:
    """A key as the space has it, which may have a + before it."""
    for own in space.dimensions:
        if own.lstrip("+") == key.lstrip("+"):
            return own
    return key


def _refuse_unvaried(space: Space, key: str) -> None:
    """Raise ConfigError for a key that does not vary in a grid by itself."""
    if key not in space.dimensions:
        known = ", ".join(list(space.dimensions)[:MAX_SHOWN]) or "nothing"
        raise ConfigError(key, f"it is not in the space, which varies {known}")
    if key == space.seed_key:
        hint = "hydra.sweeper.replicas={most: N} allows more"
        raise ConfigError(key, f"seeds are added where they decide; {hint}")
    if key in space.listed_keys:
        raise ConfigError(key, "it varies by hydra.sweeper.cells, which lists configurations")


def _trials(count: int) -> str:
    """Who goes on to what follows: `2 trials go on to their`."""
    return "1 trial goes on to its" if count == 1 else f"{count} trials go on to their"
