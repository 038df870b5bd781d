"""Which trials give configurations their further seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from support import parse_space

from cifar_hpo.metrics import replica_name
from cifar_hpo.study.ranking import FinishedTrial
from cifar_hpo.study.replication import Allocation, ReplicaPlan, Replicas, Replication
from cifar_hpo.trial import FAILED, FINISHED

SPACE = parse_space("model.filters=4,8").with_seeds("training.seed", range(10, 22, 3))
CONFIGURATIONS = [{"model.filters": 4}, {"model.filters": 8}]


def trial(filters: int, seed: int, value: float | None = 0.5) -> FinishedTrial:
    """One of three replicas."""
    metrics: dict[str, float] = {}
    if value is not None:
        metrics = {replica_name(place, "y"): value + place / 10 for place in range(3)}
    return FinishedTrial(
        number=seed,
        params={"model.filters": filters, "training.seed": seed},
        state=FINISHED if value is not None else FAILED,
        values=None if value is None else [value],
        metrics=metrics,
        error="",
        seconds=1.0,
        run_id="",
        worker=0,
        ended=0.0,
    )


class Asked:
    """What a `Replication` asks for, and the seeds that it is to answer with."""

    def __init__(self, *needed: int) -> None:
        self.needed = needed
        self.known: Sequence[Replicas] = ()

    def __call__(
        self, known: Sequence[Replicas], noted: ReplicaPlan, plan: ReplicaPlan
    ) -> Allocation:
        assert (noted, plan) == (ReplicaPlan(3, 9), ReplicaPlan(3, 12))
        self.known = known
        return Allocation(self.needed, [1], compared=2, lost=[0])


def next_cells(
    asked: Asked, finished: Sequence[FinishedTrial], running: Sequence[Mapping[str, int]] = ()
) -> list[Mapping[str, object]]:
    replication = Replication(
        SPACE, ReplicaPlan(3, 12), ReplicaPlan(3, 9), asked, replicas=3, metric="y"
    )
    seeds = replication.next_seeds(CONFIGURATIONS, finished, running)
    assert seeds.contenders == [{"model.filters": 8}]
    assert seeds.is_decided
    assert seeds.lost == [{"model.filters": 4}]
    return list(seeds.cells)


def test_seeds_of_all_replicas_are_known_and_the_next_trial_begins_behind_them() -> None:
    asked = Asked(0, 4)
    cells = next_cells(
        asked, [trial(8, 10), trial(4, 10, None)], [{"model.filters": 8, "training.seed": 13}]
    )
    assert cells == [{"model.filters": 8, "training.seed": seed} for seed in (16, 19)]
    lost, known = asked.known
    assert (lost.begun, lost.values, lost.is_complete) == (3, {}, False)
    assert (known.begun, known.running, known.is_complete) == (6, 3, True)
    assert known.values == {10: 0.5, 11: 0.6, 12: 0.7}


def test_a_first_seed_of_each_comes_before_the_second_of_any() -> None:
    cells = next_cells(Asked(6, 3), [trial(4, 10)])
    assert [(cell["model.filters"], cell["training.seed"]) for cell in cells] == [
        (8, 10),
        (4, 13),
        (4, 16),
    ]


def test_there_are_no_more_trials_than_seeds() -> None:
    assert len(next_cells(Asked(0, 90), [])) == 4
