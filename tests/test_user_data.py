"""Data of a user's own, from a folder with nothing but their function: swept, resumed, refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import Run

FUNCTION = """
import numpy as np

def load(n, words=("cat", "dog")):
    open("calls", "a").write("x")
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    level = labels[:, None, None, None] * 100
    images = (level + rng.integers(0, 100, (n, 32, 32, 3))).astype(np.uint8)
    names = np.array(words)[labels]
    return (images, names), (images[:20], names[:20])
"""

GROUP = """
defaults: [function, _self_]
_target_: my_data.load
n: 60
"""

QUICK = ["training.epochs=1", "training.batch_size=20", "model.kernel_size=3", "model.filters=2"]


@pytest.fixture
def own_data(tmp_path: Path, store: None) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.cifar_hpo]\nallow = ["my_data"]\n')
    (tmp_path / "my_data.py").write_text(FUNCTION)
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "pets.yaml").write_text(GROUP)


@pytest.mark.long
def test_a_function_s_argument_is_swept_and_each_value_called_once(
    own_data: None, run: Run, tmp_path: Path
) -> None:
    command = ["-cd", "conf", "-m", "data=pets", "data.n=60,80", "data.split_seed=1", *QUICK]
    ended = run(*command)
    assert ended.returncode == 0, ended.stderr
    for value in (60, 80):
        assert f"data.n={value}: val_accuracy" in ended.stdout
    assert (tmp_path / "calls").read_text() == "xx"
    again = run(*command)
    assert again.returncode == 0, again.stderr
    assert "data.n=60: val_accuracy" not in again.stdout
    assert (tmp_path / "calls").read_text() == "xx"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.n=many", r"error: data: my_data.load raised TypeError: "),
        ("data.n=1", "error: data: my_data.load: all labels are cat, expected at least 2 classes"),
        ("data._target_=os.system", "error: data._target_: refused: a config does not call"),
    ],
)
def test_a_function_that_gives_none_ends_on_one_line(
    override: str, message: str, own_data: None, run: Run
) -> None:
    ended = run("-cd", "conf", "-m", "data=pets", override, "model.filters=2,4")
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.strip().splitlines()[-1].startswith(message)
    assert "Traceback" not in ended.stdout + ended.stderr


COMPUTING = """
import keras
import tensorflow as tf
import my_data

def load(n):
    tf.random.uniform((n,))
    return my_data.load(n)

class Plot(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        tf.random.uniform((1,))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "calling",
    [
        ["data=pets", "data._target_=my_computing.load"],
        [
            "data=synthetic",
            "data.train_size=60",
            "training.callbacks=[{_target_:my_computing.Plot}]",
        ],
    ],
)
def test_code_that_computes_while_it_is_prepared_does_so_with_the_threads_of_the_trial(
    calling: list[str], own_data: None, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.cifar_hpo]\nallow = ["my_computing"]\n')
    (tmp_path / "my_computing.py").write_text(COMPUTING)
    ended = run("-cd", "conf", *calling, "training.threads=1", *QUICK)
    assert ended.returncode == 0, ended.stderr
