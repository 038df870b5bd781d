"""What pruners find of a grid's best, and for how many of its epochs.

    python tests/benchmarks/pauses.py [--order random]
    python tests/benchmarks/pauses.py --store mlflow.db

27 configurations are trained for 8 epochs from five seeds, and their curves stored (`curves.json`)
in the order in which a sweep tries them, the longest first. For each seed and pruner a real sweep
replays their curves: its app reports an epoch's stored value where a training would come to it.
What the sweep finds is compared with the grid's best: by the values of the seed that it saw, and by
those of all five.

With --store the curves are read from MLflow's store of such a study, and written.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cifar_hpo.analysis.comparison import compare_study
from cifar_hpo.analysis.looks import Looks
from cifar_hpo.analysis.separation import separate
from cifar_hpo.study.storage import open_storage

STORED = Path(__file__).parent / "curves.json"
SEEDS, EPOCHS = 5, 8
KEYS = ("model.filters", "model.kernel_size", "optimizer.learning_rate")
COMMAND = (
    "python -m cifar_hpo -m model.filters=4,8,16 model.kernel_size=3,5,7 "
    "optimizer.learning_rate=0.0003,0.001,0.003 data=npz data.path=cifar10.npz "
    f"data.train_size=10000 training.epochs={EPOCHS} training.replicas={SEEDS} "
    "hydra.sweeper.study_name=curves"
)
PRUNERS = {
    "asha": ("asha", "min_resource=1", "reduction_factor=3"),
    "promotion": ("promotion",),
    "promotion, 1 of 4": ("promotion", "reduction_factor=4"),
    "first, top 3": ("first", "top=3"),
    "first, top 5": ("first", "top=5"),
}

APP = """
import json, hydra, cifar_hpo
from pathlib import Path

curves = json.loads(Path(STORED).read_text())["val_accuracy"]

@hydra.main(version_base="1.3", config_path=None)
def train(config):
    curve = curves[config.cell][config.of_seed]
    checkpoint = cifar_hpo.folder() / "epochs"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    for epoch in range(done + 1, len(curve) + 1):
        checkpoint.write_text(str(epoch))
        cifar_hpo.report(epoch, len(curve), curve[epoch - 1])
    return curve[-1]

if __name__ == "__main__":
    train()
"""

Curves = Mapping[str, list[list[float]]]
"""By configuration and seed, the accuracy on the validation images after each epoch."""


class Found(NamedTuple):
    """What a sweep found. share: of the grid's epochs that it trained."""

    cell: str
    share: float


def sweep(pruner: tuple[str, ...], seed: int, cells: list[str], order: str) -> Found:
    """A real sweep of the app over all cells."""
    name, *options = pruner
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "app.py").write_text(f"STORED = {str(STORED)!r}\n{APP}")
        command = [
            *(sys.executable, "app.py", "-m", "hydra/sweeper=study", "hydra/launcher=workers"),
            *(f"+cell={','.join(cells)}", f"+of_seed={seed}", f"hydra.sweeper.order={order}"),
            *("hydra.launcher.n_workers=2", "hydra.sweeper.direction=maximize"),
            *("hydra.sweeper.study_name=s", f"hydra.sweeper.sampler.seed={seed}"),
            f"hydra/sweeper/pruner={name}",
            *(f"hydra.sweeper.pruner.{option}" for option in options),
        ]
        environment = os.environ | {"MLFLOW_TRACKING_URI": ""}
        subprocess.run(command, cwd=here, env=environment, check=True, capture_output=True)
        storage = open_storage(f"sqlite:///{here}/mlruns/studies.db")
        best = compare_study("s", storage).finished[0]
        trained = sum(int(file.read_text()) for file in here.rglob("epochs"))
    return Found(str(best.params["+cell"]), trained / (len(cells) * EPOCHS))


def compare(curves: Curves, order: str) -> list[str]:
    """A line for each pruner: epochs, and how what it found stands beside the grid's best."""
    ends = {cell: [curve[-1] for curve in of_cell] for cell, of_cell in curves.items()}
    spread = statistics.median(statistics.stdev(values) for values in ends.values())
    lines = [f"standard deviation over seeds, in the median of the cells: {spread:.4f}"]
    for title, pruner in PRUNERS.items():
        shares, behind, same, worse = [], [], 0, 0
        for seed in range(SEEDS):
            found = sweep(pruner, seed, list(curves), order)
            shares.append(found.share)
            best = max(ends, key=lambda cell: ends[cell][seed])
            behind.append(ends[best][seed] - ends[found.cell][seed])
            same += found.cell == best
            worse += is_worse(ends, found.cell)
        share, gap = statistics.median(shares), statistics.median(behind)
        lines.append(
            f"{title}: {share:.0%} of the epochs in the median of {SEEDS} seeds; behind the grid's "
            f"best by {gap:.4f} in the median, {max(behind):.4f} at most; the same one {same} "
            f"times; shown to be worse by all seeds {worse} times"
        )
    return lines


def is_worse(ends: Mapping[str, list[float]], cell: str) -> bool:
    """Whether a cell is shown to be worse than the best, by all seeds of all cells."""
    cells = sorted(ends, key=lambda one: -statistics.fmean(ends[one]))
    groups = [dict(enumerate(ends[one])) for one in cells]
    separation = separate(groups, looks=Looks(SEEDS, SEEDS))
    return cells.index(cell) not in separation.unseparated


def store(database: Path) -> None:
    """Write the curves of the study's runs in MLflow."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{database.absolute()}")
    experiment = client.get_experiment_by_name("curves")
    if experiment is None:
        sys.exit(f"{database} has no experiment curves; {COMMAND} makes one")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    curves = {}
    for run in sorted(runs, key=lambda run: int(run.data.tags["trial"])):
        if run.info.status != "FINISHED":
            continue
        filters, kernel, rate = (run.data.params[key] for key in KEYS)
        cell = f"filters-{filters}-kernel-{kernel}-rate-{rate}"
        of_cell = []
        for replica in range(SEEDS):
            history = client.get_metric_history(run.info.run_id, f"replica_{replica}/val_accuracy")
            by_epoch = {metric.step: metric.value for metric in history}
            of_cell.append([round(by_epoch[epoch], 4) for epoch in range(1, EPOCHS + 1)])
        curves[cell] = of_cell
    lines = [f"  {json.dumps(cell)}: {json.dumps(curves[cell])}" for cell in curves]
    about = f' "command": {json.dumps(COMMAND)}'
    STORED.write_text(f'{{\n{about},\n "val_accuracy": {{\n' + ",\n".join(lines) + "\n }\n}\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--order", default="given", choices=("given", "random"))
    parser.add_argument("--store", type=Path, metavar="MLFLOW_DB")
    arguments = parser.parse_args()
    if arguments.store:
        store(arguments.store)
        return
    if not STORED.exists():
        sys.exit(f"{STORED.name} is not here: run {COMMAND}, then this with --store mlflow.db")
    curves = json.loads(STORED.read_text())["val_accuracy"]
    sys.stdout.write("\n".join(compare(curves, arguments.order)) + "\n")


if __name__ == "__main__":
    main()
