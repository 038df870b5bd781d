"""Predictions of images: read, named by the champion or by a run's model, and told apart from what
is no image."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import cast

import mlflow
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from support import call_in, run_in

from cifar_hpo.errors import DataError, StudyError
from cifar_hpo.predict import as_input, main, open_image, prediction_table, value_table
from cifar_hpo.tracking.reader import ImageModel, LoadedModel


def loaded(shape: tuple[int, int, int] = (32, 32, 3), pixels: float | None = 255) -> LoadedModel:
    """What is known of a model that takes images of this shape and range."""
    return LoadedModel("it", cast(ImageModel, None), ["a", "b"], shape, pixels, "classes")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_any_picture_becomes_what_models_take(mode: str, tmp_path: Path) -> None:
    Image.new("RGB", (64, 40), (255, 255, 255)).convert(mode).save(tmp_path / "white.png")
    image = as_input(open_image(tmp_path / "white.png"), loaded())
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8
    assert (image == 255).all()


def test_a_picture_of_the_right_size_stays_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    assert np.array_equal(as_input(open_image(tmp_path / "noise.png"), loaded()), pixels)


@pytest.mark.parametrize(
    ("shape", "pixels", "white"),
    [((28, 28, 1), 255, 255), ((20, 48, 3), 1.0, 1), ((8, 8, 4), 255.0, 255)],
)
def test_a_picture_takes_the_size_the_channels_and_the_range_of_the_model(
    shape: tuple[int, int, int], pixels: float, white: float, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 40), (255, 255, 255)).save(tmp_path / "white.png")
    image = as_input(open_image(tmp_path / "white.png"), loaded(shape, pixels))
    assert image.shape == shape
    assert (image == white).all()


@pytest.mark.parametrize(
    ("shape", "pixels", "said"),
    [((8, 8, 3), None, "of a scale of their own"), ((8, 8, 7), 255, "with 7 channels")],
)
def test_a_model_that_no_picture_can_be_given_to_says_so(
    shape: tuple[int, int, int], pixels: float | None, said: str
) -> None:
    with pytest.raises(StudyError, match=f"it: it takes images {said}"):
        as_input(Image.new("RGB", (8, 8)), loaded(shape, pixels))


def test_what_is_no_image_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png does not exist"):
        open_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("x")
    with pytest.raises(DataError, match=r"text\.png: not an image \(cannot identify"):
        open_image(tmp_path / "text.png")
    with pytest.raises(DataError, match=r": not an image \(Is a directory\)"):
        open_image(tmp_path)


def test_an_image_too_large_to_unpack_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("RGB", (10, 10)).save(tmp_path / "large.png")
    with pytest.raises(DataError, match=r"large\.png: not an image \(Image size .* exceeds"):
        open_image(tmp_path / "large.png")


def shown(probabilities: list[list[float]], classes: list[str]) -> list[list[str]]:
    """The lines of the table, as words."""
    paths = [Path(f"{number}.png") for number in range(len(probabilities))]
    console = Console(width=100)
    with console.capture() as capture:
        console.print(prediction_table(paths, np.array(probabilities, np.float32), classes, "it"))
    return [line.split() for line in capture.get().splitlines()]


def test_the_three_likeliest_classes_are_named_the_likeliest_first() -> None:
    lines = shown([[0.1, 0.2, 0.5, 0.2], [1, 0, 0, 0]], ["cat", "[dog]", "owl", "yak"])
    assert lines[0] == ["by", "it"]
    assert lines[2] == ["0.png", "owl", "0.500", "[dog]", "0.200", "yak", "0.200"]
    assert lines[3][:3] == ["1.png", "cat", "1.000"]


def test_numbers_are_shown_by_their_names() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        values = np.array([[21.5, 0.25]], np.float32)
        console.print(value_table([Path("a.png")], values, ["age", "[x]"], "it"))
    lines = [line.split() for line in capture.get().splitlines()]
    assert lines[1:] == [["image", "age", "[x]"], ["a.png", "21.5", "0.25"]]


def test_of_two_classes_two_are_named() -> None:
    assert shown([[0.25, 0.75]], ["cat", "dog"])[2] == ["0.png", "dog", "0.750", "cat", "0.250"]


@pytest.mark.long
def test_prediction_by_the_champion_and_by_a_run(
    small: list[str], npz: Path, store: None, tmp_path: Path
) -> None:
    overrides = [*small, "model.filters=2", "hydra.sweeper.study_name=one"]
    swept = run_in(tmp_path, "-m", *overrides)
    assert swept.returncode == 0, swept.stderr
    with np.load(npz) as arrays:
        Image.fromarray(arrays["x_test"][0]).resize((64, 64)).save(tmp_path / "one.png")

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_in(tmp_path, *arguments, module="cifar_hpo.predict")

    by_champion = ask("one.png")
    assert by_champion.returncode == 0, by_champion.stderr
    assert "by cifar_hpo-small version 1, champion" in by_champion.stdout
    row = r"one\.png(?: +class \d 0\.\d{3}){3}"
    assert re.search(row, by_champion.stdout)

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    champion = client.get_model_version_by_alias("cifar_hpo-small", "champion")
    name = client.get_run(champion.run_id).info.run_name
    by_run = ask("one.png", "--run", champion.run_id)
    assert "".join(f"by run {name}".split()) in "".join(by_run.stdout.split())  # it is folded
    assert re.findall(row, by_run.stdout) == re.findall(row, by_champion.stdout)

    for arguments, error in {
        ("two.png",): "two.png does not exist",
        ("one.png", "--run", "nothing"): "there is no run nothing",
        ("one.png", "--model", "x"): "there is no champion x; there are: cifar_hpo-small",
    }.items():
        refused = call_in(tmp_path, main, *arguments)
        assert (refused.returncode, refused.stderr) == (2, f"error: {error}\n")
