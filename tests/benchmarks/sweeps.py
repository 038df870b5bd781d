"""A sweep of six trials, from process start to exit, against the plain loop of documentation.

    python tests/benchmarks/sweeps.py [--data FILE.npz] [--images 20000] [--epochs 3] [--isa AVX2]

Both sides train the same six models (filters 4, 8, 16 × adam, sgd; kernel 3) on the same images,
validate after each epoch on 5,000, score 10,000 test images once, and leave params, curves and the
Keras model in a new MLflow store. The loop runs twice: with `mlflow.keras.log_model` as it comes,
and with `pip_requirements` given, which spares MLflow six seconds a model. It has TensorFlow's own
switches, which leave oneDNN off on AVX2. Run by hand, with nothing else running; the README quotes
it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import instruction_set
import numpy as np
from rich.console import Console
from rich.table import Table

from cifar_hpo.data.synthetic import synthetic

LOOP = """
import sys
import keras, mlflow, numpy as np

path, images, epochs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
pinned = sys.argv[4] == "pinned"
arrays = np.load(path)
x, y, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
x, x_test = x / 255.0, x_test / 255.0
x_val, y_val = x[-5000:], y[-5000:]
x, y = x[:images], y[:images]
mlflow.set_tracking_uri("sqlite:///mlflow.db")
mlflow.set_experiment("loop")
requirements = {"pip_requirements": ["tensorflow", "keras", "numpy"]} if pinned else {}
for filters in (4, 8, 16):
    for optimizer in ("adam", "sgd"):
        with mlflow.start_run(run_name=f"filters={filters}, optimizer={optimizer}"):
            mlflow.log_params({"filters": filters, "optimizer": optimizer, "epochs": epochs})
            model = keras.Sequential([
                keras.Input((32, 32, 3)),
                keras.layers.Conv2D(filters, 3, padding="same", activation="relu"),
                keras.layers.MaxPooling2D(),
                keras.layers.Conv2D(2 * filters, 3, padding="same", activation="relu"),
                keras.layers.MaxPooling2D(),
                keras.layers.Conv2D(4 * filters, 3, padding="same", activation="relu"),
                keras.layers.Flatten(),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(10, activation="softmax"),
            ])
            model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
            history = model.fit(
                x, y, epochs=epochs, batch_size=32, validation_data=(x_val, y_val), verbose=0
            )
            for name, values in history.history.items():
                for epoch, value in enumerate(values):
                    mlflow.log_metric(name, value, step=epoch)
            loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
            mlflow.log_metrics({"test_loss": loss, "test_accuracy": accuracy})
            mlflow.keras.log_model(model, name="model", **requirements)
"""


def seconds(command: list[str], folder: Path, switches: dict[str, str]) -> float:
    """Wall time of a process in a new folder; what it prints goes to a file there."""
    folder.mkdir(parents=True)
    environment = os.environ | switches
    environment.pop("MLFLOW_TRACKING_URI", None)
    started = time.perf_counter()
    with (folder / "output.txt").open("w") as output:
        subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            check=True,
        )
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="an .npz as data=npz takes it; synthetic images unless said"
    )
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--ours-alone", action="store_true", help="leave the loops out")
    parser.add_argument("--no-bf16", action="store_true", help="leave bfloat16 out")
    instruction_set.add_option(parser)
    given = parser.parse_args()
    computes_with = instruction_set.use(given.isa)
    with tempfile.TemporaryDirectory() as made:
        folder, path = Path(made), given.data and given.data.absolute()
        if path is None:
            (x_train, y_train), (x_test, y_test) = synthetic(50_000, 10_000)
            path = folder / "synthetic.npz"
            np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
        (folder / "loop.py").write_text(LOOP)
        loop = [str(folder / "loop.py"), str(path), str(given.images), str(given.epochs)]
        space = ["model.filters=4,8,16", "optimizer=adam,sgd", "model.kernel_size=3"]
        sweep = [
            "-m",
            "cifar_hpo",
            "-m",
            *space,
            "data=npz",
            f"data.path={path}",
            f"data.train_size={given.images}",
            f"training.epochs={given.epochs}",
        ]
        loops = {"plain loop": [*loop, "default"], "with pip_requirements": [*loop, "pinned"]}
        if given.ours_alone:
            loops = {}
        commands = loops | {"cifar_hpo, float32": sweep}
        if not given.no_bf16:
            commands["cifar_hpo, bf16"] = [*sweep, "training.precision=mixed_bfloat16"]
        taken: dict[str, float] = {}
        for name, command in commands.items():
            switches = instruction_set.by_default(given.isa) if name in loops else {}
            taken[name] = seconds(command, folder / str(len(taken)), switches)
    table = Table("what", "seconds", *("ratio to the " + name for name in loops), box=None)
    for name, time_taken in taken.items():
        ratios = (f"{taken[loop] / time_taken:.2f}" for loop in loops)
        table.add_row(name, f"{time_taken:.1f}", *ratios)
    what = f"six trials of {given.images:,} images, {given.epochs} epochs"
    Console().print(f"{what}, {os.cpu_count()} cores, {computes_with}", table)


if __name__ == "__main__":
    main()
